"""The store on real members, with what happens to real machines: kills at any moment, elections, frozen members."""

import asyncio
import dataclasses
import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from pyswarm_common.clock import SystemClock
from pyswarm_common.errors import OutcomeUnknown, Unavailable
from pyswarm_common.objects import Service
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.etcd_backend import EtcdBackend
from pyswarm_manager.store.store import Store

pytestmark = pytest.mark.kernel

EtcdCluster = Callable[[int], list[EtcdSettings]]


@asynccontextmanager
async def running_store(member: EtcdMember, data_keys: DataKeys) -> AsyncIterator[Store]:
    async with EtcdClient(member.socket_path) as client:
        store = Store(EtcdBackend(client), data_keys, member.settings.name, SystemClock(), on_leader_hang=member.kill)
        task = asyncio.create_task(store.run())
        await store.wait_loaded()
        try:
            yield store
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def count_up_for_ever(store: Store, name: str, acknowledged: dict[str, int]) -> None:
    """Create a service and count its generation up; each number that is acknowledged is noted."""
    while True:
        try:
            await store.wait_leader()
            acknowledged[name] = await store.update(lambda tx: count_up(tx.services.get(name), tx.create, tx.update, name))
        except OutcomeUnknown:
            acknowledged[name + " unknown"] = acknowledged.get(name + " unknown", 0) + 1
        except Unavailable:
            await asyncio.sleep(0.01)


def count_up(service: Service | None, create: Callable[[Service], Service], update: Callable[[Service], Service], name: str) -> int:
    if service is None:
        return create(Service(id=name, spec_generation=1)).spec_generation
    return update(msgspec.structs.replace(service, spec_generation=service.spec_generation + 1)).spec_generation


async def wait_progress(acknowledged: dict[str, int], name: str, more: int) -> None:
    target = acknowledged.get(name, 0) + more
    await wait_for(lambda: acknowledged.get(name, 0) >= target)


