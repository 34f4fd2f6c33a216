"""Who may write: two managers on one log, with elections, silence and stolen fences."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from memory_stores import running_store

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import NotDone, OutcomeUnknown, Unavailable
from pyswarm_common.objects import Service
from pyswarm_manager.store.backend import Put
from pyswarm_manager.store.envelope import DataKeys, EnvelopeError
from pyswarm_manager.store.memory import LostAnswer, MemoryBackend, MemoryCluster, memory_store
from pyswarm_manager.store.records import FENCE_KEY, Codec, Fence
from pyswarm_manager.store.store import Store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster([1, 2])


@pytest.fixture
async def stores(cluster: MemoryCluster, clock: ManualClock) -> AsyncIterator[tuple[Store, Store]]:
    async with running_store(cluster, 1, clock) as first, running_store(cluster, 2, clock) as second:
        await first.wait_leader()
        yield first, second


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_the_raft_leaders_manager_leads(stores: tuple[Store, Store], clock: ManualClock) -> None:
    first, second = stores
    await clock.advance(10)
    assert (first.is_leader, second.is_leader) == (True, False)
    assert first.leader_node_id == second.leader_node_id == "node1"
    with pytest.raises(Unavailable):
        await second.update(lambda tx: tx.create(Service(id="a")))
    await first.update(lambda tx: tx.create(Service(id="a")))
    await second.read_index()
    assert "a" in second.view.services


async def test_leadership_follows_an_election(stores: tuple[Store, Store], cluster: MemoryCluster) -> None:
    first, second = stores
    leadership = await first.wait_leader()
    await first.update(lambda tx: tx.create(Service(id="a")))
    cluster.elect(2)
    await second.wait_leader()
    await leadership.wait_lost()
    assert (first.is_leader, second.is_leader) == (False, True)
    assert await second.update(lambda tx: len(tx.services)) == 1
    cluster.elect(1)
    again = await first.wait_leader()
    assert again.epoch > leadership.epoch


async def test_a_silent_leader_is_replaced(cluster: MemoryCluster, clock: ManualClock) -> None:
    async with running_store(cluster, 2, clock) as second:
        async with running_store(cluster, 1, clock) as first:
            await first.wait_leader()
            await clock.advance(20)
            assert not second.is_leader
        await clock.advance(2.5)
        assert not second.is_leader
        await clock.advance(1)
        assert second.is_leader, "its heartbeat stood still for 3 s, though its member still is raft leader"


async def test_silence_for_want_of_a_raft_leader_is_no_reason(cluster: MemoryCluster, clock: ManualClock) -> None:
    """While there is no raft leader nobody's heartbeat moves; the one that is elected then must not lose the fence again."""
    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(running_store(cluster, i, clock)) for i in (1, 2, 3)]
        await first.wait_leader()
        cluster.elect(0)
        cluster.is_answering.clear()
        await clock.advance(5)
        cluster.blind_members = {3}
        cluster.elect(2)
        cluster.is_answering.set()
        leadership = await second.wait_leader()
        await settle()
        cluster.blind_members.clear()
        cluster.notify()
        await clock.advance(5)
        assert (first.is_leader, second.is_leader, third.is_leader) == (False, True, False)
        assert not leadership.is_lost
        assert leadership.epoch == 2


async def test_an_elected_manager_that_hangs_is_passed_over(cluster: MemoryCluster, clock: ManualClock) -> None:
    async with running_store(cluster, 1, clock) as first, running_store(cluster, 3, clock) as third:
        await first.wait_leader()
        cluster.elect(0)
        await clock.advance(5)
        cluster.elect(2)  # whose manager does not run
        await clock.advance(0.9)
        assert not first.is_leader
        assert not third.is_leader
        await clock.advance(3)
        assert [first.is_leader, third.is_leader].count(True) == 1


