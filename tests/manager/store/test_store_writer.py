"""Updates: their order, their undoing, how they share transactions, and what becomes of them when etcd's answers are lost."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import AlreadyExists, Conflict, NotFound, OutcomeUnknown, OutOfSequence, Unavailable
from pyswarm_common.objects import Service, Task, TaskSpec
from pyswarm_manager.store.batch import MAX_BYTES, MAX_CHANGES, TransactionTooLarge
from pyswarm_manager.store.memory import LostAnswer, MemoryCluster, memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction


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


def create(service_id: str, name: str = "") -> Callable[[Transaction], Service]:
    return lambda tx: tx.create(Service(id=service_id, name=name))


def count_up(tx: Transaction) -> int:
    """Not idempotent on purpose: each run that is committed shows."""
    service = tx.services.must_get("counter")
    return tx.update(msgspec.structs.replace(service, spec_generation=service.spec_generation + 1)).spec_generation


async def test_an_update_is_in_the_view_when_it_returns(store: Store, clock: ManualClock) -> None:
    created = await store.update(create("a", "web"))
    assert store.view.services.named("web") == [created]
    assert (created.created_at_ns, created.updated_at_ns) == (clock.now_ns(), clock.now_ns())
    await clock.advance(5)
    changed = await store.update(lambda tx: tx.update(msgspec.structs.replace(created, name="www")))
    assert changed.created_at_ns == created.created_at_ns
    assert changed.updated_at_ns == clock.now_ns()
    assert await store.update(lambda tx: tx.delete(Service, "a")) == changed
    assert len(store.view.services) == 0


async def test_functions_see_those_before_them(store: Store) -> None:
    def create_unless_taken(tx: Transaction, service_id: str) -> str:
        if tx.services.named("web"):
            raise AlreadyExists("web is taken")
        return tx.create(Service(id=service_id, name="web")).id

    results = await asyncio.gather(
        *(store.update(lambda tx, i=i: create_unless_taken(tx, f"s{i}")) for i in range(5)), return_exceptions=True
    )
    assert results[0] == "s0"
    assert all(isinstance(result, AlreadyExists) for result in results[1:])
    assert [service.id for service in store.view.services] == ["s0"]


async def test_a_raising_function_leaves_nothing_behind(store: Store) -> None:
    def fail(tx: Transaction) -> None:
        tx.create(Service(id="b"))
        tx.update(Service(id="a", name="changed"))
        tx.delete(Service, "a")
        raise Conflict("changed my mind")

    first = asyncio.ensure_future(store.update(create("a", "web")))
    second = asyncio.ensure_future(store.update(fail))
    third = asyncio.ensure_future(store.update(lambda tx: [(s.id, s.name) for s in tx.services]))
    await first
    with pytest.raises(Conflict, match="changed my mind"):
        await second
    assert await third == [("a", "web")]
    assert [(s.id, s.name) for s in store.view.services] == [("a", "web")]


async def test_waiting_updates_share_a_transaction(store: Store, cluster: MemoryCluster) -> None:
    def create_some(tx: Transaction, start: int) -> None:
        for i in range(start, start + MAX_CHANGES // 10):
            tx.create(Service(id=f"s{i:04}"))

    commits = cluster.commit_count
    starts = range(0, 2 * MAX_CHANGES, MAX_CHANGES // 10)
    await asyncio.gather(*(store.update(lambda tx, start=start: create_some(tx, start)) for start in starts))
    assert len(store.view.services) == 2 * MAX_CHANGES
    assert cluster.commit_count - commits == 2


async def test_changes_of_one_object_are_merged(store: Store, cluster: MemoryCluster) -> None:
    commits = cluster.commit_count
    updates = [store.update(create("counter")), *(store.update(count_up) for _ in range(150))]
    assert (await asyncio.gather(*updates))[1:] == list(range(1, 151))
    assert store.view.services.must_get("counter").spec_generation == 150
    assert cluster.commit_count - commits == 1
    gone = [store.update(create("x")), store.update(lambda tx: tx.delete(Service, "x"))]
    await asyncio.gather(*gone)
    assert cluster.commit_count - commits == 1


async def test_a_function_is_never_split(store: Store, cluster: MemoryCluster) -> None:
    def create_many(tx: Transaction, prefix: str) -> None:
        for i in range(MAX_CHANGES * 3 // 5):
            tx.create(Service(id=f"{prefix}{i}"))

    commits = cluster.commit_count
    await asyncio.gather(*(store.update(lambda tx, p=p: create_many(tx, p)) for p in "abc"))
    assert len(store.view.services) == MAX_CHANGES * 3 // 5 * 3
    assert cluster.commit_count - commits == 3


@pytest.mark.parametrize(("count", "size"), [(MAX_CHANGES + 1, 0), (1, MAX_BYTES)])
async def test_a_function_beyond_the_limits_is_refused(store: Store, count: int, size: int) -> None:
    def create_too_much(tx: Transaction) -> None:
        for i in range(count):
            tx.create(Service(id=f"s{i}", spec_json=bytes(size)))

    small = asyncio.ensure_future(store.update(create("small")))
    with pytest.raises(TransactionTooLarge, match=r"at most 500 objects and 1048576 bytes"):
        await store.update(create_too_much)
    await small
    assert [service.id for service in store.view.services] == ["small"]


async def test_large_updates_get_transactions_of_their_own(store: Store, cluster: MemoryCluster) -> None:
    commits = cluster.commit_count
    large = bytes(MAX_BYTES * 2 // 3)
    await asyncio.gather(*(store.update(lambda tx, i=i: tx.create(Service(id=f"s{i}", spec_json=large))) for i in range(3)))
    assert cluster.commit_count - commits == 3


async def test_what_changes_nothing_waits_for_those_ahead(store: Store, cluster: MemoryCluster) -> None:
    cluster.is_answering.clear()
    writing = asyncio.ensure_future(store.update(create("a")))
    looking = asyncio.ensure_future(store.update(lambda tx: len(tx.services)))
    refusing = asyncio.ensure_future(store.update(create("a")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(update.done() for update in (writing, looking, refusing))
    cluster.is_answering.set()
    assert await looking == 1
    assert writing.done()
    with pytest.raises(AlreadyExists):
        await refusing


async def test_versions_are_compared(store: Store) -> None:
    service = await store.update(create("a"))
    index = store.version_index(service)
    assert index > 0
    await store.update(lambda tx: tx.update(service, expected_index=index))
    assert store.version_index(service) > index
    with pytest.raises(OutOfSequence):
        await store.update(lambda tx: tx.update(service, expected_index=index))
    index = store.version_index(service)
    results = await asyncio.gather(
        *(store.update(lambda tx: tx.update(service, expected_index=index)) for _ in range(2)), return_exceptions=True
    )
    assert isinstance(results[1], OutOfSequence), "the second is based on a version that the first replaces"
    with pytest.raises(NotFound):
        await store.update(lambda tx: tx.update(Service(id="b"), expected_index=index))
    assert store.version_index(Service(id="b")) == 0


async def test_a_task_spec_goes_with_its_last_reference(store: Store) -> None:
    def populate(tx: Transaction) -> None:
        tx.create(TaskSpec(id="old"))
        tx.create(TaskSpec(id="new"))
        tx.create(Service(id="s", task_spec_id="new", previous_task_spec_id="old"))
        tx.create(Task(id="t", task_spec_id="old"))

    await store.update(populate)
    await store.update(lambda tx: tx.update(Service(id="s", task_spec_id="new")))
    assert "old" in store.view.task_specs
    await store.update(lambda tx: tx.update(Task(id="t", task_spec_id="new")))
    assert "old" not in store.view.task_specs
    await store.update(lambda tx: tx.delete(Service, "s"))
    assert "new" in store.view.task_specs
    await store.update(lambda tx: tx.delete(Task, "t"))
    assert len(store.view.task_specs) == 0


@pytest.mark.parametrize("fate", LostAnswer)
async def test_a_lost_answer_is_found_out(store: Store, cluster: MemoryCluster, fate: LostAnswer) -> None:
    await store.update(create("counter"))
    epoch = (await store.wait_leader()).epoch
    for _ in range(3):
        cluster.lost_answers = [fate]
        await store.update(count_up)
    assert store.view.services.must_get("counter").spec_generation == 3
    cluster.lost_answers = [fate]
    await store.update(lambda tx: tx.delete(Service, "counter"))
    assert len(store.view.services) == 0
    assert (await store.wait_leader()).epoch == epoch, "a new epoch of the fence is no new leadership"


async def test_the_fence_itself_may_be_taken_without_an_answer(store: Store, cluster: MemoryCluster, clock: ManualClock) -> None:
    await store.update(create("counter"))
    cluster.lost_answers = [LostAnswer.DROPPED, LostAnswer.COMMITTED, LostAnswer.LATE, LostAnswer.DROPPED]
    counting = asyncio.ensure_future(store.update(count_up))
    await clock.advance(0.9)
    assert await counting == 1
    assert store.view.services.must_get("counter").spec_generation == 1


async def test_a_certain_refusal_is_tried_again(store: Store, cluster: MemoryCluster, clock: ManualClock) -> None:
    await store.update(create("counter"))
    cluster.refusals = 3
    counting = [asyncio.ensure_future(store.update(count_up)) for _ in range(3)]
    await clock.advance(0.9)
    assert await asyncio.gather(*counting) == [1, 2, 3]


async def test_a_caller_that_gave_up_in_time_changes_nothing(store: Store, cluster: MemoryCluster) -> None:
    cluster.is_answering.clear()
    first = asyncio.ensure_future(store.update(create("a")))
    for _ in range(10):
        await asyncio.sleep(0)
    second = asyncio.ensure_future(store.update(create("b")))
    await asyncio.sleep(0)
    second.cancel()
    cluster.is_answering.set()
    await first
    await store.update(create("c"))
    assert [service.id for service in store.view.services] == ["a", "c"]


async def test_without_leadership_updates_fail_in_dockers_words(store: Store, cluster: MemoryCluster, clock: ManualClock) -> None:
    cluster.is_answering.clear()
    waiting = asyncio.ensure_future(store.update(create("a")))
    await asyncio.sleep(0)
    cluster.elect(0)
    await clock.advance(1.1)
    for failing in (waiting, asyncio.ensure_future(store.update(create("b")))):
        with pytest.raises(Unavailable) as caught:
            await failing
        assert caught.value.api_message.startswith(
            "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. "
            "Make sure more than half of the managers are online."
        )
        assert isinstance(caught.value, OutcomeUnknown) == (failing is waiting)
