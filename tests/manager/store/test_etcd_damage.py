"""Damaged and lost data of a real etcd member: what is wrong is told, and a member never runs, or votes, with it."""

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyswarm_common.errors import Unavailable
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.damage import (
    DataDamaged,
    DataLost,
    MemberRemoved,
    Verdict,
    forget_data,
    has_served,
    judge_exit,
    missing_data,
    set_data_aside,
)
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.store.backend import Put

EtcdCluster = Callable[[int], list[EtcdSettings]]
Damage = Callable[[Path], None]


def last_log(member_dir: Path) -> Path:
    return sorted((member_dir / "wal").glob("*.wal"))[-1]


def flip_bytes(path: Path, offset: int, count: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(byte ^ 0xFF for byte in content[offset : offset + count])
    path.write_bytes(content)


def used_bytes(log: Path) -> int:
    return len(log.read_bytes().rstrip(b"\0"))


def flip_in_the_log(member_dir: Path) -> None:
    log = last_log(member_dir)
    flip_bytes(log, used_bytes(log) // 2, 16)


def flip_the_log_head(member_dir: Path) -> None:
    flip_bytes(last_log(member_dir), 4, 16)


def cut_the_database(member_dir: Path) -> None:
    os.truncate(member_dir / "snap" / "db", 5000)


def overwrite_the_database_head(member_dir: Path) -> None:
    flip_bytes(member_dir / "snap" / "db", 0, 8192)


def overwrite_the_database(member_dir: Path) -> None:
    database = member_dir / "snap" / "db"
    with database.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(database.stat().st_size - 8192))


def remove_the_log(member_dir: Path) -> None:
    shutil.rmtree(member_dir / "wal")


def empty_the_log(member_dir: Path) -> None:
    for log in (member_dir / "wal").glob("*.wal"):
        os.truncate(log, 0)


def remove_everything(member_dir: Path) -> None:
    shutil.rmtree(member_dir.parent.parent)


async def fill(settings: EtcdSettings, count: int = 50) -> None:
    async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
        for index in range(count):
            await client.commit([], [Put(f"k{index}", os.urandom(300))])


@pytest.mark.kernel
@pytest.mark.parametrize(
    "damage",
    [
        flip_in_the_log,
        flip_the_log_head,
        cut_the_database,
        overwrite_the_database_head,
        overwrite_the_database,
    ],
)
async def test_damaged_data_is_named(etcd_cluster: EtcdCluster, damage: Damage) -> None:
    (settings,) = etcd_cluster(1)
    await fill(settings)
    damage(settings.etcd_dir / "member")
    member = EtcdMember(settings)
    with pytest.raises(DataDamaged) as caught:
        await member.start()
    assert member.pid is None
    assert caught.value.data_dir == settings.data_dir
    print(f"{damage.__name__}: {caught.value.reason}")
    assert caught.value.reason


@pytest.mark.kernel
@pytest.mark.parametrize("damage", [remove_the_log, empty_the_log, remove_everything])
async def test_a_member_that_lost_its_log_is_not_started(etcd_cluster: EtcdCluster, damage: Damage) -> None:
    (settings,) = etcd_cluster(1)
    await fill(settings, 1)
    damage(settings.etcd_dir / "member")
    member = EtcdMember(settings)
    with pytest.raises(DataLost):
        await member.start()
    assert member.restarts == 0, "it never ran"


@pytest.mark.kernel
async def test_damage_done_while_it_runs_ends_it(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    async with EtcdMember(settings) as member:
        shutil.rmtree(settings.etcd_dir / "member" / "wal")
        member.kill()
        async with asyncio.timeout(10):
            with pytest.raises(DataLost):
                await member.wait_failed()
    assert member.pid is None


@pytest.mark.kernel
async def test_a_follower_that_lost_the_end_of_its_log_is_told_from_a_crash(etcd_cluster: EtcdCluster) -> None:
    members = [EtcdMember(settings) for settings in etcd_cluster(3)]
    try:
        await asyncio.gather(*(member.start() for member in members))
        async with EtcdClient(members[0].socket_path) as client:
            await write_until_accepted(client, "a")
            leader_id = (await client.status()).leader_id
            names = {int(m.ID): m.name for m in await client.members()}
        follower = next(m for m in members if m.settings.name != names[leader_id])
        await follower.stop()
        log = last_log(follower.settings.etcd_dir / "member")
        os.truncate(log, used_bytes(log) // 2)
        async with asyncio.timeout(20):
            with pytest.raises(DataDamaged, match=r"Was the raft log corrupted, truncated, or lost|tocommit\("):
                await run_until_failed(follower)
    finally:
        await asyncio.gather(*(member.stop() for member in members))


@pytest.mark.kernel
async def test_a_removed_member_is_told_from_a_damaged_one(etcd_cluster: EtcdCluster) -> None:
    members = [EtcdMember(settings) for settings in etcd_cluster(3)]
    removed = members[2]
    try:
        await asyncio.gather(*(member.start() for member in members))
        async with EtcdClient(members[0].socket_path) as client:
            await remove(client, removed.settings.name)
        async with asyncio.timeout(20):
            with pytest.raises(MemberRemoved):
                await removed.wait_failed()
        await removed.stop()
        with pytest.raises(MemberRemoved):
            await run_until_failed(removed)
    finally:
        await asyncio.gather(*(member.stop() for member in members))


@pytest.mark.kernel
async def test_a_forced_new_cluster_keeps_the_data_and_ends_the_former_majority(etcd_cluster: EtcdCluster) -> None:
    members = [EtcdMember(settings) for settings in etcd_cluster(3)]
    survivor = EtcdMember(replace(members[0].settings, forces_a_new_cluster=True))
    try:
        await asyncio.gather(*(member.start() for member in members))
        async with EtcdClient(members[0].socket_path) as client:
            await write_until_accepted(client, "before")
        await asyncio.gather(*(member.stop() for member in members))
        async with survivor, EtcdClient(survivor.socket_path) as client:
            assert [m.name for m in await client.members()] == ["m0"]
        async with survivor:
            pass  # killed before it was noted as done, it is forced again
        await members[0].start()
        async with EtcdClient(members[0].socket_path) as client:
            assert (await client.read("before")).entry is not None
            await write_until_accepted(client, "after")
        for former in members[1:]:
            with pytest.raises(MemberRemoved):
                await run_until_failed(former)
        async with EtcdClient(members[0].socket_path) as client:
            assert (await client.read("after")).entry is not None
    finally:
        await asyncio.gather(*(member.stop() for member in members))


async def run_until_failed(member: EtcdMember) -> None:
    async with asyncio.timeout(20):
        await member.start()
        await member.wait_failed()


async def write_until_accepted(client: EtcdClient, key: str) -> None:
    while True:
        try:
            await client.commit([], [Put(key, b"1")])
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return


async def remove(client: EtcdClient, name: str) -> None:
    member_id = next(int(m.ID) for m in await client.members() if m.name == name)
    while any(int(m.ID) == member_id for m in await client.members()):
        try:
            await client.remove_member(member_id)
        except Unavailable:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("code", "log", "verdict"),
    [
        (1, '{"level":"fatal","msg":"discovery failed","error":"walpb: crc mismatch"}', Verdict.DAMAGED),
        (1, '{"level":"fatal","msg":"discovery failed","error":"member count is unequal"}', Verdict.RESTART),
        (2, "panic: failed to open database\n\ngoroutine 1", Verdict.DAMAGED),
        (2, '{"error":"open db: no space left on device"}\npanic: failed to open database\n', Verdict.RESTART),
        (2, "panic: something new\n\ngoroutine 1", Verdict.PANICKED),
        (-9, '{"error":"walpb: crc mismatch"}', Verdict.RESTART),
        (0, '{"error":"the member has been permanently removed from the cluster"}', Verdict.REMOVED),
        (0, "", Verdict.RESTART),
        (1, "bind: address already in use", Verdict.RESTART),
    ],
)
def test_exits_are_judged_by_their_words(code: int, log: str, verdict: Verdict) -> None:
    assert judge_exit(code, log)[0] is verdict


def test_data_set_aside_makes_room_for_a_new_member(tmp_path: Path) -> None:
    data_dir = tmp_path / "etcd"
    (data_dir / "member-data" / "member" / "wal").mkdir(parents=True)
    (data_dir / "member-data" / "member" / "wal" / "0.wal").write_bytes(b"x")
    (tmp_path / "etcd.bootstrapped").touch()
    (tmp_path / "etcd.damaged-20200101T000000").mkdir()
    assert missing_data(data_dir / "member-data") is None
    assert has_served(data_dir)
    aside = set_data_aside(data_dir)
    assert aside is not None
    assert (aside / "member-data" / "member" / "wal" / "0.wal").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == [aside.name], "one is kept"
    assert not has_served(data_dir)
    assert set_data_aside(data_dir) is None
    forget_data(data_dir)