async def wait_for(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait for something that only looking can tell."""
    for _ in range(round(timeout_s / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("what was waited for did not happen")


async def freeze(pid: int) -> None:
    """SIGSTOP a process, and see that all its threads have stopped."""
    os.kill(pid, signal.SIGSTOP)
    threads = [thread / "stat" for thread in Path(f"/proc/{pid}/task").iterdir()]
    await wait_for(lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads))


async def test_one_member_serves_and_keeps_everything_at_rest_secret(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    keys = DataKeys.generate()
    async with EtcdMember(settings) as member, running_store(member, keys) as store:
        await store.wait_leader()
        with store.watch(Service) as subscription:
            made = await store.update(lambda tx: tx.create(Service(id="a", name="very-secret-name")))
            assert [change.after for change in await anext(subscription)] == [made]
        await store.read_index()
        async with EtcdClient(member.socket_path) as client:
            page = await client.read_page("")
            assert all(entry.key.startswith("pyswarm/") for entry in page.entries)
            assert not any(b"very-secret-name" in entry.value for entry in page.entries)
        index = store.version_index(made)
    async with EtcdMember(settings) as member, running_store(member, keys) as store:
        assert store.view.services.must_get("a") == made
        assert store.version_index(made) == index


async def test_killing_etcd_loses_nothing_that_was_acknowledged(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    keys = DataKeys.generate()
    acknowledged: dict[str, int] = {}
    async with EtcdMember(settings) as member:
        async with running_store(member, keys) as store:
            writers = [asyncio.create_task(count_up_for_ever(store, name, acknowledged)) for name in "abcd"]
            for _ in range(4):
                await wait_progress(acknowledged, "a", 50)
                member.kill()
            await wait_progress(acknowledged, "a", 10)
            for writer in writers:
                writer.cancel()
            await asyncio.wait(writers)
            check_counts({name: store.view.services.must_get(name).spec_generation for name in "abcd"}, acknowledged)
        member.kill()
    async with EtcdMember(settings) as member, running_store(member, keys) as store:
        check_counts({name: store.view.services.must_get(name).spec_generation for name in "abcd"}, acknowledged)


def check_counts(counts: dict[str, int], acknowledged: dict[str, int]) -> None:
    """Every acknowledged count is there; beyond it only what its caller was told to be unknown (or cancelled: one)."""
    for name, count in counts.items():
        unknown = acknowledged.get(name + " unknown", 0)
        assert acknowledged[name] <= count <= acknowledged[name] + unknown + 1, (name, counts, acknowledged)


_MANAGER = """
import asyncio, pickle, sys
sys.path.insert(0, sys.argv[1])
from test_store_on_etcd import EtcdMember, count_up_for_ever, running_store

class Printed(dict):
    def __setitem__(self, key, value):
        print(key, value, flush=True)

async def main():
    settings, keys = pickle.load(sys.stdin.buffer)
    from pyswarm_manager.store.envelope import DataKeys
    async with EtcdMember(settings) as member, running_store(member, DataKeys(*keys)) as store:
        await asyncio.gather(*(count_up_for_ever(store, name, Printed()) for name in "ab"))

import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main())
"""


async def test_killing_the_manager_loses_nothing_that_was_acknowledged(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    keys = DataKeys.generate()
    acknowledged: dict[str, int] = {}
    for round_ in range(3):
        manager = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _MANAGER, os.path.dirname(__file__)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert manager.stdin is not None
        assert manager.stdout is not None
        manager.stdin.write(pickle.dumps((settings, (keys.keys, keys.active_id))))
        manager.stdin.close()
        async with asyncio.timeout(30):
            for _ in range(200):
                note(await manager.stdout.readline(), acknowledged, round_)
        manager.kill()
        for line in (await manager.stdout.read()).splitlines(keepends=True):
            note(line, acknowledged, round_)
        await manager.wait()
    async with EtcdMember(settings) as member, running_store(member, keys) as store:
        for name in "ab":
            count = store.view.services.must_get(name).spec_generation
            assert acknowledged[name] <= count <= acknowledged[name] + 1


def note(line: bytes, acknowledged: dict[str, int], round_: int) -> None:
    """Take in `NAME COUNT`; counts go up one by one within a round, and never back."""
    if not line.endswith(b"\n"):
        return
    name, count = line.decode().rsplit(" ", 1)
    before = acknowledged.get(name, 0)
    assert before < int(count) <= before + 2, (round_, line, acknowledged)
    acknowledged[name] = int(count)


async def test_a_full_member_is_brought_back_to_work(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    settings = dataclasses.replace(settings, quota_bytes=16 << 20)
    large = bytes(900_000)
    acknowledged = 0
    async with EtcdMember(settings) as member, running_store(member, DataKeys.generate()) as store:
        await store.wait_leader()
        await store.update(lambda tx: tx.create(Service(id="a")))
        has_been_full = asyncio.create_task(wait_for(lambda: store.has_alarm, 30))
        async with asyncio.timeout(60):
            while not has_been_full.done():
                with suppress(Unavailable):
                    await store.wait_leader()
                    await store.update(lambda tx: tx.update(Service(id="a", spec_json=large)))
                    acknowledged += 1
            await has_been_full
            await wait_for(lambda: not store.has_alarm, 30)
            await store.wait_leader()
            await store.update(lambda tx: tx.create(Service(id="b")))
        assert acknowledged > 5
        assert {s.id for s in store.view.services} == {"a", "b"}
        async with EtcdClient(member.socket_path) as client:
            assert (await client.status()).file_bytes < settings.quota_bytes // 2


@asynccontextmanager
async def three_managers(etcd_cluster: EtcdCluster) -> AsyncIterator[tuple[list[EtcdMember], list[Store]]]:
    keys = DataKeys.generate()
    members = [EtcdMember(settings) for settings in etcd_cluster(3)]
    async with AsyncExitStack() as stack:
        for member in members:
            stack.push_async_callback(member.stop)
        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(member.start())
        stores = [await stack.enter_async_context(running_store(member, keys)) for member in members]
        yield members, stores


async def wait_any_leader(stores: list[Store]) -> int:
    """Return the index of the first of these stores that leads."""
    waiting = [asyncio.ensure_future(store.wait_leader()) for store in stores]
    async with asyncio.timeout(15):
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    leader = next(i for i, task in enumerate(waiting) if task.done())
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    return leader


async def test_the_fence_follows_the_raft_leader(etcd_cluster: EtcdCluster) -> None:
    async with three_managers(etcd_cluster) as (members, stores):
        leader = await wait_any_leader(stores)
        await stores[leader].update(lambda tx: tx.create(Service(id="a")))
        others = [i for i in range(3) if i != leader]
        await stores[others[0]].read_index()
        assert "a" in stores[others[0]].view.services

        lost = await stores[leader].wait_leader()
        async with EtcdClient(members[leader].socket_path) as client, EtcdClient(members[others[0]].socket_path) as target:
            await client.move_leader((await target.status()).member_id)
        async with asyncio.timeout(5):
            await stores[others[0]].wait_leader()
            await lost.wait_lost()
        assert not stores[leader].is_leader

        leader, other = others[0], others[1]
        killed_s = time.monotonic()
        await members[leader].stop()
        survivors = [i for i in range(3) if i != leader]
        new = survivors[await wait_any_leader([stores[i] for i in survivors])]
        await stores[new].update(lambda tx: tx.create(Service(id="b")))
        assert time.monotonic() - killed_s < 5
        await stores[other].read_index()
        assert {s.id for s in stores[other].view.services} == {"a", "b"}
        assert stores[other].leader_node_id == members[new].settings.name


async def test_a_frozen_raft_leader_is_replaced_and_writes_nothing_afterwards(etcd_cluster: EtcdCluster) -> None:
    async with three_managers(etcd_cluster) as (members, stores):
        leader = await wait_any_leader(stores)
        old = await stores[leader].wait_leader()
        pid = members[leader].pid
        assert pid is not None
        await freeze(pid)
        late = asyncio.ensure_future(stores[leader].update(lambda tx: tx.create(Service(id="late"))))
        survivors = [i for i in range(3) if i != leader]
        new = survivors[await wait_any_leader([stores[i] for i in survivors])]
        await stores[new].update(lambda tx: tx.create(Service(id="new")))
        async with asyncio.timeout(6):
            await old.wait_lost()
        with pytest.raises(Unavailable):
            await late
        os.kill(pid, signal.SIGCONT)
        await wait_for(lambda: "new" in stores[leader].view.services)
        await stores[new].read_index()
        assert {s.id for s in stores[new].view.services} == {"new"}
        assert not stores[leader].is_leader


async def test_without_a_majority_writes_fail_at_once_and_reads_go_on(etcd_cluster: EtcdCluster) -> None:
    async with three_managers(etcd_cluster) as (members, stores):
        leader = await wait_any_leader(stores)
        await stores[leader].update(lambda tx: tx.create(Service(id="a")))
        held = await stores[leader].wait_leader()
        for i in range(3):
            if i != leader:
                await members[i].stop()
        async with asyncio.timeout(6):
            await held.wait_lost()
        with pytest.raises(Unavailable, match="does not have a leader"):
            await stores[leader].update(lambda tx: tx.create(Service(id="b")))
        started_s = time.monotonic()
        await stores[leader].read_index()
        assert time.monotonic() - started_s < 1.5
        assert "a" in stores[leader].view.services
