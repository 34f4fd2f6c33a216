"""A task's story as fields, found in the store's objects alone: any manager can tell it. Pure."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.ids import OBJECT_ID_LENGTH
from pyswarm_common.objects import Task
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.state_times import read_state_times
from pyswarm_common.task_states import TaskState
from pyswarm_manager.api.render.names import task_name
from pyswarm_manager.store.tables import View

REPLACES = "replaces"
_OBJECT_ID = re.compile(rf"[0-9a-z]{{{OBJECT_ID_LENGTH}}}")


class _JSON(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", gc=False):
    """Base of the shapes."""


class StateReached(_JSON, frozen=True, kw_only=True):
    """One state: since when, and how long it lasted (nanoseconds; until now for the present one, 0 for an end)."""

    state: str
    at: str
    duration: int


class RelatedTask(_JSON, frozen=True, kw_only=True):
    """A task before or after the one that is told of. `ended_at` "" while it has not ended, or nobody can tell."""

    id: str = msgspec.field(name="ID")
    name: str
    node_id: str = msgspec.field(name="NodeID")
    node_name: str
    state: str
    error: str
    exit_code: int
    created_at: str
    ended_at: str
    reason: str
    """Why the task before it had to be replaced by it; "" when it replaced none."""


class Cause(_JSON, frozen=True, kw_only=True):
    """Why the task was made: `kind` is `replaces` (then with the task and the reason), or what the orchestrator noted."""

    kind: str
    task_id: str = msgspec.field(name="TaskID", default="")
    reason: str = ""


class TaskStory(_JSON, frozen=True, kw_only=True):
    """All that can be told of a task. `predecessors`: the latest first; `sentences`: the same for people."""

    id: str = msgspec.field(name="ID")
    name: str
    service_id: str = msgspec.field(name="ServiceID")
    service_name: str
    slot: int
    node_id: str = msgspec.field(name="NodeID")
    node_name: str
    created_at: str
    held_until: str
    """Until then it was, or is, held back (restart delay); "" when it was not."""
    state: str
    desired_state: str
    message: str
    error: str
    exit_code: int
    cause: Cause
    states: tuple[StateReached, ...]
    predecessors: tuple[RelatedTask, ...]
    successors: tuple[RelatedTask, ...]
    sentences: tuple[str, ...] = ()


class Relations:
    """A task among those that it replaced and that replaced it."""

    def __init__(self, view: View, task: Task) -> None:
        self.view = view
        self.task = task
        self.predecessors = list(_predecessors(view, task))
        self.successors = sorted(
            (t for t in view.tasks.of_service(task.service_id) if t.cause == task.id), key=lambda t: (t.created_at_ns, t.id)
        )

    @property
    def replaced_id(self) -> str:
        """The id of the task that it replaces, which may not be kept any more; "" when it replaces none."""
        return self.task.cause if self.predecessors or _OBJECT_ID.fullmatch(self.task.cause) else ""

    def node_name(self, node_id: str) -> str:
        """Return how people call a node."""
        node = self.view.nodes.get(node_id)
        return (node.name if node is not None else "") or node_id

    def reason_of(self, successor: Task, before: Task | None) -> ReplacementReason:
        """Return why a task replaced another; found out from how that ended where it was not noted."""
        if successor.replacement_reason is not ReplacementReason.UNKNOWN or before is None:
            return successor.replacement_reason
        if successor.task_spec_id != before.task_spec_id:
            return ReplacementReason.UPDATED
        return {
            TaskState.FAILED: ReplacementReason.FAILED,
            TaskState.COMPLETE: ReplacementReason.COMPLETED,
            TaskState.REJECTED: ReplacementReason.REJECTED,
            TaskState.ORPHANED: ReplacementReason.ORPHANED,
        }.get(before.status.state, ReplacementReason.UNKNOWN)


def tell(view: View, task: Task, now_ns: int) -> tuple[TaskStory, Relations]:
    """Return a task's story, still without its sentences, and the tasks around it."""
    relations = Relations(view, task)
    service = view.services.get(task.service_id)
    story = TaskStory(
        id=task.id,
        name=task_name(task, view),
        service_id=task.service_id,
        service_name=service.name if service is not None else "",
        slot=task.slot,
        node_id=task.node_id,
        node_name=relations.node_name(task.node_id),
        created_at=rfc3339(task.created_at_ns),
        held_until=rfc3339(task.start_at_ns) if task.start_at_ns else "",
        state=task.status.state.api_name,
        desired_state=task.desired_state.api_name,
        message=task.status.message,
        error=task.status.error,
        exit_code=task.status.exit_code,
        cause=_cause(relations),
        states=tuple(_states(states_of(task), now_ns)),
        predecessors=_related(relations, relations.predecessors),
        successors=_related(relations, relations.successors),
    )
    return story, relations


def states_of(task: Task) -> list[tuple[TaskState, int]]:
    """Return the states that a task reached with their times, from NEW on; at least its present one."""
    states = [(TaskState.NEW, task.created_at_ns), *read_state_times(task.state_times)]
    if states[-1][0] is not task.status.state and task.status.at_ns:
        states.append((task.status.state, task.status.at_ns))
    return states


def ended_at_ns(task: Task) -> int:
    """Return when a task ended; 0 while it has not."""
    return task.status.at_ns if task.is_terminal else 0


def _predecessors(view: View, task: Task) -> Iterator[Task]:
    seen = {task.id}
    while (before := view.tasks.get(task.cause)) is not None and before.id not in seen:
        seen.add(before.id)
        yield before
        task = before


def _cause(relations: Relations) -> Cause:
    task = relations.task
    if not relations.replaced_id:
        return Cause(kind=task.cause)
    before = relations.predecessors[0] if relations.predecessors else None
    return Cause(kind=REPLACES, task_id=relations.replaced_id, reason=relations.reason_of(task, before).api_name)


def _states(states: Sequence[tuple[TaskState, int]], now_ns: int) -> Iterator[StateReached]:
    """Durations are never negative, though the clocks of managers and agents differ."""
    for position, (state, at_ns) in enumerate(states):
        is_last = position == len(states) - 1
        until_ns = states[position + 1][1] if not is_last else at_ns if state.is_terminal else now_ns
        yield StateReached(state=state.api_name, at=rfc3339(at_ns), duration=max(0, until_ns - at_ns))


def _related(relations: Relations, tasks: Sequence[Task]) -> tuple[RelatedTask, ...]:
    return tuple(
        RelatedTask(
            id=task.id,
            name=task_name(task, relations.view),
            node_id=task.node_id,
            node_name=relations.node_name(task.node_id),
            state=task.status.state.api_name,
            error=task.status.error,
            exit_code=task.status.exit_code,
            created_at=rfc3339(task.created_at_ns),
            ended_at=rfc3339(ended_at_ns(task)) if task.is_terminal else "",
            reason=relations.reason_of(task, relations.view.tasks.get(task.cause)).api_name,
        )
        for task in tasks
    )
