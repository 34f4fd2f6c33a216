"""The routes that tell more of a task than Docker's API has words for: its story, and why it is where it is."""

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import NotFound
from pyswarm_common.objects import Service, Task
from pyswarm_manager.api.manager_services import ask_snapshot, read_view, services_of
from pyswarm_manager.api.story.sentences import sentences
from pyswarm_manager.api.story.telling import tell
from pyswarm_manager.api.tasks import resolve_task
from pyswarm_manager.decisions import succession_key
from pyswarm_manager.scheduler.explanation import explain
from pyswarm_manager.store.tables import View
from pyswarm_manager.task_names import has_slot

router = APIRouter()


@router.get("/pyswarm/tasks/{reference}/explain")
async def explain_task(request: Request, reference: str) -> Response:
    """Show what the scheduler thinks of each node for a task: the verdict of every filter, with its figures."""
    manager = services_of(request)
    now_ns = manager.clock.now_ns()
    return JSONResponse(await ask_snapshot(manager, lambda view: explain(view, resolve_slot_or_task(view, reference), now_ns)))


@router.get("/pyswarm/tasks/{reference}/story")
async def task_story(request: Request, reference: str) -> Response:
    """Tell a task's causes and times, for people (`Sentences`) and for scripts."""
    manager = services_of(request)
    view = await read_view(manager)
    now_ns = manager.clock.now_ns()
    story, relations = tell(view, resolve_slot_or_task(view, reference), now_ns)
    return JSONResponse(msgspec.structs.replace(story, sentences=sentences(relations, now_ns)))


def resolve_slot_or_task(view: View, reference: str) -> Task:
    """Return the task that a user means: as `resolve_task`, or the newest task of a slot such as `web.2`.

    Raises NotFound, or Conflict when several match.
    """
    try:
        return resolve_task(view, reference)
    except NotFound:
        in_slot = _tasks_of_slot(view, reference)
        if not in_slot:
            raise
        return max(in_slot, key=succession_key)


def _tasks_of_slot(view: View, reference: str) -> list[Task]:
    """The tasks that `SERVICE.SLOT`, or `SERVICE.NODE` of a global service, stands for."""
    name, _, place = reference.rpartition(".")
    services = view.services.named(name)
    return [t for service in services for t in view.tasks.of_service(service.id) if place and place in _places(view, t, service)]


def _places(view: View, task: Task, service: Service) -> tuple[str, ...]:
    if has_slot(task, service):
        return (str(task.slot),)
    node = view.nodes.get(task.node_id)
    return (task.node_id, node.name) if node is not None else (task.node_id,)
