"""The life of the tasks on one node, pure: events in, instructions out.

The machine knows each task's assignment and observed state. Events (past tense) say what the manager wants or what happened;
instructions (imperative) say what the worker must do and what the reporter must tell. Each carries its task's id, and `cause` names
the event that led to it. A task has at most one operation under way: while the worker is at it, a wish to stop is carried
out by `StopTask`, which the worker answers with `TaskStopped` whatever it interrupted.

    ACCEPTED → PREPARING ──TaskPrepared──→ READY ──(wanted running)──→ STARTING ──TaskStarted──→ RUNNING
                   └──PreparationFailed──→ REJECTED                        └──StartFailed──→ FAILED
    RUNNING ──TaskExited──→ COMPLETE | FAILED
    any of them ──(wanted shutdown)──StopTask, TaskStopped──→ SHUTDOWN

An ended task keeps its container, for its logs, until the manager forgets the task (`TaskRemoved`).
"""

from typing import TypeAlias

import msgspec

from pyswarm_common.objects import Record, TaskStatus
from pyswarm_common.task_states import TaskState, may_follow
from pyswarm_common.wire import TaskAssignment


class TaskAssigned(Record, frozen=True, kw_only=True):
    """The manager gave the node this task, or changed what it wants of it."""

    assignment: TaskAssignment


class TaskRestored(Record, frozen=True, kw_only=True):
    """After a restart of the agent: the task as it was kept on disk.

    `is_running`: its container was started, and whether it still runs or how it ended is yet to be told; `pid` if it runs.
    """

    assignment: TaskAssignment
    status: TaskStatus
    is_running: bool
    pid: int = 0


class TaskRemoved(Record, frozen=True, kw_only=True):
    """The manager has forgotten the task."""

    task_id: str


class TaskPrepared(Record, frozen=True, kw_only=True):
    """Image, network and container are there."""

    task_id: str
    container_id: str


class PreparationFailed(Record, frozen=True, kw_only=True):
    """The task cannot run here: no such image, bad spec, no network."""

    task_id: str
    error: str


class TaskStarted(Record, frozen=True, kw_only=True):
    """The container's process runs."""

    task_id: str
    pid: int


class StartFailed(Record, frozen=True, kw_only=True):
    """The container could not be started."""

    task_id: str
    error: str


class TaskExited(Record, frozen=True, kw_only=True):
    """The container ended by itself."""

    task_id: str
    exit_code: int
    error: str = ""


class TaskStopped(Record, frozen=True, kw_only=True):
    """The worker has stopped the container, or found none to stop."""

    task_id: str
    exit_code: int = 0


class TaskCleared(Record, frozen=True, kw_only=True):
    """Nothing of the task is left on the node."""

    task_id: str


Event: TypeAlias = (
    TaskAssigned
    | TaskRestored
    | TaskRemoved
    | TaskPrepared
    | PreparationFailed
    | TaskStarted
    | StartFailed
    | TaskExited
    | TaskStopped
    | TaskCleared
)


class PrepareTask(Record, frozen=True, kw_only=True):
    """Pull the image, attach the network, create the container; answer with TaskPrepared or PreparationFailed."""

    assignment: TaskAssignment
    cause: str


class StartTask(Record, frozen=True, kw_only=True):
    """Start the container; answer with TaskStarted or StartFailed, and later TaskExited."""

    task_id: str
    cause: str


class WatchTask(Record, frozen=True, kw_only=True):
    """The container already runs: answer with TaskExited when it ends."""

    task_id: str
    cause: str


class StopTask(Record, frozen=True, kw_only=True):
    """Give up what is under way, stop the container with its grace period, free its network; answer with TaskStopped.

    `is_serving`: it may be the backend of balancers anywhere, which are given a moment to leave it out first.
    """

    task_id: str
    cause: str
    is_serving: bool = False


class ReleaseTask(Record, frozen=True, kw_only=True):
    """The container has ended: free its network, keep its log. No answer."""

    task_id: str
    cause: str


class ClearTask(Record, frozen=True, kw_only=True):
    """Remove every trace of the task; answer with TaskCleared."""

    task_id: str
    cause: str


class ReportStatus(Record, frozen=True, kw_only=True):
    """Keep the status on disk and tell the manager."""

    task_id: str
    status: TaskStatus
    cause: str


class ForgetTask(Record, frozen=True, kw_only=True):
    """Drop the record on disk; nothing more to report."""

    task_id: str
    cause: str


Instruction: TypeAlias = PrepareTask | StartTask | WatchTask | StopTask | ReleaseTask | ClearTask | ReportStatus | ForgetTask


