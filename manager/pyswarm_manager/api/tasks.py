"""The routes of tasks: list and inspect."""

from collections.abc import Collection, Iterable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Task
from pyswarm_common.task_states import TaskState, parse_task_state
from pyswarm_manager.api.manager_services import read_view, services_of
from pyswarm_manager.api.render.names import task_name
from pyswarm_manager.api.render.task import TaskRenderer, shown_desired_state
from pyswarm_manager.orchestrator.update.freshness import is_outdated
from pyswarm_manager.store.tables import View

router = APIRouter()

_FILTERS = ("id", "name", "label", "service", "node", "desired-state", "_up-to-date", "runtime")


@router.get("/tasks")
async def list_tasks(request: Request) -> Response:
    """List tasks, the ended ones too."""
    filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
    manager = services_of(request)
    view = await read_view(manager)
    renderer = TaskRenderer(view, manager.store.version_index)
    return JSONResponse([renderer.render(task) for task in _select(view, filters)])


@router.get("/tasks/{reference}")
async def inspect_task(request: Request, reference: str) -> Response:
    """Show one task."""
    manager = services_of(request)
    view = await read_view(manager)
    task = resolve_task(view, reference)
    return JSONResponse(TaskRenderer(view, manager.store.version_index).render(task))


def resolve_task(view: View, reference: str) -> Task:
    """Return the task that a user means: by id, by name (`web.1.<id>`), or by a unique prefix of its id.

    Raises NotFound, or Conflict when several match.
    """
    named = view.tasks.get(reference.rpartition(".")[2])
    if named is not None and reference in (named.id, task_name(named, view)):
        return named
    return view.tasks.resolve(reference)


def _select(view: View, filters: Filters) -> Iterable[Task]:
    """The tasks that the filters allow. Raises NotFound for a service or node that there is not."""
    service_ids = {view.services.resolve(reference).id for reference in filters.values("service")}
    node_ids = {view.nodes.resolve(reference).id for reference in filters.values("node")}
    desired_states = {_parse_desired_state(word) for word in filters.values("desired-state")}
    up_to_date = {word.lower() in ("true", "1") for word in filters.values("_up-to-date")}
    for task in _candidates(view, service_ids, node_ids):
        if (
            (not service_ids or task.service_id in service_ids)
            and (not node_ids or task.node_id in node_ids)
            and (not desired_states or shown_desired_state(task) in desired_states)
            and (not up_to_date or _is_up_to_date(task, view) in up_to_date)
            and filters.allows_prefix("id", task.id)
            and ("name" not in filters or filters.allows_prefix("name", task_name(task, view)))
            and ("label" not in filters or _labels_allow(task, view, filters))
            and _runtime_allows(task, filters)
        ):
            yield task


def _candidates(view: View, service_ids: Collection[str], node_ids: Collection[str]) -> Iterable[Task]:
    """The fewest tasks that hold all that can match."""
    if service_ids:
        return (task for service_id in service_ids for task in view.tasks.of_service(service_id))
    if node_ids:
        return (task for node_id in node_ids for task in view.tasks.of_node(node_id))
    return view.tasks


def _is_up_to_date(task: Task, view: View) -> bool:
    service = view.services.get(task.service_id)
    return service is not None and not is_outdated(view, service, task)


def _labels_allow(task: Task, view: View, filters: Filters) -> bool:
    """A task has its service's labels here, which is how `stack ps` finds it."""
    service = view.services.get(task.service_id)
    return service is not None and filters.allows_labels("label", service.spec.labels)


def _runtime_allows(task: Task, filters: Filters) -> bool:
    """Attachments of single containers are shown only to those who ask for them."""
    if task.attached_container_id:
        return "attachment" in filters.values("runtime")
    return filters.allows("runtime", "container")


def _parse_desired_state(word: str) -> TaskState:
    try:
        return parse_task_state(word)
    except KeyError as error:
        raise InvalidArgument(f"Invalid desired_state filter: '{word}'", grpc_code="InvalidArgument") from error
