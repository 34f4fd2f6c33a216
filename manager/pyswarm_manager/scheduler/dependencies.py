"""Which services wait for others (label `pyswarm.depends_on`), and whether a change may end that. Pure.

A service waits until each service that it names is up: at least one task runs (with a healthcheck: is healthy); of a job, all has
completed in its present iteration. The scheduler holds the tasks of a service that waits.

A service waits once. From its first task that is placed on it has started, and a dependency that is down later keeps neither a
replacement nor a new replica from starting. That is read off the tasks that are there: one of them has been placed, or replaces
one that had been (should the history not reach back so far). A service that was scaled to 0 starts anew, and so does each
iteration of a job. A service that is named and does not exist is waited for: a stack creates its services in any order.
"""

from collections.abc import Iterable

from pyswarm_common.objects import Service, Task
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.service_labels import full_names, names_depended_on
from pyswarm_common.state_times import read_state_times
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.job_progress import has_begun, job_progress
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View

_NEVER_PLACED = frozenset({ReplacementReason.UNKNOWN, ReplacementReason.STOPPED, ReplacementReason.UPDATED})
"""Reasons for which a task is replaced that had perhaps not been placed."""


def why_held(view: View, service_ids: Iterable[str]) -> dict[str, str]:
    """Return the services, of these, whose tasks must not be placed yet, each with the reason that its tasks show."""
    if not view.services.has_dependents:
        return {}
    return {service_id: reason for service_id in dict.fromkeys(service_ids) if (reason := why_waiting(view, service_id))}


def why_waiting(view: View, service_id: str) -> str:
    """Return what a service waits for, such as `waiting for service db (0/1 running)`; "" when it does not wait."""
    service = view.services.get(service_id)
    if service is None:
        return ""
    labels = service.spec.labels
    reasons = [_why_not_up(view, name, labels) for name in names_depended_on(labels)]
    if not any(reasons) or has_started(view, service):
        return ""
    return "; ".join(filter(None, reasons))


def has_started(view: View, service: Service) -> bool:
    """Whether a task of the service (of a job: of its present iteration) has been placed."""
    is_job = service.spec.is_job
    return any(
        _was_placed(task) or task.replacement_reason not in _NEVER_PLACED
        for task in view.tasks.of_service(service.id)
        if not is_job or task.job_iteration == service.job_iteration
    )


def touched_by(change: Change, view: View) -> Iterable[str]:
    """Return the services whose waiting this change may end, or alter: a task that runs, a service that came, changed or went."""
    match change.item:
        case Task() as task:
            before = change.before
            if not view.services.has_dependents or task.status.state not in (TaskState.RUNNING, TaskState.COMPLETE):
                return ()
            if isinstance(before, Task) and before.status.state is task.status.state:
                return ()
            service = view.services.get(task.service_id)
            return () if service is None else [dependent.id for dependent in view.services.dependents_of(service.name)]
        case Service() as service:
            touched = [dependent.id for dependent in view.services.dependents_of(service.name)]
            if any(isinstance(one, Service) and names_depended_on(one.spec.labels) for one in change):
                touched.append(service.id)
            return touched
    return ()


def _why_not_up(view: View, name: str, labels: dict[str, str] | None) -> str:
    found = next((found for full_name in full_names(name, labels) for found in view.services.named(full_name)), None)
    if found is None:
        return f"waiting for service {name}, which does not exist"
    spec = found.spec
    if spec.is_job:
        return "" if _has_completed(view, found) else f"waiting for job {found.name} to complete"
    if any(map(_is_up, view.tasks.of_service(found.id))):
        return ""
    running = f"0/{spec.replicas} running" if spec.is_replicated else "none running"
    return f"waiting for service {found.name} ({running})"


def _has_completed(view: View, job: Service) -> bool:
    progress = job_progress(view, job)
    return has_begun(job) and progress.completed >= progress.wanted


def _is_up(task: Task) -> bool:
    """Whether the task runs, which with a healthcheck it only does when healthy, and is not about to be stopped."""
    is_running = task.status.state is TaskState.RUNNING and not task.status.error
    return is_running and task.desired_state <= TaskState.RUNNING


def _was_placed(task: Task) -> bool:
    """Whether the scheduler let it go to its node. A global service's task knows its node before."""
    if not task.node_id or task.status.state < TaskState.ASSIGNED:
        return False
    reached = read_state_times(task.state_times) if task.status.state is TaskState.SHUTDOWN else []
    return not reached or any(TaskState.ASSIGNED <= state <= TaskState.RUNNING for state, _ in reached)
