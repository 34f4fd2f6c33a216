"""Why a manager says that the cluster cannot be changed through it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import Unavailable
from pyswarm_common.objects import Cluster
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.store.memory import MemoryCluster, memory_store

DOCKERS_WORDS = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. "
    "Make sure more than half of the managers are online."
)


class Bench:
    """A manager that leads, on a member in memory."""

    def __init__(self, clock: ManualClock, cluster: MemoryCluster, services: ManagerServices) -> None:
        self.clock = clock
        self.cluster = cluster
        self.services = services


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock, cluster = ManualClock(), MemoryCluster()
    async with memory_store(clock, cluster) as store:
        await store.update(lambda tx: tx.create(Cluster(id="c")))
        broker = LogBroker(store, lambda node_id, message: False)
        yield Bench(clock, cluster, ManagerServices(store, broker, clock, lambda: store.leader_node_id))


async def test_a_manager_of_a_cluster_that_works_has_none(bench: Bench) -> None:
    assert bench.services.problem() == ""


async def test_without_a_leader_it_speaks_dockers_words(bench: Bench) -> None:
    bench.cluster.elect(0)
    await bench.clock.advance(1.5)
    assert bench.services.problem().startswith(DOCKERS_WORDS)


async def test_what_is_wrong_with_the_manager_itself_is_told_with_the_refusal(bench: Bench) -> None:
    bench.services.store.trouble = lambda: "no space left on the disk of /data: free some, and it goes on by itself"
    bench.cluster.elect(0)
    await bench.clock.advance(1.5)
    with pytest.raises(Unavailable, match=r"The swarm does not have a leader.*no space left on the disk of /data"):
        await bench.services.store.update(lambda tx: tx.cluster)


async def test_a_store_that_is_full_is_told_until_there_is_room_again(bench: Bench) -> None:
    bench.cluster.raise_alarm()
    told = set()
    for _ in range(100):  # the manager makes room in a moment
        told.add(bench.services.problem())
        await asyncio.sleep(0)
    assert any("mvcc: database space exceeded" in problem for problem in told)
    assert bench.services.problem() == ""
