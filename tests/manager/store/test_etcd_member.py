"""The supervised etcd child: starting, dying, restarting, stopping, and what it refuses."""

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyswarm_common.errors import FailedPrecondition, OutcomeUnknown, Unavailable
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.member import LOG_LIMIT_BYTES, EtcdMember, end_left_behind, free_peer_port
from pyswarm_manager.etcd.settings import EtcdSettings, check_version, refuse_unfit_version
from pyswarm_manager.store.backend import Put

EtcdCluster = Callable[[int], list[EtcdSettings]]


@pytest.mark.parametrize("version", ["3.5.0", "3.5.5"])
def test_versions_that_corrupt_data_are_refused(version: str) -> None:
    with pytest.raises(FailedPrecondition, match="can corrupt its data"):
        refuse_unfit_version(version)


@pytest.mark.parametrize("version", ["3.4.21", "3.3.27", "2.3.8", "4.0.0"])
def test_unknown_versions_are_refused(version: str) -> None:
    with pytest.raises(FailedPrecondition, match="is not supported"):
        refuse_unfit_version(version)


@pytest.mark.parametrize("version", ["3.4.22", "3.4.23", "3.5.6", "3.5.30", "3.6.1"])
def test_sound_versions_are_accepted(version: str) -> None:
    refuse_unfit_version(version)


async def test_a_missing_etcd_is_named() -> None:
    with pytest.raises(FailedPrecondition, match="no-such-etcd is not installed"):
        await check_version("no-such-etcd")


def test_the_next_free_port_is_taken() -> None:
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        assert free_peer_port("127.0.0.1", port) > port
    assert free_peer_port("127.0.0.1", port) == port


def test_long_socket_paths_are_refused(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    too_long = EtcdSettings(
        name="a",
        data_dir=settings.data_dir,
        runtime_dir=Path("/run") / ("x" * 100),
        peer_address="127.0.0.1",
        certificate_path=settings.certificate_path,
        key_path=settings.key_path,
        root_path=settings.root_path,
    )
    with pytest.raises(FailedPrecondition, match="too long"):
        too_long.check()


@pytest.mark.kernel
async def test_a_member_keeps_its_data_over_a_stop(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
        assert (await client.version()).startswith("3.")
        assert stat.S_IMODE(settings.runtime_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
        revision = (await client.commit([], [Put("a", b"1")])).revision
        pid = member.pid
        assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    settings.log_path.write_bytes(bytes(LOG_LIMIT_BYTES + 1))
    async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
        assert (await client.read("a")).entry == ("a", b"1", revision)
        assert settings.log_path.stat().st_size < LOG_LIMIT_BYTES


@pytest.mark.kernel
async def test_a_killed_member_is_restarted(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
        for count in range(1, 4):
            await client.commit([], [Put("a", str(count).encode())])
            first_pid = member.pid
            member.kill()
            await wait_restarted(member, client, first_pid)
            assert member.restarts == count
            reading = await client.read("a")
            assert reading.entry is not None
            assert reading.entry.value == str(count).encode()


async def wait_restarted(member: EtcdMember, client: EtcdClient, old_pid: int | None) -> None:
    for _ in range(500):
        with contextlib.suppress(Unavailable):
            if member.pid != old_pid and (await client.status()).leader_id != 0:
                return
        await asyncio.sleep(0.02)
    raise AssertionError("the member was not restarted")


@pytest.mark.kernel
async def test_an_unfinished_first_start_is_begun_anew(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    (settings.etcd_dir / "member" / "snap").mkdir(parents=True)
    (settings.etcd_dir / "member" / "snap" / "left").write_text("by a start that was killed")
    async with EtcdMember(settings), EtcdClient(str(settings.socket_path)) as client:
        await client.commit([], [Put("a", b"1")])
    assert (settings.data_dir / "member-data.unfinished" / "member" / "snap" / "left").exists()
    async with EtcdMember(settings), EtcdClient(str(settings.socket_path)) as client:
        assert (await client.read("a")).entry is not None, "what has served once is never set aside"


@pytest.mark.kernel
async def test_a_member_that_cannot_start_says_why(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.peer_port))
        taken.listen()
        member = EtcdMember(settings)
        with pytest.raises(Unavailable, match="address already in use"):
            await member.start()
    assert member.pid is None
    await member.start()
    await member.stop()
    await member.stop()


@pytest.mark.kernel
async def test_a_write_to_a_frozen_member_has_an_unknown_outcome(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
        assert member.pid is not None
        watch = client.watch(1)
        first = (await client.commit([], [Put("a", b"1")])).revision
        assert [event.mod_revision for event in await anext(watch)] == [first]
        os.kill(member.pid, signal.SIGSTOP)
        silent = asyncio.ensure_future(anext(watch))
        with pytest.raises(OutcomeUnknown):
            await client.commit([], [Put("a", b"2")])
        with pytest.raises(Unavailable):
            await client.read("a")
        async with asyncio.timeout(4):
            with pytest.raises(Unavailable, match="silent"):
                await silent
        os.kill(member.pid, signal.SIGCONT)


@pytest.mark.kernel
async def test_a_quiet_watch_is_not_a_silent_one(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
        watch = client.watch(1)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(4)  # longer than the silence that ends a watch
        assert not waiting.done()
        result = await client.commit([], [Put("a", b"1")])
        assert [event.mod_revision for event in await waiting] == [result.revision]
        await watch.aclose()


@pytest.mark.kernel
async def test_a_refused_connection_is_no_unknown_outcome(etcd_directory: Path) -> None:
    async with EtcdClient(str(etcd_directory / "nobody:0")) as client:
        with pytest.raises(Unavailable) as caught:
            await client.commit([], [Put("a", b"1")])
        assert not isinstance(caught.value, OutcomeUnknown)


_PARENT = """
import asyncio, pickle, sys
from pyswarm_manager.etcd.member import EtcdMember

async def main():
    async with EtcdMember(pickle.load(sys.stdin.buffer)) as member:
        print(member.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.kernel
async def test_the_child_dies_with_its_parent(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PARENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(pickle.dumps(settings))
    parent.stdin.close()
    child = int(await parent.stdout.readline())
    pidfd = os.pidfd_open(child)
    parent.kill()
    await parent.wait()
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, gone.set)
    async with asyncio.timeout(5):
        await gone.wait()
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)
    async with EtcdMember(settings) as member:
        assert member.pid != child


@pytest.mark.kernel
async def test_a_member_left_behind_is_ended(etcd_cluster: EtcdCluster) -> None:
    (settings,) = etcd_cluster(1)
    settings.runtime_dir.mkdir(parents=True)
    settings.data_dir.mkdir(parents=True)
    command = settings.command()
    orphan = await asyncio.create_subprocess_exec(
        *command[3:], cwd=settings.runtime_dir, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    async with EtcdMember(settings) as member:
        assert await orphan.wait() == -signal.SIGKILL
        end_left_behind(settings.data_dir)
        assert member.restarts == 0
        assert member.pid is not None