async def test_a_follower_whose_watch_stands_still_takes_nothing(
    stores: tuple[Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    first, second = stores
    cluster.break_watches()
    second._mirror._backend.watch = lambda _: _never()  # type: ignore[method-assign,attr-defined]
    await clock.advance(30)
    assert (first.is_leader, second.is_leader) == (True, False)


async def _never() -> AsyncIterator[list[None]]:
    await asyncio.Event().wait()
    yield []


async def test_a_stolen_fence_fails_what_waits(stores: tuple[Store, Store], cluster: MemoryCluster, clock: ManualClock) -> None:
    first, _ = stores
    leadership = await first.wait_leader()
    cluster.is_answering.clear()
    waiting = [asyncio.ensure_future(first.update(lambda tx, i=i: tx.create(Service(id=str(i))))) for i in range(3)]
    await settle()
    fence = Fence(epoch=leadership.epoch + 1, node="thief")
    cluster.commit([], [Put(FENCE_KEY, Codec(cluster.data_keys).seal_record(FENCE_KEY, fence))])
    cluster.is_answering.set()
    for update in waiting:
        with pytest.raises(Unavailable, match="does not have a leader") as caught:
            await update
        assert not isinstance(caught.value, OutcomeUnknown), "the fence's new holder is seen: nothing was or will be committed"
    assert leadership.is_lost
    assert len(first.view.services) == 0
    assert first.leader_node_id == "thief"


async def test_a_leader_cut_off_stops_by_its_own_clock(
    stores: tuple[Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    first, second = stores
    leadership = await first.wait_leader()
    cluster.is_answering.clear()
    waiting = asyncio.ensure_future(first.update(lambda tx: tx.create(Service(id="a"))))
    await clock.advance(2.5)
    assert not leadership.is_lost
    await clock.advance(1)
    assert leadership.is_lost
    with pytest.raises(OutcomeUnknown):
        await waiting
    cluster.is_answering.set()
    await settle()
    assert [first.is_leader, second.is_leader].count(True) == 1, "whoever was quicker"


async def test_an_answer_lost_together_with_the_leadership_is_found_out(
    stores: tuple[Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    first, second = stores
    cluster.lost_answers = [LostAnswer.COMMITTED, LostAnswer.DROPPED]
    update = asyncio.ensure_future(first.update(lambda tx: tx.create(Service(id="a"))))
    await settle()
    cluster.elect(2)
    await settle()
    await second.wait_leader()
    assert (await update).id == "a"
    await second.read_index()
    assert "a" in second.view.services


async def test_a_leader_that_has_not_heard_who_took_the_fence_does_not_take_it_back(
    stores: tuple[Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    """As after a pause: it still is raft leader in the same term, and its mirror still shows its own fence."""
    first, _ = stores
    leadership = await first.wait_leader()
    first._mirror._backend.watch = lambda _: _never()  # type: ignore[method-assign,attr-defined]
    cluster.break_watches()
    await settle()
    fence = Fence(epoch=leadership.epoch + 1, node="thief", raft_term=cluster.raft_term)
    cluster.commit([], [Put(FENCE_KEY, Codec(cluster.data_keys).seal_record(FENCE_KEY, fence))])
    with pytest.raises(NotDone):
        await first.update(lambda tx: tx.create(Service(id="a")))
    await clock.advance(2.0)
    assert not first.is_leader
    assert Codec(cluster.data_keys).open_fence(cluster.entries[FENCE_KEY].value) == fence


async def test_work_runs_while_leading(stores: tuple[Store, Store], cluster: MemoryCluster, clock: ManualClock) -> None:
    first, _ = stores
    story: list[str] = []

    async def work() -> None:
        story.append("begin")
        try:
            while True:
                await first.update(lambda tx: len(tx.services))
                await clock.sleep(1)
        finally:
            story.append("end")

    running = asyncio.create_task(first.run_while_leading(work))
    await settle()
    assert story == ["begin"]
    cluster.elect(2)
    await settle()
    assert story == ["begin", "end"]
    await clock.advance(1)
    cluster.elect(1)
    await settle()
    assert story == ["begin", "end", "begin"]
    running.cancel()
    await asyncio.wait([running])


async def test_reads_without_a_raft_leader_come_from_the_mirror(
    stores: tuple[Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    first, _ = stores
    await first.update(lambda tx: tx.create(Service(id="a")))
    cluster.is_answering.clear()
    cluster.elect(0)
    reading = asyncio.ensure_future(first.read_index())
    await clock.advance(0.5)
    assert not reading.done()
    await clock.advance(0.6)
    await reading
    await first.read_index()
    assert first.leader_node_id is None
    assert "a" in first.view.services


async def test_a_store_with_foreign_data_keys_says_so(cluster: MemoryCluster, clock: ManualClock) -> None:
    async with memory_store(clock, cluster):
        pass
    stranger = Store(MemoryBackend(cluster), DataKeys.generate(), "stranger", clock)
    with pytest.raises(ExceptionGroup) as caught:
        await stranger.run()
    assert caught.group_contains(EnvelopeError)


async def test_the_leader_compacts_each_minute(cluster: MemoryCluster, clock: ManualClock) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(memory_store(clock, cluster))
        await clock.advance(59)
        assert cluster.compacted_revision == 0
        await clock.advance(65)
        assert 0 < cluster.compacted_revision < store.revision - 50


async def test_a_full_cluster_is_brought_back(cluster: MemoryCluster, clock: ManualClock) -> None:
    async with memory_store(clock, cluster) as store:
        cluster.raise_alarm()
        await clock.advance(0.1)
        await store.update(lambda tx: tx.create(Service(id="a")))
        assert not store.has_alarm
        assert cluster.compacted_revision > 0
