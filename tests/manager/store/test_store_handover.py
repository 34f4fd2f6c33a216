"""A leader that goes in good order: on memory, with time in our hands."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from memory_stores import running_store

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import NotDone, OutcomeUnknown
from pyswarm_common.objects import ManagerStatus, Node, NodeStatus, Service
from pyswarm_manager.store.memory import MemoryCluster
from pyswarm_manager.store.store import Store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster([1, 2, 3])


@pytest.fixture
async def stores(cluster: MemoryCluster, clock: ManualClock) -> AsyncIterator[tuple[Store, Store, Store]]:
    async with (
        running_store(cluster, 1, clock) as first,
        running_store(cluster, 2, clock) as second,
        running_store(cluster, 3, clock) as third,
    ):
        await first.wait_leader()
        yield first, second, third


async def handed_over(store: Store, clock: ManualClock, step_s: float = 0.05, limit_s: float = 6.0) -> bool:
    """Hand over while time passes; what it says."""
    running = asyncio.ensure_future(store.hand_over())
    passed_s = 0.0
    while not running.done():
        await clock.advance(step_s)
        passed_s += step_s
        assert passed_s <= limit_s
    return running.result()


async def test_another_manager_leads_at_once(stores: tuple[Store, Store, Store], clock: ManualClock) -> None:
    first, second, _ = stores
    leadership = await first.wait_leader()
    await first.update(lambda tx: tx.create(Service(id="a")))
    began_s = clock.monotonic_s()
    assert await handed_over(first, clock)
    assert clock.monotonic_s() - began_s <= 0.5
    assert (first.is_leader, second.is_leader, leadership.is_lost) == (False, True, True)
    assert first.leader_node_id == "node2"
    with pytest.raises(NotDone):
        await first.update(lambda tx: tx.create(Service(id="b")))
    await second.update(lambda tx: tx.create(Service(id="b")))
    await first.read_index()
    assert [service.id for service in first.view.services] == ["a", "b"]


async def test_the_batch_under_way_is_finished_and_what_waits_was_not_done(
    stores: tuple[Store, Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    first, second, _ = stores
    cluster.is_answering.clear()
    under_way = asyncio.ensure_future(first.update(lambda tx: tx.create(Service(id="a"))))
    for _ in range(10):
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(first.update(lambda tx: tx.create(Service(id="b"))))
    await asyncio.sleep(0)
    handing_over = asyncio.ensure_future(first.hand_over())
    await clock.advance(0.2)
    assert not under_way.done()
    cluster.is_answering.set()
    assert (await under_way).id == "a"
    with pytest.raises(NotDone):
        await waiting
    await clock.advance(0.3)
    assert await handing_over
    await second.read_index()
    assert [service.id for service in second.view.services] == ["a"]


async def test_a_batch_that_hangs_does_not_hold_the_end_up(
    stores: tuple[Store, Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    first, *_ = stores
    cluster.is_answering.clear()
    under_way = asyncio.ensure_future(first.update(lambda tx: tx.create(Service(id="a"))))
    await clock.advance(0.1)
    began_s = clock.monotonic_s()
    await handed_over(first, clock)
    assert clock.monotonic_s() - began_s <= 5.5
    with pytest.raises((OutcomeUnknown, NotDone)):
        await under_way
    cluster.is_answering.set()


async def test_a_node_that_is_down_is_asked_last(
    stores: tuple[Store, Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    first, _, third = stores
    for member_id, state in ((1, "ready"), (2, "down"), (3, "ready")):
        node = Node(
            id=f"node{member_id}", status=NodeStatus(state=state), role="manager", manager=ManagerStatus(etcd_member_id=member_id)
        )
        await first.update(lambda tx, node=node: tx.create(node))
    assert await handed_over(first, clock)
    assert third.is_leader


async def test_a_member_that_does_not_take_over_is_passed_over(
    stores: tuple[Store, Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    first, _, third = stores
    cluster.blind_members = {2}
    assert await handed_over(first, clock)
    assert third.is_leader


async def test_the_fence_goes_to_the_raft_leader_when_that_is_another(
    stores: tuple[Store, Store, Store], cluster: MemoryCluster, clock: ManualClock
) -> None:
    """As after a leader that hung: the fence was taken from it, while its member stayed raft leader."""
    first, *_ = stores
    await first._keeper.retire()  # silent from now on, and its member does not know
    await clock.advance(4.0)
    holder = next(store for store in stores if store.is_leader)
    assert holder is not first
    assert cluster.leader_id == 1
    first.resume_leading()
    await clock.advance(0.5)
    assert not first.is_leader, "it was raft leader all the time: no reason to take the fence back"
    began_s = clock.monotonic_s()
    assert await handed_over(holder, clock)
    assert clock.monotonic_s() - began_s <= 0.5
    assert first.is_leader


async def test_a_single_manager_stops_and_may_lead_again(clock: ManualClock) -> None:
    cluster = MemoryCluster([1])
    async with running_store(cluster, 1, clock) as store:
        first = await store.wait_leader()
        began_s = clock.monotonic_s()
        assert not await handed_over(store, clock)
        assert clock.monotonic_s() - began_s <= 0.5
        assert not store.is_leader
        await clock.advance(10)
        assert not store.is_leader
        store.resume_leading()
        again = await store.wait_leader()
        assert again.epoch > first.epoch
        await store.update(lambda tx: tx.create(Service(id="a")))


async def test_a_manager_that_follows_has_nothing_to_hand_over(stores: tuple[Store, Store, Store], clock: ManualClock) -> None:
    first, second, _ = stores
    assert await handed_over(second, clock, limit_s=0.1)
    assert first.is_leader
    second.resume_leading()


async def test_the_work_of_the_leader_moves_with_it(stores: tuple[Store, Store, Store], clock: ManualClock) -> None:
    story: list[str] = []

    async def work(name: str) -> None:
        story.append(f"{name} begins")
        try:
            await asyncio.Event().wait()
        finally:
            story.append(f"{name} ends")

    first, second, _ = stores
    running = [
        asyncio.create_task(store.run_while_leading(lambda name=name: work(name)))
        for store, name in ((first, "first"), (second, "second"))
    ]
    await clock.advance(0.1)
    assert await handed_over(first, clock)
    assert story == ["first begins", "first ends", "second begins"]
    for task in running:
        task.cancel()
    await asyncio.wait(running)
