"""Counts while a simulation runs: per service how many tasks run, the fewest and the most, and for how long too few did.

A task runs when its agent says so and its machine works: what the managers have not noticed yet counts here already.
Running totals only: nothing grows with the number of tasks or of commits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyswarm_common.objects import Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.simulator.head import Head, SimulatedClock
from pyswarm_manager.store.subscription import Change

_UNDER_WAY = ("updating", "rollback_started")


@dataclass
class ServiceTally:
    """What is known of one service. Times are virtual nanoseconds since the start."""

    name: str
    mode: str
    asked: int = 0
    """How many tasks it should have running; of global services: how many it has."""
    running: int = 0
    wanted: int = 0
    """Tasks that are to run, whether they do or not."""
    moving: int = 0
    """Tasks about which something is still to happen."""
    is_updating: bool = False
    complete_at_ns: int | None = None
    """When it first had all it asked for."""
    fewest_running: int | None = None
    """Since then."""
    fewest_at_ns: int = 0
    most_running: int = 0
    short_ns: int = 0
    """How long, since then, fewer ran than it asked for."""
    failed: int = 0
    created: int = 0
    _short_since_ns: int | None = None

    @property
    def is_short(self) -> bool:
        """Whether fewer tasks run than it asks for."""
        return self.running < self.target

    @property
    def target(self) -> int:
        """How many tasks should run; jobs have no such number."""
        if self.mode.endswith("-job"):
            return 0
        return self.wanted if self.mode == "global" else self.asked

    def note(self, now_ns: int) -> None:
        """Take the numbers of a moment in, after a commit."""
        self.most_running = max(self.most_running, self.running)
        if self.complete_at_ns is None:
            if self.target > 0 and not self.is_short:
                self.complete_at_ns, self.fewest_running, self.fewest_at_ns = now_ns, self.running, now_ns
            return
        if self.fewest_running is None or self.running < self.fewest_running:
            self.fewest_running, self.fewest_at_ns = self.running, now_ns
        if self.is_short and self._short_since_ns is None:
            self._short_since_ns = now_ns
        elif not self.is_short and self._short_since_ns is not None:
            self.short_ns += now_ns - self._short_since_ns
            self._short_since_ns = None

    def finish(self, now_ns: int) -> None:
        """Count what lasts until the end."""
        if self._short_since_ns is not None:
            self.short_ns += now_ns - self._short_since_ns
            self._short_since_ns = now_ns


class Tally:
    """The counts of all services that there were."""

    def __init__(self, head: Head, clock: SimulatedClock, works: Callable[[str], bool]) -> None:
        self.services: dict[str, ServiceTally] = {}
        self.moving = 0
        self.last_change_ns = 0
        self.on_update_status: Callable[[Service], None] = lambda _: None
        self._head = head
        self._clock = clock
        self._works = works
        self._touched: dict[str, ServiceTally] = {}
        head.listeners.append(self._hear)

    @property
    def is_updating(self) -> bool:
        """Whether a service's update or rollback is under way."""
        return any(tally.is_updating for tally in self.services.values())

    def forget_node(self, node_id: str) -> None:
        """Take a node's tasks out of the counts, before its machine begins or ends to work."""
        for task in self._head.view.tasks.of_node(node_id):
            self._count(task, -1)

    def remember_node(self, node_id: str) -> None:
        """Count a node's tasks again."""
        for task in self._head.view.tasks.of_node(node_id):
            self._count(task, 1)
        self._note_touched()

    def _hear(self, changes: Iterable[Change]) -> None:
        self.last_change_ns = self._clock.now_ns() - self._clock.start_ns
        for before, after in changes:
            if isinstance(before, Task):
                self._count(before, -1)
            if isinstance(after, Task):
                self._count(after, 1)
                self._count_story(before, after)
            elif isinstance(after, Service):
                self._note_service(before, after)
            elif isinstance(before, Service):
                tally = self.services[before.id]
                tally.asked, tally.is_updating = 0, False
        self._note_touched()

    def _note_service(self, before: object, service: Service) -> None:
        tally = self.services.get(service.id)
        if tally is None:
            tally = self.services[service.id] = ServiceTally(service.name, service.spec.mode_name)
        tally.asked = service.spec.replicas if service.spec.is_replicated else 0
        status = service.update_status
        tally.is_updating = status is not None and status.state in _UNDER_WAY
        self._touched[service.id] = tally
        if status is not None and (not isinstance(before, Service) or before.update_status != status):
            self.on_update_status(service)

    def _count(self, task: Task, by: int) -> None:
        tally = self.services.get(task.service_id)
        if tally is None:
            return
        self._touched[task.service_id] = tally
        works = self._works(task.node_id) if task.node_id else True
        if task.status.state is TaskState.RUNNING and works:
            tally.running += by
        if task.desired_state <= TaskState.RUNNING and not task.is_terminal:
            tally.wanted += by
        if _is_moving(task, works, tally.mode.endswith("-job")):
            tally.moving += by
            self.moving += by

    def _count_story(self, before: object, after: Task) -> None:
        tally = self.services.get(after.service_id)
        if tally is None:
            return
        if before is None:
            tally.created += 1
        elif after.status.state is TaskState.FAILED and isinstance(before, Task) and before.status.state is not TaskState.FAILED:
            tally.failed += 1

    def _note_touched(self) -> None:
        now_ns = self._clock.now_ns() - self._clock.start_ns
        for tally in self._touched.values():
            tally.note(now_ns)
        self._touched.clear()


def _is_moving(task: Task, works: bool, is_job: bool) -> bool:
    """Whether something is still to happen about a task without anything else happening first."""
    state = task.status.state
    if task.desired_state > TaskState.RUNNING:
        return TaskState.ASSIGNED <= state <= TaskState.RUNNING and works
    if state < TaskState.ASSIGNED:
        return not task.status.error
    if state is TaskState.RUNNING:
        return is_job or not works
    if state.is_terminal:  # succeeded at once, unless held back, or its place wants no task now
        return task.start_at_ns > task.status.at_ns
    return True
