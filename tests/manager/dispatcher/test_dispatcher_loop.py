"""The dispatcher on a real store in memory, with time in our hands."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from pyswarm_common import wire
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import NotFound, Unavailable
from pyswarm_common.objects import Cluster, ManagerStatus, Node, NodeDescription, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.loop import Dispatcher, Probe
from pyswarm_manager.dispatcher.sessions import Session
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

HELLO = wire.Hello(protocol_versions=(1,), description=NodeDescription(hostname="h1"))


class Bench:
    """A dispatcher that runs, with one node and one service."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.probe: Probe = self._refuse
        self.dispatcher = Dispatcher(store, clock, lambda address, timeout_s: self.probe(address, timeout_s))

    async def _refuse(self, address: str, timeout_s: float) -> bool:
        return False

    async def assign(self, task_id: str, desired: TaskState = TaskState.RUNNING) -> None:
        """Place a task on the node, as the scheduler does."""
        task = Task(
            id=task_id, task_spec_id="spec", service_id="svc", slot=1, node_id="n1", status=TaskStatus(state=TaskState.ASSIGNED)
        )
        await self.store.update(lambda tx: tx.create(msgspec.structs.replace(task, desired_state=desired)))
        await self.clock.advance(0.1)

    async def advance_beating(self, session: Session, seconds: float) -> None:
        """Let time pass while the agent sends its heartbeats."""
        for _ in range(round(seconds)):
            await self.dispatcher.handle(session, wire.Heartbeat())
            await self.clock.advance(1.0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = ManualClock()
    async with memory_store(clock) as store:

        def seed(tx: Transaction) -> None:
            tx.create(Cluster(id="c"))
            tx.create(Node(id="n1"))
            tx.create(TaskSpec(id="spec"))
            tx.create(Service(id="svc", name="web", task_spec_id="spec"))

        await store.update(seed)
        bench = Bench(store, clock)
        running = asyncio.ensure_future(bench.dispatcher.run())
        await clock.advance(0.1)
        yield bench
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def sent(session: Session) -> list[wire.ManagerMessage | None]:
    messages = []
    while not session.outgoing.empty():
        messages.append(session.outgoing.get_nowait())
    return messages


async def test_a_session_makes_its_node_ready_and_brings_the_complete_set(bench: Bench) -> None:
    await bench.assign("t1")
    session = await bench.dispatcher.open_session("n1", HELLO)
    welcome, state, assignments = sent(session)
    assert isinstance(welcome, wire.Welcome)
    assert isinstance(state, wire.NodeState)
    assert (state.role, state.heartbeat_period_s) == ("worker", 1.0)
    assert isinstance(assignments, wire.Assignments)
    assert (assignments.is_complete, [t.task_id for t in assignments.tasks]) == (True, ["t1"])
    node = bench.store.view.nodes.must_get("n1")
    assert (node.status.state, node.name) == ("ready", "h1")


async def test_later_tasks_come_as_increments(bench: Bench) -> None:
    session = await bench.dispatcher.open_session("n1", HELLO)
    sent(session)
    await bench.assign("t1")
    (assignments,) = sent(session)
    assert isinstance(assignments, wire.Assignments)
    assert (assignments.is_complete, [t.task_id for t in assignments.tasks]) == (False, ["t1"])


async def test_a_status_is_stored_before_it_is_acknowledged_and_never_goes_back(bench: Bench) -> None:
    await bench.assign("t1")
    session = await bench.dispatcher.open_session("n1", HELLO)
    sent(session)
    for number, state in enumerate((TaskState.RUNNING, TaskState.STARTING), 1):
        update = wire.TaskStatusUpdate(task_id="t1", status=TaskStatus(state=state))
        await bench.dispatcher.handle(session, wire.StatusReport(number=number, updates=(update,)))
        assert sent(session) == [wire.StatusAcknowledgement(number=number)]
    assert bench.store.view.tasks.must_get("t1").status.state is TaskState.RUNNING


async def test_an_agent_cannot_write_the_status_of_another_nodes_task(bench: Bench) -> None:
    await bench.store.update(lambda tx: tx.create(Node(id="n2")))
    await bench.assign("t1")
    session = await bench.dispatcher.open_session("n2", HELLO)
    update = wire.TaskStatusUpdate(task_id="t1", status=TaskStatus(state=TaskState.FAILED))
    await bench.dispatcher.handle(session, wire.StatusReport(number=1, updates=(update,)))
    assert bench.store.view.tasks.must_get("t1").status.state is TaskState.ASSIGNED


async def test_a_silent_node_is_down_and_its_session_over(bench: Bench) -> None:
    session = await bench.dispatcher.open_session("n1", HELLO)
    await bench.advance_beating(session, 5)
    assert bench.store.view.nodes.must_get("n1").status.state == "ready"
    sent(session)
    for _ in range(18):
        await bench.clock.advance(0.2)
    assert bench.store.view.nodes.must_get("n1").status.state == "down"
    assert sent(session) == [wire.Goodbye(reason="heartbeats were missed"), None]


async def test_a_node_that_returns_is_ready_again(bench: Bench) -> None:
    await bench.dispatcher.open_session("n1", HELLO)
    for _ in range(30):
        await bench.clock.advance(0.2)
    assert bench.store.view.nodes.must_get("n1").status.state == "down"
    await bench.dispatcher.open_session("n1", HELLO)
    assert bench.store.view.nodes.must_get("n1").status.state == "ready"


async def test_a_node_that_was_removed_is_refused(bench: Bench) -> None:
    session = await bench.dispatcher.open_session("n1", HELLO)
    sent(session)
    await bench.store.update(lambda tx: tx.delete(Node, "n1"))
    await bench.clock.advance(0.1)
    assert sent(session) == [wire.Goodbye(reason="the node was removed from the cluster"), None]
    with pytest.raises(NotFound):
        await bench.dispatcher.open_session("n1", HELLO)


async def test_a_newer_session_of_a_node_ends_the_older(bench: Bench) -> None:
    older = await bench.dispatcher.open_session("n1", HELLO)
    sent(older)
    await bench.dispatcher.open_session("n1", HELLO)
    assert sent(older) == [wire.Goodbye(reason="the node opened another session"), None]


async def test_a_manager_that_does_not_lead_opens_no_session() -> None:
    clock = ManualClock()
    async with memory_store(clock) as store:
        with pytest.raises(Unavailable):
            await Dispatcher(store, clock).open_session("n1", HELLO)


async def test_another_heartbeat_period_is_told_at_once_and_counts(bench: Bench) -> None:
    session = await bench.dispatcher.open_session("n1", HELLO)
    await bench.clock.advance(0.1)
    sent(session)
    await bench.store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, heartbeat_period_s=0.2)))
    await bench.clock.advance(0.1)
    (state,) = sent(session)
    assert isinstance(state, wire.NodeState)
    assert state.heartbeat_period_s == 0.2
    await bench.dispatcher.handle(session, wire.Heartbeat())
    for _ in range(5):
        await bench.clock.advance(0.2)
    assert bench.store.view.nodes.must_get("n1").status.state == "down"


