"""The mirror and its subscriptions: what loops see, also across broken watches and compacted history."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import OutOfSequence
from pyswarm_common.objects import Node, Service, Task
from pyswarm_manager.store.memory import MemoryBackend, MemoryCluster, memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import Tables
from pyswarm_manager.store.version_base import raise_version_base


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
async def store(clock: ManualClock, cluster: MemoryCluster) -> AsyncIterator[Store]:
    async with memory_store(clock, cluster) as running:
        yield running


@pytest.fixture
async def follower(clock: ManualClock, cluster: MemoryCluster, store: Store) -> AsyncIterator[Store]:
    """A second manager, which hears of everything through its watch."""
    cluster.members.append(2)
    following = Store(MemoryBackend(cluster, 2), cluster.data_keys, "follower", clock)
    task = asyncio.create_task(following.run())
    await following.wait_loaded()
    yield following
    task.cancel()
    await asyncio.wait([task])


async def test_subscribers_get_changes_of_their_types(store: Store) -> None:
    with store.watch(Service) as services, store.watch() as everything:
        made = await store.update(lambda tx: (tx.create(Service(id="a")), tx.create(Node(id="n"))))
        assert services.take() == [Change(None, made[0])]
        assert [change.item for change in await anext(everything)] == list(made)
        await store.update(lambda tx: tx.delete(Node, "n"))
        assert services.take() == []
        assert everything.take() == [Change(made[1], None)]


async def test_changes_are_joined_until_they_are_taken(store: Store) -> None:
    with store.watch(Service) as subscription:
        first = await store.update(lambda tx: tx.create(Service(id="a")))
        await store.update(lambda tx: tx.create(Service(id="b")))
        second = await store.update(lambda tx: tx.update(msgspec.structs.replace(first, name="web")))
        await store.update(lambda tx: tx.delete(Service, "b"))
        assert subscription.take() == [Change(None, second)]
        third = await store.update(lambda tx: tx.update(msgspec.structs.replace(first, name="www")))
        await store.update(lambda tx: tx.delete(Service, "a"))
        assert await anext(subscription) == [Change(second, None)]
        assert third.name == "www"


async def test_wait_wakes_once_for_all_changes_so_far(store: Store) -> None:
    with store.watch(Task) as subscription:
        await store.update(lambda tx: tx.create(Task(id="a", task_spec_id="x")))
        await store.update(lambda tx: tx.create(Task(id="b", task_spec_id="x")))
        await subscription.wait()
        waiting = asyncio.ensure_future(subscription.wait())
        await store.update(lambda tx: tx.create(Node(id="n")))
        assert not waiting.done()
        await store.update(lambda tx: tx.delete(Task, "a"))
        await waiting


async def test_a_closed_subscription_hears_nothing(store: Store) -> None:
    subscription = store.watch()
    subscription.close()
    subscription.close()
    await store.update(lambda tx: tx.create(Node(id="n")))
    assert subscription.take() == []


async def test_head_and_mirror_share_their_objects(store: Store) -> None:
    made = await store.update(lambda tx: tx.create(Service(id="a")))
    assert store.view.services.get("a") is made


async def test_a_broken_watch_is_resumed(store: Store, follower: Store, cluster: MemoryCluster, clock: ManualClock) -> None:
    cluster.break_watches()
    await store.update(lambda tx: tx.create(Service(id="a")))
    await clock.advance(0.2)
    await follower.read_index()
    assert "a" in follower.view.services


async def test_compacted_history_is_made_up_for(store: Store, follower: Store, cluster: MemoryCluster, clock: ManualClock) -> None:
    kept, gone, changed = await store.update(lambda tx: tuple(tx.create(Service(id=i)) for i in ("kept", "gone", "changed")))
    await follower.read_index()
    with follower.watch(Service) as subscription:
        cluster.break_watches()
        changed_to = await store.update(lambda tx: tx.update(msgspec.structs.replace(changed, name="new")))
        await store.update(lambda tx: tx.delete(Service, "gone"))
        made = await store.update(lambda tx: tx.create(Service(id="made")))
        cluster.compact(cluster.revision)
        view = follower.view
        await clock.advance(0.2)
        await follower.read_index()
        assert sorted(view.services, key=lambda s: s.id) == [changed_to, kept, made]
        changes = sorted(subscription.take(), key=lambda change: change.item.id)
        assert changes == [Change(changed, changed_to), Change(gone, None), Change(None, made)]
    for service in view.services:
        assert follower.version_index(service) == store.version_index(service)


async def test_the_version_base_is_added(store: Store, follower: Store, cluster: MemoryCluster) -> None:
    service = await store.update(lambda tx: tx.create(Service(id="a")))
    index = store.version_index(service)
    assert await raise_version_base(MemoryBackend(cluster), cluster.data_keys) == 1 << 32
    assert await raise_version_base(MemoryBackend(cluster), cluster.data_keys) == 2 << 32
    await store.read_index()
    assert store.version_index(service) == index + (2 << 32)
    with pytest.raises(OutOfSequence):
        await store.update(lambda tx: tx.update(service, expected_index=index))
    await store.update(lambda tx: tx.update(service, expected_index=index + (2 << 32)))
    await follower.read_index()
    assert follower.version_index(service) == store.version_index(service)


async def test_many_objects_are_loaded_in_pages(store: Store, cluster: MemoryCluster, clock: ManualClock) -> None:
    for start in range(0, 2500, 100):
        await store.update(lambda tx, start=start: [tx.create(Service(id=f"s{i:05}")) for i in range(start, start + 100)])
    fresh = Store(MemoryBackend(cluster, 2), cluster.data_keys, "fresh", clock)
    task = asyncio.create_task(fresh.run())
    await fresh.wait_loaded()
    assert sorted(s.id for s in fresh.view.services) == [f"s{i:05}" for i in range(2500)]
    assert fresh.revision == store.revision
    task.cancel()
    await asyncio.wait([task])


def test_a_copy_of_tables_is_its_own() -> None:
    tables = Tables()
    tables.services.put(Service(id="s", name="web", task_spec_id="x"), 5)
    tables.tasks.put(Task(id="t", service_id="s", node_id="n", task_spec_id="x"), 6)
    copy = tables.copy()
    tables.services.delete("s")
    tables.tasks.delete("t")
    assert [s.id for s in copy.services.named("web")] == ["s"]
    assert [t.id for t in copy.tasks.of_service("s")] == [t.id for t in copy.tasks.of_node("n")] == ["t"]
    assert (copy.tasks.count_with_task_spec("x"), copy.services.count_with_task_spec("x")) == (1, 1)
    assert (copy.services.version_of("s"), copy.tasks.version_of("t")) == (5, 6)
    assert (tables.tasks.count_with_task_spec("x"), tables.services.count_with_task_spec("x")) == (0, 0)
