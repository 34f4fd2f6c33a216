"""A task's story in sentences for people. Pure."""

import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pyswarm_common.engine_api.responses import rfc3339_fixed
from pyswarm_common.objects import Task
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.api.render.names import task_name
from pyswarm_manager.api.story.telling import Relations, ended_at_ns, states_of

MILLISECOND_NS = 1_000_000
_SIGNALS_FROM = 128
_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_NON_ZERO_EXIT = "task: non-zero exit"
_KINDS = {
    "": "",
    "created": "the service asked for it from the start",
    "scaled": "the service was scaled up",
    "joined": "its node came to those that the service runs on",
}
_ENDS = {
    ReplacementReason.FAILED: "failed",
    ReplacementReason.COMPLETED: "completed",
    ReplacementReason.REJECTED: "was rejected",
    ReplacementReason.ORPHANED: "was given up after its node had been down for long",
    ReplacementReason.STOPPED: "had been stopped",
}
_WORK = {
    TaskState.NEW: "waiting for addresses",
    TaskState.PENDING: "waiting for a node",
    TaskState.ASSIGNED: "waiting for the node's agent to take it",
    TaskState.ACCEPTED: "waiting for its turn on the node",
    TaskState.PREPARING: "fetching the image and making the container's network",
    TaskState.READY: "prepared, waiting for the start",
    TaskState.STARTING: "starting the container",
}


def sentences(relations: Relations, now_ns: int) -> tuple[str, ...]:
    """Return the story, one sentence each."""
    task = relations.task
    told = [_cause(relations), _held(task, now_ns), *_way(relations), _present(relations, now_ns), *_after(relations)]
    return tuple(sentence for sentence in told if sentence)


def end_words(task: Task) -> str:
    """Return how a task ended, such as `failed with exit code 137 (SIGKILL)`."""
    status = task.status
    match status.state:
        case TaskState.FAILED if status.exit_code:
            said = "" if not status.error or status.error.startswith(_NON_ZERO_EXIT) else f": {status.error}"
            return f"failed with exit code {exit_code_words(status.exit_code)}{said}"
        case TaskState.FAILED:
            return f"failed: {status.error or 'no reason given'}"
        case TaskState.REJECTED:
            return f"was rejected: {status.error or 'no reason given'}"
        case TaskState.ORPHANED:
            return "was given up with its node"
        case TaskState.COMPLETE:
            return "completed"
    return "was stopped"


def exit_code_words(code: int) -> str:
    """Return an exit code, with the signal that it stands for: `137 (SIGKILL)`."""
    try:
        return f"{code} ({signal.Signals(code - _SIGNALS_FROM).name})" if code > _SIGNALS_FROM else str(code)
    except ValueError:
        return str(code)


def duration_words(duration_ns: int) -> str:
    """Return a duration in two units at most: `812 ms`, `5.2 s`, `3 min 5 s`, `2 h 5 min`, `3 d 4 h`."""
    if duration_ns < MILLISECOND_NS:
        return "less than 1 ms"
    if duration_ns < SECOND_NS:
        return f"{duration_ns // MILLISECOND_NS} ms"
    seconds = duration_ns // SECOND_NS
    if seconds < 60:
        return f"{duration_ns / SECOND_NS:.1f} s"
    size, unit, inner_size, inner_unit = next(each for each in _UNITS if seconds >= each[0])
    whole, rest = divmod(seconds, size)
    return f"{whole} {unit} {rest // inner_size} {inner_unit}" if rest >= inner_size else f"{whole} {unit}"


def moment_words(time_ns: int) -> str:
    """Return a time as `2026-11-21 01:55:05.968 UTC`."""
    text = rfc3339_fixed(time_ns)
    return f"{text[:10]} {text[11:23]} UTC"


def _cause(relations: Relations) -> str:
    task = relations.task
    name = task_name(task, relations.view)
    made = f"{name} was made at {moment_words(task.created_at_ns)}"
    if not relations.replaced_id:
        why = _KINDS.get(task.cause, task.cause)
        if task.job_iteration is not None:
            why = f"execution {task.job_iteration} of the job began"
        return f"{made}: {why}." if why else f"{made}."
    before = relations.predecessors[0] if relations.predecessors else None
    reason = relations.reason_of(task, before)
    replaced = task_name(before, relations.view) if before is not None else f"{relations.replaced_id} (not kept any more)"
    return f"{made} in place of {replaced}{_which_ended(relations, reason, before) or because(relations, reason, before)}."


