"""The key file follows the cluster's unlock key."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from pyswarm_common.clock import ManualClock, SystemClock
from pyswarm_common.objects import Cluster
from pyswarm_common.unlock_key import new_unlock_key
from pyswarm_manager.store.memory import MemoryCluster, memory_store
from pyswarm_manager.store.store import Store
from pyswarm_node.key_locker import RETRY_PAUSE_S, KeyLocker


class Files:
    """Remembers the locks in their order; the disk is full for the first `refusals` changes."""

    def __init__(self, unlock_key: str = "", refusals: int = 0) -> None:
        self.unlock_key = unlock_key
        self.locks: list[str] = []
        self.refusals = refusals
        self.changed = asyncio.Event()

    def change_lock(self, unlock_key: str) -> None:
        self.changed.set()
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self.unlock_key = unlock_key
        self.locks.append(unlock_key)

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await self.changed.wait()
                self.changed.clear()


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with memory_store(SystemClock()) as store:
        await store.update(lambda tx: tx.create(Cluster(id="c", unlock_key="first")))
        yield store


async def set_unlock_key(store: Store, unlock_key: str) -> None:
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, unlock_key=unlock_key)))


@asynccontextmanager
async def locking(store: Store, files: Files, clock: ManualClock | None = None) -> AsyncIterator[None]:
    running = asyncio.ensure_future(KeyLocker(store, files, clock or SystemClock()).run())
    try:
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_manager_that_was_down_during_a_rotation_follows_when_it_is_back(store: Store) -> None:
    files = Files("former")
    async with locking(store, files):
        await files.wait(lambda: files.unlock_key == "first")


async def test_each_change_is_followed(store: Store) -> None:
    files = Files("first")
    async with locking(store, files):
        for unlock_key in (new_unlock_key(), new_unlock_key(), "", new_unlock_key()):
            await set_unlock_key(store, unlock_key)
            await files.wait(lambda key=unlock_key: files.unlock_key == key)  # type: ignore[misc]
    assert len(files.locks) == 4


async def test_other_changes_of_the_cluster_touch_nothing(store: Store) -> None:
    files = Files("first")
    async with locking(store, files):
        await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, task_history_limit=9)))
        await set_unlock_key(store, "second")
        await files.wait(lambda: files.unlock_key == "second")
    assert files.locks == ["second"]


async def test_a_full_disk_is_tried_again_and_the_newest_key_counts(store: Store) -> None:
    files, clock = Files("former", refusals=2), ManualClock()
    async with locking(store, files, clock):
        await files.wait(lambda: files.refusals == 1)
        await set_unlock_key(store, "second")
        for _ in range(2):
            await clock.advance(RETRY_PAUSE_S)
        await files.wait(lambda: bool(files.locks))
    assert files.locks == ["second"]


async def test_a_manager_that_may_be_behind_changes_nothing() -> None:
    cluster, clock = MemoryCluster(), ManualClock()
    async with memory_store(clock, cluster) as store:
        creating = asyncio.ensure_future(store.update(lambda tx: tx.create(Cluster(id="c", unlock_key=""))))
        await clock.advance(1)
        await creating
        cluster.elect(0)
        cluster.is_answering.clear()
        await clock.advance(2)
        assert store.is_leaderless
        files = Files("newer")
        async with locking(store, files, clock):
            await clock.advance(10 * RETRY_PAUSE_S)
            assert files.locks == []
            cluster.elect(1)
            cluster.is_answering.set()
            await clock.advance(2 * RETRY_PAUSE_S)
            await files.wait(lambda: files.unlock_key == "")
