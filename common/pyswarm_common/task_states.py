"""The life of a task: one table that says every state, who may write it, and that no task ever goes back.

    NEW → PENDING → ASSIGNED → ACCEPTED → PREPARING → READY → STARTING → RUNNING → COMPLETE | SHUTDOWN | FAILED | REJECTED
                                                                                   ORPHANED   (by the dispatcher)

REMOVE is a desired state only. The numbers are SwarmKit's (`api/types.proto`), with its gaps.
"""

from enum import IntEnum


class TaskState(IntEnum):
    """Where a task is in its life; later states compare greater."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def api_name(self) -> str:
        """The state's word in the Engine API, such as `running`."""
        return self.name.lower()

    @property
    def is_terminal(self) -> bool:
        """Whether a task in this observed state will never run again."""
        return self > TaskState.RUNNING


class Writer(IntEnum):
    """The part that writes an observed state."""

    ORCHESTRATOR = 1
    ALLOCATOR = 2
    SCHEDULER = 3
    AGENT = 4
    DISPATCHER = 5
    NOBODY = 6


WRITER_OF: dict[TaskState, Writer] = {
    TaskState.NEW: Writer.ORCHESTRATOR,
    TaskState.PENDING: Writer.ALLOCATOR,
    TaskState.ASSIGNED: Writer.SCHEDULER,
    TaskState.ACCEPTED: Writer.AGENT,
    TaskState.PREPARING: Writer.AGENT,
    TaskState.READY: Writer.AGENT,
    TaskState.STARTING: Writer.AGENT,
    TaskState.RUNNING: Writer.AGENT,
    TaskState.COMPLETE: Writer.AGENT,
    TaskState.SHUTDOWN: Writer.AGENT,
    TaskState.FAILED: Writer.AGENT,
    TaskState.REJECTED: Writer.AGENT,
    TaskState.REMOVE: Writer.NOBODY,
    TaskState.ORPHANED: Writer.DISPATCHER,
}

DESIRED_STATES = (TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE)


def may_follow(before: TaskState, after: TaskState) -> bool:
    """Whether an observed state may become `after`: forward only, never out of a terminal state but to ORPHANED, never REMOVE."""
    if after is TaskState.REMOVE or after <= before:
        return False
    return not before.is_terminal


def may_write(writer: Writer, before: TaskState, after: TaskState) -> bool:
    """Whether `writer` may move a task from `before` to `after`.

    The agent owns the observed state from ASSIGNED on. Before that, a manager whose task will never reach a node may end it
    as SHUTDOWN. A task that the constraint enforcer wants gone is rejected by its agent's report that it has stopped.
    """
    if not may_follow(before, after):
        return False
    if writer is Writer.AGENT:
        return before >= TaskState.ASSIGNED and WRITER_OF[after] is Writer.AGENT
    if writer is Writer.DISPATCHER:
        return after is TaskState.ORPHANED and before >= TaskState.ASSIGNED
    if writer is Writer.ORCHESTRATOR:
        return after is TaskState.SHUTDOWN and before < TaskState.ASSIGNED
    return WRITER_OF[after] is writer


def parse_task_state(word: str) -> TaskState:
    """Return the state with this API name. Raises KeyError when there is none."""
    return TaskState[word.upper()]