async def test_more_nodes_than_the_leader_can_hear_each_second_beat_more_slowly(bench: Bench) -> None:
    session = await bench.dispatcher.open_session("n1", HELLO)
    await bench.store.update(lambda tx: [tx.create(Node(id=f"x{i}")) for i in range(60)])
    await bench.store.update(lambda tx: [tx.create(Node(id=f"y{i}")) for i in range(60)])
    await bench.clock.advance(0.1)
    states = [message for message in sent(session) if isinstance(message, wire.NodeState)]
    assert states[-1].heartbeat_period_s == 1.25


@pytest.mark.parametrize("is_reachable", [True, False])
async def test_a_silent_manager_is_down_only_if_its_address_is_silent_too(bench: Bench, is_reachable: bool) -> None:
    probed: list[str] = []

    async def probe(address: str, timeout_s: float) -> bool:
        probed.append(address)
        await bench.clock.sleep(timeout_s)
        return is_reachable

    bench.probe = probe
    await bench.store.update(lambda tx: tx.create(Node(id="m1", manager=ManagerStatus(address="192.0.2.1:2377"))))
    await bench.dispatcher.open_session("m1", HELLO)
    worker = await bench.dispatcher.open_session("n1", HELLO)
    for step in range(18):
        if step % 5 == 0:
            await bench.dispatcher.handle(worker, wire.Heartbeat())
        await bench.clock.advance(0.2)
    assert set(probed) == {"192.0.2.1:2377"}
    assert bench.store.view.nodes.must_get("m1").status.state == ("ready" if is_reachable else "down")
