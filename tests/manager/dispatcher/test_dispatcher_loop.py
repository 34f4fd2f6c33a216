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
from pyswarm_common.state_times import read_state_times
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
            self.dispatcher.heard(session)
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


async def test_after_many_messages_changes_are_gathered_for_longer(bench: Bench) -> None:
    def place(tx: Transaction, number: int, node: int) -> None:
        assigned = TaskStatus(state=TaskState.ASSIGNED)
        tx.create(Task(id=f"t{number}", task_spec_id="spec", service_id="svc", slot=1, node_id=f"x{node}", status=assigned))

    await bench.store.update(lambda tx: [tx.create(Node(id=f"x{i}")) for i in range(300)])
    sessions = [await bench.dispatcher.open_session(f"x{i}", HELLO) for i in range(300)]
    await bench.clock.advance(1.0)
    for session in sessions:
        sent(session)
    await bench.store.update(lambda tx: [place(tx, i, i) for i in range(300)])
    await bench.clock.advance(0.025)
    assert all(len(sent(session)) == 1 for session in sessions)
    await bench.store.update(lambda tx: place(tx, 300, 0))
    await bench.clock.advance(0.05)
    assert sent(sessions[0]) == []
    await bench.clock.advance(0.015)
    assert len(sent(sessions[0])) == 1


async def test_a_status_is_stored_before_it_is_acknowledged_and_never_goes_back(bench: Bench) -> None:
    await bench.assign("t1")
    session = await bench.dispatcher.open_session("n1", HELLO)
    sent(session)
    for number, state in enumerate((TaskState.RUNNING, TaskState.STARTING), 1):
        update = wire.TaskStatusUpdate(task_id="t1", status=TaskStatus(state=state, at_ns=7 + number))
        await bench.dispatcher.handle(session, wire.StatusReport(number=number, updates=(update,)))
        assert sent(session) == [wire.StatusAcknowledgement(number=number)]
    stored = bench.store.view.tasks.must_get("t1")
    assert stored.status.state is TaskState.RUNNING
    assert read_state_times(stored.state_times) == [(TaskState.RUNNING, 8)]


async def test_that_a_running_task_is_unhealthy_is_stored_once(bench: Bench) -> None:
    await bench.assign("t1")
    session = await bench.dispatcher.open_session("n1", HELLO)
    for number, error in enumerate(("", "unhealthy container", "", "something else"), 1):
        update = wire.TaskStatusUpdate(task_id="t1", status=TaskStatus(state=TaskState.RUNNING, at_ns=8, error=error))
        await bench.dispatcher.handle(session, wire.StatusReport(number=number, updates=(update,)))
    stored = bench.store.view.tasks.must_get("t1")
    assert (stored.status.state, stored.status.error) == (TaskState.RUNNING, "unhealthy container")
    assert read_state_times(stored.state_times) == [(TaskState.RUNNING, 8)]


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


async def test_a_session_that_was_replaced_gives_no_sign_of_life(bench: Bench) -> None:
    older = await bench.dispatcher.open_session("n1", HELLO)
    await bench.dispatcher.open_session("n1", HELLO)
    for _ in range(4):
        await bench.clock.advance(1.0)
        bench.dispatcher.heard(older)
    assert bench.store.view.nodes.must_get("n1").status.state == "down"


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
    bench.dispatcher.heard(session)
    for _ in range(5):
        await bench.clock.advance(0.2)
    assert bench.store.view.nodes.must_get("n1").status.state == "down"


async def test_more_nodes_than_the_leader_can_hear_each_second_beat_more_slowly(bench: Bench) -> None:
    session = await bench.dispatcher.open_session("n1", HELLO)
    await bench.store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, heartbeat_period_s=0.1)))
    await bench.store.update(lambda tx: [tx.create(Node(id=f"x{i}")) for i in range(300)])
    await bench.clock.advance(0.1)
    states = [message for message in sent(session) if isinstance(message, wire.NodeState)]
    assert states[-1].heartbeat_period_s == 0.5


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
            bench.dispatcher.heard(worker)
        await bench.clock.advance(0.2)
    assert set(probed) == {"192.0.2.1:2377"}
    assert bench.store.view.nodes.must_get("m1").status.state == ("ready" if is_reachable else "down")


async def test_a_node_says_since_when_it_is_ready_or_down(bench: Bench) -> None:
    await bench.dispatcher.open_session("n1", HELLO)
    began_ns = bench.store.view.nodes.must_get("n1").status.since_ns
    assert began_ns == bench.clock.now_ns()
    await bench.clock.advance(1.0)
    await bench.dispatcher.open_session("n1", wire.Hello(protocol_versions=(1,), description=NodeDescription(hostname="h2")))
    assert bench.store.view.nodes.must_get("n1").status.since_ns == began_ns
    for _ in range(30):
        await bench.clock.advance(0.2)
    down = bench.store.view.nodes.must_get("n1").status
    assert down.state == "down"
    assert began_ns < down.since_ns < bench.clock.now_ns()


@pytest.mark.parametrize(
    ("reported", "shown", "error"),
    [
        (TaskState.SHUTDOWN, TaskState.REJECTED, "assigned node no longer meets constraints"),
        (TaskState.COMPLETE, TaskState.COMPLETE, ""),
        (TaskState.RUNNING, TaskState.RUNNING, ""),
    ],
)
async def test_a_task_that_its_node_may_not_keep_is_rejected_when_it_has_stopped(
    bench: Bench, reported: TaskState, shown: TaskState, error: str
) -> None:
    await bench.assign("t1", TaskState.SHUTDOWN)
    task = bench.store.view.tasks.must_get("t1")
    rejected = msgspec.structs.replace(task, rejection="assigned node no longer meets constraints")
    await bench.store.update(lambda tx: tx.update(rejected))
    session = await bench.dispatcher.open_session("n1", HELLO)
    status = TaskStatus(state=reported, container_id="c1", at_ns=7)
    update = wire.TaskStatusUpdate(task_id="t1", status=status)
    await bench.dispatcher.handle(session, wire.StatusReport(number=1, updates=(update,)))
    stored = bench.store.view.tasks.must_get("t1").status
    assert (stored.state, stored.error, stored.container_id, stored.at_ns) == (shown, error, "c1", 7)
    again = wire.TaskStatusUpdate(task_id="t1", status=TaskStatus(state=TaskState.SHUTDOWN, container_id="c2"))
    if reported is not TaskState.RUNNING:
        await bench.dispatcher.handle(session, wire.StatusReport(number=2, updates=(again,)))
        assert bench.store.view.tasks.must_get("t1").status == stored
