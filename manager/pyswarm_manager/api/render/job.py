"""The job's part of a service as the API shows it: its execution and its counts."""

from typing import Any

from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.objects import Service
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.job_progress import has_begun, job_progress, slots_of_iteration
from pyswarm_manager.orchestrator.restart import is_node_gone
from pyswarm_manager.store.tables import View


def render_job(service: Service) -> dict[str, Any]:
    """Return the member that a job has more than other services.

    Other than Docker, which leaves out an iteration of 0, it is always there. `LastExecution` is when the present one began, and
    Go's zero time before the first.
    """
    if not service.spec.is_job:
        return {}
    status = {"JobIteration": {"Index": service.job_iteration}, "LastExecution": rfc3339(service.job_started_at_ns)}
    return {"JobStatus": status}


def render_job_counts(service: Service, view: View) -> dict[str, int]:
    """Return how many tasks of the present iteration run, how many may at once (global job: have to), and how many completed."""
    slots = slots_of_iteration(service, view.tasks.of_service(service.id))
    completed = sum(slot.is_complete for slot in slots.values())
    tasks = [task for slot in slots.values() for task in (*slot.past, *filter(None, [slot.current]))]
    running = sum(t.status.state is TaskState.RUNNING and not is_node_gone(view.nodes.get(t.node_id)) for t in tasks)
    if service.spec.mode_name == "replicated-job":
        desired = service.spec.max_concurrent
    else:
        progress = job_progress(view, service)
        desired = max(progress.wanted - progress.completed, 0) if has_begun(service) else 0
    return {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": completed}
