"""Imagined machines and their agents: they carry tasks out, crash, are cut off, come back, and report to the head.

Reports reach the managers in batches, one transaction for each time on the grid. States that take an agent no time are not
reported, as real agents report the newest only. A machine that is down or cut off is declared down after the same silence as by
the dispatcher; when it comes back, a crashed one reports its tasks as failed, one that was cut off goes on with them.
"""

import enum
import math
from collections.abc import Callable, Iterable

import msgspec

from pyswarm_common.objects import Node, NodeStatus, Task, TaskStatus
from pyswarm_common.specs import DEFAULT_STOP_GRACE_PERIOD_NS, SECOND_NS
from pyswarm_common.state_times import with_state_time
from pyswarm_common.task_states import TaskState, Writer, may_write
from pyswarm_manager.dispatcher.liveness import GRACE_PERIODS, MASS_SILENCE_GRACE_S, heartbeat_period_s
from pyswarm_manager.simulator.behaviour import Draw, next_step
from pyswarm_manager.simulator.calendar import Calendar
from pyswarm_manager.simulator.head import Head, SimulatedClock
from pyswarm_manager.simulator.scenario import Behaviour
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.transaction import Transaction

DISPATCH_NS = SECOND_NS // 50
"""From a commit until the agent has the assignment."""
BehaviourOf = Callable[[Task], Behaviour]
_FAILED = "imagined failure"


class Condition(enum.Enum):
    """What is the matter with a machine that does not work."""

    CRASHED = "crashed"
    CUT = "cut"


class Machines:
    """All machines of a simulation."""

    def __init__(self, head: Head, clock: SimulatedClock, grid_ns: int, draw: Draw, behaviour_of: BehaviourOf) -> None:
        self.before_change: Callable[[str], None] = lambda _: None
        """Called with a node's id before its machine begins or ends to work."""
        self.after_change: Callable[[str], None] = lambda _: None
        self._head = head
        self._clock = clock
        self._draw = draw
        self._behaviour_of = behaviour_of
        self._steps: Calendar[tuple[str, TaskState, TaskState]] = Calendar(grid_ns)
        self._deadlines: Calendar[str] = Calendar(1)
        self._silent: dict[str, Condition] = {}
        head.listeners.append(self._hear)

    def works(self, node_id: str) -> bool:
        """Whether the node's machine is there and connected."""
        return node_id not in self._silent and node_id in self._head.view.nodes

    @property
    def has_unnoticed(self) -> bool:
        """Whether a machine has gone silent and is not declared down yet."""
        return self._deadlines.next_ns is not None

    @property
    def next_ns(self) -> int | None:
        """When something happens next; None when nothing does by itself."""
        return min((t for t in (self._steps.next_ns, self._deadlines.next_ns) if t is not None), default=None)

    def lose(self, node_ids: Iterable[str], condition: Condition) -> None:
        """Let machines crash, or cut them off."""
        now_ns = self._clock.now_ns()
        lost = [node_id for node_id in node_ids if self.works(node_id)]
        for node_id in lost:
            self.before_change(node_id)
            self._silent[node_id] = condition
            self.after_change(node_id)
        deadline_ns = now_ns + math.ceil(self._grace_s() * SECOND_NS)
        for node_id in lost:
            self._deadlines.add(deadline_ns, node_id)

    def restore(self, node_ids: Iterable[str]) -> None:
        """Bring machines back: their nodes become ready, and their agents get the complete set of their tasks."""
        back = [node_id for node_id in node_ids if node_id in self._silent and node_id in self._head.view.nodes]
        tasks = self._head.view.tasks
        ended = [task for n in back if self._silent[n] is Condition.CRASHED for task in tasks.of_node(n) if _has_begun(task)]
        self._head.update(lambda tx: _write(tx, [(t, _end_of(t)) for t in ended], self._clock.now_ns()))
        for node_id in back:
            self.before_change(node_id)
            del self._silent[node_id]
            self.after_change(node_id)
            for task in tasks.of_node(node_id):
                self._plan(task)
        self._head.update(lambda tx: _set_status(tx, back, NodeStatus(state="ready")))

    def work(self) -> bool:
        """Carry out what is due now; False when nothing is."""
        now_ns = self._clock.now_ns()
        if silent := [node_id for node_id in self._deadlines.take(now_ns) if node_id in self._silent]:
            self._head.update(lambda tx: _set_status(tx, silent, NodeStatus(state="down", message="heartbeat failure")))
            return True
        steps = self._steps.take(now_ns)
        tasks = self._head.view.tasks
        reports: list[tuple[Task, TaskState]] = []
        for task_id, from_state, to_state in steps:
            task = tasks.get(task_id)
            if task is not None and self.works(task.node_id) and _is_wanted(task, from_state, to_state):
                reports.append((task, to_state))
        if reports:
            self._head.update(lambda tx: _write(tx, reports, now_ns))
        return bool(steps)

    def _grace_s(self) -> float:
        view = self._head.view
        unnoticed = sum(1 for n in self._silent if (node := view.nodes.get(n)) is not None and node.status.state != "down")
        if unnoticed > 1 and 3 * unnoticed > len(view.nodes):
            return MASS_SILENCE_GRACE_S
        return GRACE_PERIODS * heartbeat_period_s(view.cluster.heartbeat_period_s, len(view.nodes))

    def _hear(self, changes: Iterable[Change]) -> None:
        for before, after in changes:
            if isinstance(after, Task) and after.node_id and isinstance(before, Task | None):
                if _has_new_orders(before, after) and self.works(after.node_id):
                    self._plan(after)
            elif isinstance(before, Node) and after is None:
                self._silent.pop(before.id, None)

    def _plan(self, task: Task) -> None:
        step = next_step(task, self._behaviour_of(task), self._grace_period_ns(task), self._draw)
        if step is not None:
            at_ns = self._clock.now_ns() + max(step.delay_ns, DISPATCH_NS)
            self._steps.add(at_ns, (task.id, task.status.state, step.state))

    def _grace_period_ns(self, task: Task) -> int:
        spec = self._head.view.task_specs.get(task.task_spec_id)
        container = spec.template.container_spec if spec is not None else None
        period = container.stop_grace_period if container is not None else None
        return DEFAULT_STOP_GRACE_PERIOD_NS if period is None else period