_BEFORE_STARTING = (TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY)
AWAITED_IN: dict[type[Event], tuple[TaskState, ...]] = {
    TaskPrepared: _BEFORE_STARTING,
    PreparationFailed: _BEFORE_STARTING,
    TaskStarted: (TaskState.STARTING,),
    StartFailed: (TaskState.STARTING,),
    TaskExited: (TaskState.RUNNING,),
}
"""The observed states in which each answer of the worker is news (a restored READY task is prepared again)."""


class TaskRecord(Record, frozen=True, kw_only=True):
    """What the machine knows of one task. `is_busy`: the worker owes an answer; `is_stopping`: to `StopTask`.

    `is_removed`: its traces are being removed; `is_assigned_again`: and meanwhile the manager gave it to the node once more.
    """

    assignment: TaskAssignment
    status: TaskStatus
    is_busy: bool = False
    is_stopping: bool = False
    is_removed: bool = False
    is_assigned_again: bool = False


class TaskMachine:
    """All tasks of the node."""

    def __init__(self) -> None:
        self.records: dict[str, TaskRecord] = {}

    def handle(self, event: Event, now_ns: int) -> list[Instruction]:
        """Take in one event; returns what to do now, in order. Events of tasks that are not known do nothing."""
        cause = type(event).__name__
        if isinstance(event, TaskAssigned):
            return self._assigned(event.assignment, now_ns, cause)
        if isinstance(event, TaskRestored):
            return self._restored(event, now_ns, cause)
        record = self.records.get(event.task_id)
        if record is None:
            return []
        if isinstance(event, TaskRemoved):
            return self._removed(record, cause)
        if isinstance(event, TaskCleared):
            return self._cleared(record, now_ns, cause)
        if record.is_removed:
            return []
        return self._progressed(record, event, now_ns, cause)

    def _assigned(self, assignment: TaskAssignment, now_ns: int, cause: str) -> list[Instruction]:
        record = self.records.get(assignment.task_id)
        if record is not None:
            if record.is_removed:
                self._put(assignment.task_id, assignment=assignment, is_assigned_again=True)
                return []
            self._put(assignment.task_id, assignment=assignment)
            return self._pursue(assignment.task_id, now_ns, cause)
        status = TaskStatus(state=TaskState.ACCEPTED, at_ns=now_ns, message="accepted")
        self.records[assignment.task_id] = TaskRecord(assignment=assignment, status=status)
        if assignment.desired_state > TaskState.RUNNING:
            return self._stop(assignment.task_id, cause)
        return self._prepare(assignment.task_id, now_ns, cause)

    def _restored(self, event: TaskRestored, now_ns: int, cause: str) -> list[Instruction]:
        task_id = event.assignment.task_id
        self.records[task_id] = TaskRecord(assignment=event.assignment, status=event.status)
        again = ReportStatus(task_id=task_id, status=event.status, cause=cause)
        if event.status.state.is_terminal:
            return [ReleaseTask(task_id=task_id, cause=cause), again]
        if event.assignment.desired_state > TaskState.RUNNING:
            return [again, *self._stop(task_id, cause)]
        if event.is_running:
            instructions: list[Instruction] = [WatchTask(task_id=task_id, cause=cause)]
            if event.status.state is not TaskState.RUNNING:
                return instructions + self._move(task_id, TaskState.RUNNING, now_ns, cause, message="started", pid=event.pid)
            return [*instructions, again]
        if event.status.state >= TaskState.STARTING:
            failed = self._move(task_id, TaskState.FAILED, now_ns, cause, error="the container ended while its node was down")
            return [*failed, ReleaseTask(task_id=task_id, cause=cause)]
        return self._ask(task_id, PrepareTask(assignment=event.assignment, cause=cause))

    def _removed(self, record: TaskRecord, cause: str) -> list[Instruction]:
        task_id = record.assignment.task_id
        self._put(task_id, is_removed=True, is_busy=True, is_assigned_again=False)
        return [] if record.is_removed else [ClearTask(task_id=task_id, cause=cause)]

    def _cleared(self, record: TaskRecord, now_ns: int, cause: str) -> list[Instruction]:
        task_id = record.assignment.task_id
        if not record.is_removed:
            return []  # what was cleared is of an earlier life
        if not record.is_assigned_again:
            del self.records[task_id]
            return [ForgetTask(task_id=task_id, cause=cause)]
        self._put(task_id, is_removed=False, is_busy=False, is_assigned_again=False, is_stopping=False)
        if record.status.state.is_terminal:
            return [ReportStatus(task_id=task_id, status=record.status, cause=cause)]
        return self._move(task_id, TaskState.FAILED, now_ns, cause, error="the task was removed from its node", pid=0)

    def _progressed(self, record: TaskRecord, event: Event, now_ns: int, cause: str) -> list[Instruction]:
        """Take in an answer of the worker. One that the task's state does not await (it came too late) changes nothing."""
        task_id = record.assignment.task_id
        if isinstance(event, TaskStopped):
            if not record.is_stopping or record.status.state.is_terminal:
                return []
            return self._move(task_id, TaskState.SHUTDOWN, now_ns, cause, message="shutdown", exit_code=event.exit_code, pid=0)
        is_owed = record.is_busy or isinstance(event, TaskExited)
        if record.is_stopping or not is_owed or record.status.state not in AWAITED_IN.get(type(event), ()):
            return []
        release = ReleaseTask(task_id=task_id, cause=cause)
        self._put(task_id, is_busy=False)
        match event:
            case TaskPrepared():
                ready = self._move(task_id, TaskState.READY, now_ns, cause, message="prepared", container_id=event.container_id)
                return ready + self._pursue(task_id, now_ns, cause)
            case TaskStarted():
                return self._move(task_id, TaskState.RUNNING, now_ns, cause, message="started", pid=event.pid)
            case PreparationFailed():
                return [*self._move(task_id, TaskState.REJECTED, now_ns, cause, error=event.error, message="preparing"), release]
            case StartFailed():
                return [*self._move(task_id, TaskState.FAILED, now_ns, cause, error=event.error, message="starting"), release]
            case TaskExited():
                return [*self._exited(task_id, event, now_ns, cause), release]
        return []

    def _exited(self, task_id: str, event: TaskExited, now_ns: int, cause: str) -> list[Instruction]:
        if event.exit_code == 0 and not event.error:
            return self._move(task_id, TaskState.COMPLETE, now_ns, cause, message="finished", pid=0)
        error = event.error or f"task: non-zero exit ({event.exit_code})"
        return self._move(
            task_id, TaskState.FAILED, now_ns, cause, message="started", error=error, exit_code=event.exit_code, pid=0
        )

    def _pursue(self, task_id: str, now_ns: int, cause: str) -> list[Instruction]:
        record = self.records[task_id]
        state, desired = record.status.state, record.assignment.desired_state
        if state.is_terminal:
            return []
        if desired > TaskState.RUNNING:
            return [] if record.is_stopping else self._stop(task_id, cause)
        if state is TaskState.READY and desired is TaskState.RUNNING and not record.is_busy:
            starting = self._move(task_id, TaskState.STARTING, now_ns, cause, message="starting")
            return starting + self._ask(task_id, StartTask(task_id=task_id, cause=cause))
        return []

    def _prepare(self, task_id: str, now_ns: int, cause: str) -> list[Instruction]:
        preparing = self._move(task_id, TaskState.PREPARING, now_ns, cause, message="preparing")
        return preparing + self._ask(task_id, PrepareTask(assignment=self.records[task_id].assignment, cause=cause))

    def _stop(self, task_id: str, cause: str) -> list[Instruction]:
        record = self.records[task_id]
        is_serving = record.status.state is TaskState.RUNNING and bool(record.assignment.attachments)
        self._put(task_id, is_stopping=True)
        return self._ask(task_id, StopTask(task_id=task_id, cause=cause, is_serving=is_serving))

    def _ask(self, task_id: str, instruction: Instruction) -> list[Instruction]:
        self._put(task_id, is_busy=True)
        return [instruction]

    def _move(
        self,
        task_id: str,
        state: TaskState,
        now_ns: int,
        cause: str,
        *,
        message: str = "",
        error: str = "",
        container_id: str | None = None,
        pid: int | None = None,
        exit_code: int = 0,
    ) -> list[Instruction]:
        before = self.records[task_id].status
        if not may_follow(before.state, state):
            return []
        status = TaskStatus(
            state=state,
            at_ns=now_ns,
            message=message or before.message,
            error=error,
            container_id=before.container_id if container_id is None else container_id,
            pid=before.pid if pid is None else pid,
            exit_code=exit_code,
        )
        self._put(task_id, status=status)
        return [ReportStatus(task_id=task_id, status=status, cause=cause)]

    def _put(
        self,
        task_id: str,
        **changes: TaskAssignment | TaskStatus | bool,
    ) -> None:
        self.records[task_id] = msgspec.structs.replace(self.records[task_id], **changes)
