"""Which tasks of a job are history that nobody keeps any more. Pure.

The cluster's task history limit says how many iterations of a job are kept, the present one included, and, as for services, how
many tasks of a slot. What the present iteration goes by always stays: what is not over, what completed, each slot's newest task.
"""

from collections.abc import Callable, Iterable

from pyswarm_common.objects import Service, Task
from pyswarm_common.task_states import TaskState


def beyond_job_history(service: Service, tasks: Iterable[Task], kept: int, *, has_ended: Callable[[Task], bool]) -> list[Task]:
    """Return those of a job's tasks, given in the order of their age, that a history limit of `kept` has no place for.

    A negative limit keeps all.
    """
    if kept < 0:
        return []
    kept = max(kept, 1)
    is_global = service.spec.mode_name == "global-job"
    beyond: list[Task] = []
    slots: dict[int | str, list[Task]] = {}
    for task in tasks:
        if task.desired_state is TaskState.REMOVE:
            continue
        if _iterations_ago(service, task) >= kept and _is_settled(task) and has_ended(task):
            beyond.append(task)
        else:
            slots.setdefault(task.node_id if is_global else task.slot, []).append(task)
    for members in slots.values():
        excess = len(members) - kept
        if excess > 0:
            present = [t for t in members if t.job_iteration == service.job_iteration]
            needed = {t.id for t in present if t is present[-1] or _is_needed(t)}
            old = [t for t in members if _is_settled(t) and has_ended(t) and t.id not in needed]
            beyond += old[:excess]
    return beyond


def _iterations_ago(service: Service, task: Task) -> int:
    return service.job_iteration - (task.job_iteration or 0)


def _is_settled(task: Task) -> bool:
    """Whether the orchestrator is done with it."""
    return task.is_terminal or task.desired_state > TaskState.RUNNING


def _is_needed(task: Task) -> bool:
    """Whether the job goes by this task of the present iteration, though there are newer ones in its slot."""
    return task.desired_state <= TaskState.RUNNING or task.status.state is TaskState.COMPLETE