def _has_new_orders(before: Task | None, after: Task) -> bool:
    """Whether an agent has something new to do or to wait for."""
    if before is None or before.status.state is not after.status.state or before.node_id != after.node_id:
        return True
    if after.desired_state is before.desired_state:
        return False
    if after.desired_state > TaskState.RUNNING:
        return before.desired_state <= TaskState.RUNNING
    return after.status.state is TaskState.READY  # earlier states are on their way there already


def _is_wanted(task: Task, from_state: TaskState, to_state: TaskState) -> bool:
    """Whether a step planned earlier is still what is asked for."""
    if to_state is TaskState.SHUTDOWN:
        return task.desired_state > TaskState.RUNNING and not task.is_terminal
    if task.status.state is not from_state or task.desired_state > TaskState.RUNNING:
        return False
    return to_state.is_terminal or to_state <= task.desired_state


def _has_begun(task: Task) -> bool:
    return TaskState.ASSIGNED < task.status.state <= TaskState.RUNNING


def _end_of(task: Task) -> TaskState:
    return TaskState.FAILED if task.desired_state <= TaskState.RUNNING else TaskState.SHUTDOWN


def _write(tx: Transaction, reports: Iterable[tuple[Task, TaskState]], now_ns: int) -> None:
    statuses: dict[TaskState, TaskStatus] = {}
    for task, state in reports:
        present = tx.tasks.get(task.id)
        if present is None or not may_write(Writer.AGENT, present.status.state, state):
            continue
        status = statuses.get(state)
        if status is None:
            failed = state is TaskState.FAILED
            message = "started" if state is TaskState.RUNNING else state.api_name
            error = _FAILED if failed else ""
            status = statuses[state] = TaskStatus(state=state, at_ns=now_ns, message=message, error=error, exit_code=int(failed))
        times = with_state_time(present.state_times, state, now_ns)
        tx.update(msgspec.structs.replace(present, status=status, state_times=times))


def _set_status(tx: Transaction, node_ids: Iterable[str], status: NodeStatus) -> None:
    for node_id in node_ids:
        node = tx.nodes.get(node_id)
        if node is not None and node.status != status:
            tx.update(msgspec.structs.replace(node, status=status))
