"""The life of the tasks on one node, pure: events in, instructions out.

The machine knows each task's assignment and observed state. Events (past tense) say what the manager wants or what happened;
instructions (imperative) say what the worker must do and what the reporter must tell; their `cause` names the event that led to
them (`task_events.py`). A task has at most one operation under way: while the worker is at it, a wish to stop is carried
out by `StopTask`, which the worker answers with `TaskStopped` whatever it interrupted.

    ACCEPTED → PREPARING ──TaskPrepared──→ READY ──(wanted running)──→ STARTING ──TaskStarted──→ RUNNING
                   └──PreparationFailed──→ REJECTED, FAILED                └──StartFailed──→ FAILED
    STARTING, if the container has a healthcheck ──TaskStarted, TaskHealthy──→ RUNNING
    STARTING, RUNNING ──TaskExited──→ COMPLETE | FAILED
    STARTING, RUNNING ──TaskUnhealthy──StopTask, TaskStopped──→ FAILED
    any of them ──(wanted shutdown)──StopTask, TaskStopped──→ SHUTDOWN

A task that is stopped because it is unhealthy says so in its status (`error`) before: managers take it from the balancers, and
whatever restarts meanwhile, it ends as FAILED.

One whose start was cut short by the agent's end is prepared and started again, and stays STARTING meanwhile.

An ended task keeps its container, for its logs, until the manager forgets the task (`TaskRemoved`).
"""

import msgspec

from pyswarm_agent.task_events import (
    ClearTask,
    Event,
    ForgetTask,
    Instruction,
    PreparationFailed,
    PrepareTask,
    ReleaseTask,
    ReportStatus,
    StartFailed,
    StartTask,
    StopTask,
    TaskAssigned,
    TaskCleared,
    TaskExited,
    TaskHealthy,
    TaskPrepared,
    TaskRemoved,
    TaskRestored,
    TaskStarted,
    TaskStopped,
    TaskUnhealthy,
    WatchTask,
)
from pyswarm_common.objects import Record, TaskStatus
from pyswarm_common.task_states import TaskState, may_follow
from pyswarm_common.wire import TaskAssignment

_BEFORE_STARTING = (TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY)
_STARTED = (TaskState.STARTING, TaskState.RUNNING)
_UNASKED = (TaskHealthy, TaskUnhealthy, TaskExited)
"""What happens to a container that was started, as the worker owes no other answer any more."""
AWAITED_IN: dict[type[Event], tuple[TaskState, ...]] = {
    TaskPrepared: (*_BEFORE_STARTING, TaskState.STARTING),
    PreparationFailed: (*_BEFORE_STARTING, TaskState.STARTING),
    TaskStarted: (TaskState.STARTING,),
    StartFailed: (TaskState.STARTING,),
    TaskHealthy: (TaskState.STARTING,),
    TaskUnhealthy: _STARTED,
    TaskExited: _STARTED,
}
"""The observed states in which each answer of the worker is news (a restored READY or STARTING task is prepared again)."""


