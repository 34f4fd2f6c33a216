"""Stores on one in-memory log, with time in the test's hands."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pyswarm_common.clock import ManualClock
from pyswarm_manager.store.memory import MemoryBackend, MemoryCluster
from pyswarm_manager.store.store import Store


@asynccontextmanager
async def running_store(cluster: MemoryCluster, member_id: int, clock: ManualClock) -> AsyncIterator[Store]:
    """Run the store of the manager `node<member_id>` inside the block; it is loaded."""
    store = Store(MemoryBackend(cluster, member_id), cluster.data_keys, f"node{member_id}", clock)
    task = asyncio.create_task(store.run())
    await store.wait_loaded()
    yield store
    task.cancel()
    await asyncio.wait([task])
