"""The real loops on the real stores of two managers: the one that leads loses the fence at any await of its loops, and the other
one ends what it began, as if nothing had been.

Awaits are counted over all loops of the first leader. Their coroutines are driven by hand: at the chosen await the other manager is
elected, and none of the first one's loops takes another step, whatever write it had under way. Agents report to whoever leads.
"""

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from scenarios import final_state, readable

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import PyswarmError
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Cluster, Node, Task, TaskStatus
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState, Writer, may_write
from pyswarm_manager.api import service_changes
from pyswarm_manager.api.service_spec import draft_service
from pyswarm_manager.orchestration import orchestration_loops
from pyswarm_manager.simulator.amount_types import Chance, Duration, Span
from pyswarm_manager.simulator.behaviour import next_step
from pyswarm_manager.simulator.scenario import Behaviour, NodeGroup, RestartPolicySection, ServiceSection, UpdateSection
from pyswarm_manager.simulator.specs import make_node, service_body
from pyswarm_manager.store.memory import MemoryBackend, MemoryCluster
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

ROUND_S = 0.1
REST_ROUNDS = 30
"""So long nothing must have changed: longer than any delay of the scenarios."""
FIRST, SECOND = 1, 2

BROKEN = "image:broken"
GOOD = Behaviour(
    prepare_time=Span(0, 0), start_time=Span(SECOND_NS // 5, SECOND_NS // 5), stop_time=Span(SECOND_NS // 5, SECOND_NS // 5)
)
BAD = msgspec.structs.replace(GOOD, failure_probability=Chance(1))
WEB = ServiceSection(
    name="web",
    image="image:1",
    replicas=2,
    restart_policy=RestartPolicySection(delay=Duration(SECOND_NS // 2), max_attempts=1),
    update_config=UpdateSection(parallelism=1, delay=Duration(SECOND_NS // 5), monitor=Duration(SECOND_NS // 2)),
)


def with_update(**changes: Any) -> ServiceSection:
    assert WEB.update_config is not None
    return msgspec.structs.replace(WEB, update_config=msgspec.structs.replace(WEB.update_config, **changes))


class Awaits:
    """Counts the awaits of some loops, and stops them all at the chosen one."""

    def __init__(self, fall_at: int, on_fall: Callable[[], None]) -> None:
        self.count = 0
        self.has_fallen = False
        self._fall_at = fall_at
        self._on_fall = on_fall

    @types.coroutine
    def counted(self, coroutine: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        """Run the coroutine up to the chosen await; from there on only its cancellation gets through to it."""
        error: BaseException | None = None
        while True:
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration:
                return
            self.count += 1
            if self.count == self._fall_at:
                self.has_fallen = True
                self._on_fall()
            error = None
            try:
                if self.has_fallen:
                    yield from asyncio.get_running_loop().create_future()
                yield awaited
            except BaseException as thrown:  # noqa: BLE001 (whatever it is goes into the coroutine)
                error = thrown


class Agents:
    """All agents, which report to the manager that leads, and again until it has taken it."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._planned: dict[tuple[str, TaskState, TaskState], tuple[float, TaskState]] = {}

    async def act(self, store: Store) -> None:
        """Plan what tasks newly ask for, and report what is due."""
        now_s = self._clock.monotonic_s()
        for task in list(store.view.tasks):
            key = (task.id, task.status.state, task.desired_state)
            if task.node_id and key not in self._planned and (step := self._next(store, task)) is not None:
                self._planned[key] = step
            due_s, state = self._planned.get(key, (float("inf"), TaskState.NEW))
            if due_s <= now_s:
                await store.update(lambda tx, i=task.id, state=state: _report(tx, i, state))  # type: ignore[misc]

    def _next(self, store: Store, task: Task) -> tuple[float, TaskState] | None:
        container = store.view.task_specs.must_get(task.task_spec_id).template.container_spec
        is_bad = container is not None and container.image == BROKEN
        step = next_step(task, BAD if is_bad else GOOD, 10 * SECOND_NS, lambda: 0.0)
        return None if step is None else (self._clock.monotonic_s() + step.delay_ns / SECOND_NS, step.state)


def _report(tx: Transaction, task_id: str, state: TaskState) -> None:
    task = tx.tasks.get(task_id)
    if task is not None and may_write(Writer.AGENT, task.status.state, state):
        tx.update(msgspec.structs.replace(task, status=TaskStatus(state=state, at_ns=tx.now_ns)))


class Managers:
    """Two managers, of which the first leads until it falls."""

    def __init__(self, stack: AsyncExitStack, clock: ManualClock, memory: MemoryCluster, stores: list[Store], fall_at: int) -> None:
        self.awaits = Awaits(fall_at, lambda: memory.elect(SECOND))
        self._stack = stack
        self._clock = clock
        self._stores = stores
        self._has_taken_over = False

    @property
    def leader(self) -> Store:
        """The store of the manager that leads, or is about to."""
        return self._stores[1 if self.awaits.has_fallen else 0]

    async def begin(self) -> None:
        """Start the first leader's loops."""
        await self._stores[0].wait_leader()
        runs = [self.awaits.counted(loop.run()) for loop in orchestration_loops(self._stores[0], self._clock)]
        self._loops = await self._stack.enter_async_context(running(*runs))

    async def take_over(self) -> None:
        """When the first has fallen and the second leads: end the first one's loops, start the second one's."""
        if self.awaits.has_fallen and not self._has_taken_over and self._stores[1].is_leader:
            self._has_taken_over = True
            for task in self._loops:
                task.cancel()
            runs = [loop.run() for loop in orchestration_loops(self._stores[1], self._clock)]
            await self._stack.enter_async_context(running(*runs))


@asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Run these inside the block."""
    tasks = [asyncio.ensure_future(_run(coroutine)) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, PyswarmError):
                raise result


async def _run(coroutine: Any) -> None:
    await coroutine


async def live_through(section: ServiceSection, image: str, fall_at: int = 0) -> tuple[dict[str, Any], int]:
    """Create the service, update it to the image, and wait for rest; returns the end, and how many awaits there were."""
    clock, memory = ManualClock(), MemoryCluster((FIRST, SECOND))
    async with AsyncExitStack() as stack:
        stores = [Store(MemoryBackend(memory, m), memory.data_keys, f"manager{m}", clock) for m in (FIRST, SECOND)]
        await stack.enter_async_context(running(*(store.run() for store in stores)))
        managers = Managers(stack, clock, memory, stores, fall_at)
        await managers.begin()
        await stores[0].update(lambda tx: [tx.create(Cluster(id="c")), *map(tx.create, _nodes())])
        draft = draft_service(service_body(section, "web"))
        service_id = new_id()
        await stores[0].update(lambda tx: service_changes.create_service(tx, service_id, new_id(), draft, ""))
        await _settle(managers, clock)
        before = managers.leader.version_index(managers.leader.view.services.must_get(service_id))
        update = service_changes.ServiceUpdate(
            draft=draft_service(service_body(msgspec.structs.replace(section, image=image), "web")),
            version_index=before,
            new_task_spec_id=new_id(),
        )
        await managers.leader.update(lambda tx: service_changes.update_service(tx, service_id, update))
        await _settle(managers, clock)
        assert managers.awaits.has_fallen == bool(fall_at)
        return final_state(managers.leader.view), managers.awaits.count


def _nodes() -> list[Node]:
    return [make_node(NodeGroup(name="n"), number) for number in (1, 2)]


async def _settle(managers: Managers, clock: ManualClock) -> None:
    agents = Agents(clock)
    last, quiet = -1, 0
    for _ in range(600):
        await clock.advance(ROUND_S)
        await managers.take_over()
        if managers.leader.is_leader:
            with contextlib.suppress(PyswarmError):
                await agents.act(managers.leader)
        present = _fingerprint(managers.leader)
        quiet = quiet + 1 if present == last else 0
        last = present
        if quiet == REST_ROUNDS and managers.leader.is_leader:
            return
    raise AssertionError(f"no rest; {readable(final_state(managers.leader.view))}")


def _fingerprint(store: Store) -> int:
    return hash((tuple(store.view.tasks), tuple(store.view.services)))


SCENARIOS = {
    "stop-first": (WEB, "image:2"),
    "start-first": (with_update(order="start-first"), "image:2"),
    "rolls back": (with_update(failure_action="rollback"), BROKEN),
    "pauses": (WEB, BROKEN),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_leader_that_loses_the_fence_at_any_await_changes_nothing(name: str) -> None:
    section, image = SCENARIOS[name]
    expected, await_count = await live_through(section, image)
    assert expected["services"]["web"]["running"] >= 1
    assert await_count > 100
    for fall_at in range(1, await_count + 1):
        state, _ = await live_through(section, image, fall_at)
        assert state == expected, f"fallen at await {fall_at}:\n{readable(state)}\ninstead of\n{readable(expected)}"
