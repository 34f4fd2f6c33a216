"""Any updates, any lost answers: the store ends where a plain dictionary ends, and every caller gets the same answer."""

import asyncio
from collections import Counter
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import AlreadyExists, NotFound, PyswarmError
from pyswarm_common.objects import Service, Task, TaskSpec
from pyswarm_manager.store.memory import LostAnswer, MemoryBackend, MemoryCluster, memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction


class Step(NamedTuple):
    """One change of an update: of a service, or of a task with its spec."""

    action: str
    object_id: str


steps = st.builds(Step, st.sampled_from(["create", "count", "delete", "fail", "run", "stop"]), st.sampled_from("abc"))
updates = st.lists(steps, max_size=5)
waves = st.lists(st.lists(updates, max_size=6), max_size=5)
faults = st.lists(st.sampled_from([None, *LostAnswer]), max_size=8)


def carry_out(tx: Transaction, changes: list[Step]) -> list[int]:
    """Do an update's steps; returns the counts that it left. Not idempotent on purpose."""
    counts = []
    for action, object_id in changes:
        if action == "create":
            tx.create(Service(id=object_id))
        elif action == "count":
            count = tx.services.must_get(object_id).spec_generation + 1
            tx.update(Service(id=object_id, spec_generation=count))
            counts.append(count)
        elif action == "delete":
            tx.delete(Service, object_id)
        elif action == "run":
            if object_id not in tx.task_specs:
                tx.create(TaskSpec(id=object_id))
            tx.create(Task(id=f"{object_id}{len(tx.tasks)}", task_spec_id=object_id))
        elif action == "stop":
            for task in [t for t in tx.tasks if t.task_spec_id == object_id]:
                tx.delete(Task, task.id)
        else:
            raise ZeroDivisionError
    return counts


class Model:
    """What should happen: one update after the other, on plain dictionaries."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.tasks: dict[str, str] = {}

    def update(self, changes: list[Step]) -> object:
        """Do all of an update or nothing; returns what the store's caller gets."""
        before = dict(self.counts), dict(self.tasks)
        counted: list[int] = []
        for change in changes:
            error = self._step(change, counted)
            if error is not None:
                self.counts, self.tasks = before
                return error
        return counted

    def _step(self, change: Step, counted: list[int]) -> type[Exception] | None:
        action, object_id = change
        if action == "fail":
            return ZeroDivisionError
        if action == "create":
            if object_id in self.counts:
                return AlreadyExists
            self.counts[object_id] = 0
        elif action in ("count", "delete"):
            if object_id not in self.counts:
                return NotFound
            if action == "delete":
                del self.counts[object_id]
            else:
                self.counts[object_id] += 1
                counted.append(self.counts[object_id])
        elif action == "run":
            task_id = f"{object_id}{len(self.tasks)}"
            if task_id in self.tasks:
                return AlreadyExists
            self.tasks[task_id] = object_id
        else:
            self.tasks = {task_id: spec for task_id, spec in self.tasks.items() if spec != object_id}
        return None

    def content(self) -> list[object]:
        """Return the same as `content(store)`."""
        specs = Counter(self.tasks.values())
        return sorted(
            [("service", *item) for item in self.counts.items()]
            + [("task", *item) for item in self.tasks.items()]
            + [("spec", *item) for item in specs.items()]
        )


async def outcome(store: Store, changes: list[Step]) -> object:
    """Return what an update returned, or the type of what it raised."""
    try:
        return await store.update(lambda tx: carry_out(tx, changes))
    except (PyswarmError, ZeroDivisionError) as error:
        return type(error)


async def gather_outcomes(store: Store, wave: list[list[Step]]) -> list[object]:
    return list(await asyncio.gather(*(outcome(store, changes) for changes in wave)))


def content(store: Store) -> list[object]:
    view = store.view
    return sorted(
        [("service", s.id, s.spec_generation) for s in view.services]
        + [("task", t.id, t.task_spec_id) for t in view.tasks]
        + [("spec", s.id, view.tasks.count_with_task_spec(s.id)) for s in view.task_specs]
    )


async def check(all_waves: list[list[list[Step]]], fates: list[LostAnswer | None]) -> None:
    clock, cluster, model = ManualClock(), MemoryCluster(), Model()
    async with memory_store(clock, cluster) as store:
        for wave in all_waves:
            cluster.lost_answers = list(fates)
            running = asyncio.ensure_future(gather_outcomes(store, wave))
            while not running.done():
                await clock.advance(0.1)
            assert await running == [model.update(changes) for changes in wave]
            assert content(store) == model.content()
        cluster.lost_answers = []
        await check_reload(cluster, clock, store)


async def check_reload(cluster: MemoryCluster, clock: ManualClock, store: Store) -> None:
    """What another manager loads is what this one has in memory."""
    other = Store(MemoryBackend(cluster, 2), cluster.data_keys, "other", clock)
    task = asyncio.create_task(other.run())
    await other.wait_loaded()
    assert content(other) == content(store)
    task.cancel()
    await asyncio.wait([task])


@settings(max_examples=150, deadline=None)
@given(all_waves=waves, fates=faults)
def test_the_store_does_what_a_dictionary_would_do(all_waves: list[list[list[Step]]], fates: list[LostAnswer | None]) -> None:
    asyncio.run(check(all_waves, fates))
