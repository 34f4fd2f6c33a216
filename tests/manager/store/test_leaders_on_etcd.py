"""Leaders that go, are paused, or hang, on real members: who writes afterwards, and how soon."""

import asyncio
import contextlib
import itertools
import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from pyswarm_common.errors import NotDone, OutcomeUnknown, Unavailable
from pyswarm_common.objects import Service
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.store import Store

sys.path.append(str(Path(__file__).parent))
from test_store_on_etcd import running_store, three_managers, wait_any_leader, wait_for

pytestmark = pytest.mark.kernel

EtcdCluster = Callable[[int], list[EtcdSettings]]
_log = structlog.get_logger()


async def create_wherever_the_leader_is(stores: list[Store], created: list[tuple[float, str]]) -> None:
    """Create service after service; each that is acknowledged is noted with its time."""
    for number in range(1_000_000):
        while True:
            leader = next((store for store in stores if store.is_leader), None)
            try:
                if leader is None:
                    await asyncio.sleep(0.005)
                    continue
                name = f"s{number}"
                await leader.update(lambda tx, name=name: tx.create(Service(id=name)))
                created.append((time.monotonic(), name))
                break
            except NotDone:
                await asyncio.sleep(0.001)


async def test_leadership_is_handed_over_without_a_failure(etcd_cluster: EtcdCluster) -> None:
    created: list[tuple[float, str]] = []
    gaps_s: list[float] = []
    async with three_managers(etcd_cluster) as (_, stores):
        await wait_any_leader(stores)
        await asyncio.gather(*(store.read_index() for store in stores))
        creating = asyncio.create_task(create_wherever_the_leader_is(stores, created))
        for _ in range(6):
            before = len(created)
            await wait_for(lambda before=before: len(created) > before + 20)
            leader = next(store for store in stores if store.is_leader)
            began_s = time.monotonic()
            assert await leader.hand_over()
            leader.resume_leading()
            count = len(created)
            await wait_for(lambda count=count: len(created) > count)
            times_s = [began_s, *(at_s for at_s, _ in created if at_s > began_s)]
            gaps_s.append(max(b - a for a, b in itertools.pairwise(times_s)))
            assert not creating.done(), "every update was acknowledged, or certainly not done"
        creating.cancel()
        await asyncio.wait([creating])
        await stores[0].read_index()
        names = {service.id for service in stores[0].view.services}
        assert {name for _, name in created} <= names
        assert len(names) <= len(created) + 1
    _log.info("handover.gaps", seconds=[round(gap_s, 3) for gap_s in gaps_s])
    assert sorted(gaps_s)[len(gaps_s) // 2] < 1.5


_MANAGER = """
import asyncio, pickle, sys, time
sys.path.insert(0, sys.argv[1])
from test_store_on_etcd import EtcdMember, count_up_for_ever, running_store

class Printed(dict):
    def __setitem__(self, key, value):
        print(key, value, flush=True)

async def main():
    settings, keys = pickle.loads(await asyncio.to_thread(sys.stdin.buffer.readline) and bytes.fromhex(line()))
    from pyswarm_manager.store.envelope import DataKeys
    async with EtcdMember(settings) as member, running_store(member, DataKeys(*keys)) as store:
        await asyncio.gather(hang_when_told(), *(count_up_for_ever(store, name, Printed()) for name in "ab"))

async def hang_when_told():
    while await asyncio.to_thread(sys.stdin.buffer.readline):
        print("hangs 1", flush=True)
        time.sleep(8)
        print("hangs 0", flush=True)

def line():
    return sys.stdin.buffer.readline().decode()

import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main())
"""


@dataclass
class LeadingProcess:
    """A manager in a process of its own that counts two services up for as long as it leads."""

    process: asyncio.subprocess.Process
    acknowledged: dict[str, int]
    lines: int = 0

    async def read(self) -> None:
        """Note what it prints, until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            name, count = line.decode().rsplit(" ", 1)
            self.acknowledged[name] = int(count)
            self.lines += 1

    async def tell(self, line: bytes) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()


@asynccontextmanager
async def process_and_two_stores(etcd_cluster: EtcdCluster) -> AsyncIterator[tuple[LeadingProcess, list[Store]]]:
    """Three managers, the first of them in its own process, which leads."""
    keys = DataKeys.generate()
    first, *others = etcd_cluster(3)
    async with AsyncExitStack() as stack:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _MANAGER, os.path.dirname(__file__)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        leading = LeadingProcess(process, {})
        stack.push_async_callback(process.wait)
        reading = asyncio.create_task(leading.read())
        stack.push_async_callback(asyncio.wait, [reading])
        stack.callback(end, process)
        await leading.tell(b"go")
        await leading.tell(pickle.dumps((first, (keys.keys, keys.active_id))).hex().encode())
        members = [EtcdMember(settings) for settings in others]
        for member in members:
            stack.push_async_callback(member.stop)
        await asyncio.gather(*(member.start() for member in members))
        stores = [await stack.enter_async_context(running_store(member, keys)) for member in members]
        await make_the_process_lead(leading, first.name, members)
        yield leading, stores


def end(process: asyncio.subprocess.Process) -> None:
    """Kill the process if it still runs; its etcd goes with it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()


async def make_the_process_lead(leading: LeadingProcess, name: str, others: list[EtcdMember]) -> None:
    """Let the others' raft leader hand over to it until it counts."""
    async with asyncio.timeout(30):
        while leading.acknowledged.get("a", 0) < 20:
            for member in others:
                async with EtcdClient(member.socket_path) as client:
                    with contextlib.suppress(Unavailable):
                        if (status := await client.status()).leader_id == status.member_id:
                            await client.move_leader(next(m.ID for m in await client.members() if m.name == name))
            await asyncio.sleep(0.2)


def counts(store: Store) -> dict[str, int]:
    return {service.id: service.spec_generation for service in store.view.services if service.id in ("a", "b")}


async def test_a_paused_leader_is_replaced_writes_nothing_and_takes_nothing_back(etcd_cluster: EtcdCluster) -> None:
    """Its etcd goes on and stays raft leader: only the heartbeat in the store tells that nobody leads."""
    async with process_and_two_stores(etcd_cluster) as (leading, stores):
        os.kill(leading.process.pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        new = stores[await wait_any_leader(stores)]
        _log.info("paused.replaced", after_s=round(time.monotonic() - stopped_s, 2))
        leadership = await new.wait_leader()
        await new.update(lambda tx: tx.create(Service(id="new")))
        at_change = counts(new)
        await asyncio.sleep(max(0.0, stopped_s + 10 - time.monotonic()))
        os.kill(leading.process.pid, signal.SIGCONT)
        lines = leading.lines
        await asyncio.sleep(2.0)
        await new.read_index()
        assert not leadership.is_lost, "the one that was paused is raft leader still, but has no reason to take the fence"
        assert counts(new) == at_change, "nothing that it had under way was written"
        for name, count in leading.acknowledged.items():
            if name in at_change:
                assert count <= at_change[name], "it acknowledged nothing that is not there"
        assert leading.lines - lines <= 4, "at most what was acknowledged before the pause, and that the outcome of each is unknown"


async def test_a_leader_whose_loop_hangs_is_replaced(etcd_cluster: EtcdCluster) -> None:
    async with process_and_two_stores(etcd_cluster) as (leading, stores):
        await leading.tell(b"hang")
        await wait_for(lambda: leading.acknowledged.get("hangs") == 1)
        hung_s = time.monotonic()
        new = stores[await wait_any_leader(stores)]
        _log.info("hanging.replaced", after_s=round(time.monotonic() - hung_s, 2))
        with contextlib.suppress(OutcomeUnknown):
            await new.update(lambda tx: tx.create(Service(id="new")))
        assert time.monotonic() - hung_s < 7.9, "while it hung"
        leadership = await new.wait_leader()
        at_change = counts(new)
        await wait_for(lambda: leading.acknowledged.get("hangs") == 0)
        await asyncio.sleep(1.0)
        assert not leadership.is_lost
        await new.read_index()
        assert counts(new) == at_change