def because(relations: Relations, reason: ReplacementReason, before: Task | None) -> str:
    """Return why a task that had not ended by itself had to be replaced, such as `, because node n3 went down`; "" for others."""
    node = f"node {relations.node_name(before.node_id)}" if before is not None and before.node_id else "its node"
    why = {
        ReplacementReason.NODE_DOWN: f"{node} went down",
        ReplacementReason.NODE_REMOVED: f"{node} was removed from the cluster",
        ReplacementReason.NODE_DRAINED: f"{node} was drained",
        ReplacementReason.UPDATED: "the service was updated",
        ReplacementReason.REBALANCED: f"tasks were rebalanced away from {node}",
    }.get(reason, "")
    return f", because {why}" if why else ""


def _which_ended(relations: Relations, reason: ReplacementReason, before: Task | None) -> str:
    """How the task before had ended, when that is why it was replaced."""
    if reason not in _ENDS:
        return ""
    if before is not None and before.rejection and reason is ReplacementReason.REJECTED:
        return f", which was rejected: {before.rejection}"
    if before is None or not before.is_terminal:
        return f", which {_ENDS[reason]}"
    return f", which {end_words(before)}" + (f" on node {relations.node_name(before.node_id)}" if before.node_id else "")


def _held(task: Task, now_ns: int) -> str:
    """What its restart delay did, or does."""
    if task.start_at_ns <= task.created_at_ns:
        return ""
    verb = "is" if task.start_at_ns > now_ns and task.desired_state is TaskState.READY else "was"
    delay = duration_words(task.start_at_ns - task.created_at_ns)
    return f"It {verb} held back until {moment_words(task.start_at_ns)} (delay of {delay})."


def _way(relations: Relations) -> Iterator[str]:
    """How it came to run: where, after how long, and what took longest."""
    task, states = relations.task, states_of(relations.task)
    if task.node_id:
        at_ns = dict(states).get(TaskState.ASSIGNED)
        after = f" after {duration_words(at_ns - task.created_at_ns)}" if at_ns is not None else ""
        yield f"It was placed on node {relations.node_name(task.node_id)}{after}."
    running_at_ns = dict(states).get(TaskState.RUNNING)
    if running_at_ns is None:
        return
    longest_ns, state = _longest_step(states)
    slowest = f", of which {duration_words(longest_ns)} {_WORK[state]}" if state is not None else ""
    yield f"It ran {duration_words(running_at_ns - task.created_at_ns)} after it was made{slowest}."


def _longest_step(states: Sequence[tuple[TaskState, int]]) -> tuple[int, TaskState | None]:
    steps = [(later - at_ns, state) for (state, at_ns), (_, later) in pairwise(states) if state in _WORK]
    return max(steps, default=(0, None))


def _present(relations: Relations, now_ns: int) -> str:
    task = relations.task
    at_ns = task.status.at_ns or task.created_at_ns
    if task.is_terminal:
        running_at_ns = dict(states_of(task)).get(TaskState.RUNNING)
        ran = f" after it had run for {duration_words(at_ns - running_at_ns)}" if running_at_ns is not None else ""
        return f"It {end_words(task)} at {moment_words(at_ns)}{ran}."
    since = duration_words(now_ns - at_ns)
    if task.status.state is TaskState.RUNNING:
        told = f", and was told to stop ({task.desired_state.api_name})" if task.desired_state > TaskState.RUNNING else ""
        return f"It has run for {since}{told}."
    work = _WORK.get(task.status.state, task.status.state.api_name)
    error = f": {task.status.error}" if task.status.error else ""
    return f"It has been {task.status.state.api_name} for {since}, {work}{error}."


def _after(relations: Relations) -> Iterator[str]:
    task = relations.task
    for successor in relations.successors:
        reason = because(relations, relations.reason_of(successor, task), task)
        later_ns = successor.created_at_ns - ended_at_ns(task)
        later = f" {duration_words(later_ns)} after its end" if task.is_terminal and later_ns >= 0 else ""
        state = successor.status.state.api_name
        yield f"{task_name(successor, relations.view)} came in its place{later}{reason}; it is {state}."
    if not relations.successors and task.is_terminal and task.desired_state is TaskState.SHUTDOWN:
        yield "No task came in its place."