_LOST = "the container is gone: its node has lost the record of it, in a power cut or as files were removed"


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
        if event.assignment.desired_state > TaskState.RUNNING or _is_given_up(event.status):
            return [again, *self._stop(task_id, cause)]
        if event.is_running:
            instructions: list[Instruction] = [WatchTask(task_id=task_id, cause=cause)]
            if event.status.state is not TaskState.RUNNING:
                return instructions + (self._started(task_id, event.pid, event.awaits_health, now_ns, cause) or [again])
            return [*instructions, again]
        if event.status.state >= TaskState.STARTING and not (event.is_startable and event.status.state is TaskState.STARTING):
            failed = self._move(task_id, TaskState.FAILED, now_ns, cause, error=_LOST)
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
            return self._stopped(task_id, event.exit_code, now_ns, cause)
        is_owed = record.is_busy is not isinstance(event, _UNASKED)
        if record.is_stopping or not is_owed or record.status.state not in AWAITED_IN.get(type(event), ()):
            return []
        release = ReleaseTask(task_id=task_id, cause=cause)
        self._put(task_id, is_busy=False)
        if isinstance(event, TaskPrepared):
            self._put(task_id, status=msgspec.structs.replace(record.status, ports=event.ports))
        match event:
            case TaskPrepared() if record.status.state is TaskState.STARTING:  # the start was cut short, and undone
                return self._ask(task_id, StartTask(task_id=task_id, cause=cause))
            case TaskPrepared():
                ready = self._move(task_id, TaskState.READY, now_ns, cause, message="prepared", container_id=event.container_id)
                return ready + self._pursue(task_id, now_ns, cause)
            case TaskStarted():
                return self._started(task_id, event.pid, event.awaits_health, now_ns, cause)
            case TaskHealthy():
                return self._move(task_id, TaskState.RUNNING, now_ns, cause, message="started")
            case TaskUnhealthy():
                return self._unhealthy(task_id, event.error, cause)
            case PreparationFailed():
                is_failure = event.is_failure or record.status.state is TaskState.STARTING
                state = TaskState.FAILED if is_failure else TaskState.REJECTED
                message = "starting" if event.is_failure else "preparing"
                return [*self._move(task_id, state, now_ns, cause, error=event.error, message=message), release]
            case StartFailed():
                return [*self._move(task_id, TaskState.FAILED, now_ns, cause, error=event.error, message="starting"), release]
            case TaskExited():
                return [*self._exited(task_id, event, now_ns, cause), release]
        return []

    def _started(self, task_id: str, pid: int, awaits_health: bool, now_ns: int, cause: str) -> list[Instruction]:
        if not awaits_health:
            return self._move(task_id, TaskState.RUNNING, now_ns, cause, message="started", pid=pid)
        status = self.records[task_id].status
        if status.state is not TaskState.STARTING:  # it was restored from before that could be written down
            return self._move(task_id, TaskState.STARTING, now_ns, cause, message="starting", pid=pid)
        self._put(task_id, status=msgspec.structs.replace(status, pid=pid))
        return []

    def _unhealthy(self, task_id: str, error: str, cause: str) -> list[Instruction]:
        status = msgspec.structs.replace(self.records[task_id].status, error=error)
        self._put(task_id, status=status)
        return [ReportStatus(task_id=task_id, status=status, cause=cause), *self._stop(task_id, cause)]

    def _stopped(self, task_id: str, exit_code: int, now_ns: int, cause: str) -> list[Instruction]:
        status = self.records[task_id].status
        if not _is_given_up(status):
            return self._move(task_id, TaskState.SHUTDOWN, now_ns, cause, message="shutdown", exit_code=exit_code, pid=0)
        error = f"task: non-zero exit ({exit_code}): {status.error}" if exit_code else f"task: {status.error}"
        return self._move(task_id, TaskState.FAILED, now_ns, cause, error=error, exit_code=exit_code, pid=0)

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
        is_news = is_serving and _is_given_up(record.status) and record.assignment.desired_state <= TaskState.RUNNING
        self._put(task_id, is_stopping=True)
        return self._ask(task_id, StopTask(task_id=task_id, cause=cause, is_serving=is_serving, is_news=is_news))

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
            ports=() if state.is_terminal else before.ports,
        )
        self._put(task_id, status=status)
        return [ReportStatus(task_id=task_id, status=status, cause=cause)]

    def _put(
        self,
        task_id: str,
        **changes: TaskAssignment | TaskStatus | bool,
    ) -> None:
        self.records[task_id] = msgspec.structs.replace(self.records[task_id], **changes)


def _is_given_up(status: TaskStatus) -> bool:
    """Whether the task is to be stopped because it is unhealthy."""
    return status.state in _STARTED and bool(status.error)
