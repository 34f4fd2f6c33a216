"""The routes that tell more of a service than Docker's API has words for: where it would land, and the runs of its schedule."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import JSONResponse, rfc3339
from pyswarm_common.errors import FailedPrecondition
from pyswarm_common.objects import ScheduledRun, Service
from pyswarm_common.service_labels import SCHEDULE, SCHEDULE_OVERLAP, SCHEDULE_TIME_ZONE
from pyswarm_manager.api.manager_services import ask_snapshot, read_view, services_of
from pyswarm_manager.api.service_changes import refuse_conflicts
from pyswarm_manager.api.service_names import new_service_name
from pyswarm_manager.api.service_networks import validate_own_networks
from pyswarm_manager.api.service_spec import resolve_networks
from pyswarm_manager.api.services import read_spec, validated
from pyswarm_manager.scheduler.dry_run import dry_run
from pyswarm_manager.scheduler.verdicts import DryRun
from pyswarm_manager.store.tables import View

router = APIRouter()


@router.post("/pyswarm/services/dry-run")
async def dry_run_service(request: Request) -> Response:
    """Show where the tasks of a service would land that is posted as if to be created; refuse what `create` would refuse."""
    manager = services_of(request)
    body = await read_spec(request)
    draft = validated({**body, "Name": body.get("Name") or new_service_name()})
    now_ns = manager.clock.now_ns()

    def ask(view: View) -> DryRun:
        refuse_conflicts(view, "", draft)
        resolve_networks(draft.template, view)
        validate_own_networks(draft.typed, draft.typed.task_template.networks)
        return dry_run(view, draft.typed, now_ns)

    return JSONResponse(await ask_snapshot(manager, ask))


@router.get("/pyswarm/services/{reference}/runs")
async def scheduled_runs(request: Request, reference: str) -> Response:
    """Show when a scheduled job runs next, and how its latest runs went, oldest first."""
    view = await read_view(services_of(request))
    service = view.services.resolve(reference)
    labels = service.spec.labels or {}
    if SCHEDULE not in labels:
        problem = f"service {service.name} has no schedule: it has no label {SCHEDULE}"
        raise FailedPrecondition(problem, grpc_code="FailedPrecondition")
    status = service.schedule
    next_due_ns = status.next_due_ns if status is not None else 0
    answer = {
        "ServiceID": service.id,
        "ServiceName": service.name,
        "Schedule": labels[SCHEDULE],
        "TimeZone": labels.get(SCHEDULE_TIME_ZONE) or "UTC",
        "Overlap": labels.get(SCHEDULE_OVERLAP) or "skip",
        "NextDue": rfc3339(next_due_ns) if next_due_ns else "",
        "Queued": status.queued if status is not None else 0,
        "Runs": [_render_run(run, service, view) for run in (status.runs if status is not None else ())],
    }
    return JSONResponse(answer)


def _render_run(run: ScheduledRun, service: Service, view: View) -> dict[str, Any]:
    started_ns = _started_ns(run, service, view)
    return {
        "Due": rfc3339(run.due_at_ns),
        "Started": rfc3339(started_ns) if started_ns else "",
        "Finished": rfc3339(run.finished_at_ns) if run.finished_at_ns else "",
        "Iteration": run.iteration if run.iteration >= 0 else None,
        "Outcome": run.outcome,
    }


def _started_ns(run: ScheduledRun, service: Service, view: View) -> int:
    """When it began; of former runs as far as their tasks are still kept, 0 where nobody knows."""
    if run.iteration < 0:
        return 0
    if run.iteration == service.job_iteration:
        return service.job_started_at_ns
    made = (t.created_at_ns for t in view.tasks.of_service(service.id) if (t.job_iteration or 0) == run.iteration)
    return min(made, default=0)
