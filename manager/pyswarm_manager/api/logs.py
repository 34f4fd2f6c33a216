"""The routes of service and task logs: one line per frame, each with its time and origin when asked for."""

from collections.abc import Callable
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.container_spec import ContainerSpec
from pyswarm_common.engine_api.log_query import details_text, read_log_request, rendered_lines
from pyswarm_common.engine_api.responses import query_flag
from pyswarm_common.engine_api.streams import (
    MULTIPLEXED_STREAM,
    RAW_STREAM,
    SYSTEM_ERROR,
    StreamResponse,
    Write,
    frame,
)
from pyswarm_common.log_drivers import log_attributes
from pyswarm_common.objects import Task
from pyswarm_common.specs import TaskTemplate
from pyswarm_manager.api.manager_services import read_view, services_of
from pyswarm_manager.api.tasks import resolve_task
from pyswarm_manager.log_broker import LogSelector, LogSubscription, incomplete_log
from pyswarm_manager.store.tables import View

router = APIRouter()


@router.get("/services/{reference}/logs")
async def service_logs(request: Request, reference: str) -> Response:
    """Stream the logs of all tasks of a service."""
    view = await read_view(services_of(request))
    service = view.services.resolve(reference)
    return _stream(request, LogSelector(service_id=service.id), is_tty=_has_tty(view, service.task_spec_id))


@router.get("/tasks/{reference}/logs")
async def task_logs(request: Request, reference: str) -> Response:
    """Stream the log of one task."""
    view = await read_view(services_of(request))
    task = resolve_task(view, reference)
    return _stream(request, LogSelector(task_id=task.id), is_tty=_has_tty(view, task.task_spec_id))


def _stream(request: Request, selector: LogSelector, *, is_tty: bool) -> Response:
    services = services_of(request)
    subscription = services.log_broker.subscribe(selector, read_log_request(request))
    origins = _Origins(lambda: services.store.view) if query_flag(request, "details") else None
    produce = partial(_produce, subscription, origins, with_timestamps=query_flag(request, "timestamps"), is_tty=is_tty)
    return StreamResponse(produce, RAW_STREAM if is_tty else MULTIPLEXED_STREAM)


async def _produce(
    subscription: LogSubscription, origins: "_Origins | None", write: Write, *, with_timestamps: bool, is_tty: bool
) -> None:
    async with subscription:
        async for batch in subscription.batches():
            lines = ((message.line, origins.of(message.task) if origins is not None else "") for message in batch)
            await write(rendered_lines(lines, with_timestamps=with_timestamps, is_tty=is_tty))
        if subscription.reasons:
            text = incomplete_log(subscription.reasons)
            await write(text.encode() if is_tty else frame(SYSTEM_ERROR, text.encode()))


class _Origins:
    """Says of each line where it comes from: node, service, task, and what the log options choose of labels and variables."""

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view
        self._known: dict[str, str] = {}

    def of(self, task: Task) -> str:
        """Return what stands before the lines of this task."""
        known = self._known.get(task.id)
        if known is None:
            known = self._known[task.id] = f"{details_text(self._details(task))} "
        return known

    def _details(self, task: Task) -> dict[str, str]:
        details = {
            "com.docker.swarm.node.id": task.node_id,
            "com.docker.swarm.service.id": task.service_id,
            "com.docker.swarm.task.id": task.id,
        }
        task_spec = self._view().task_specs.get(task.task_spec_id)
        return details | (_attributes(task_spec.template) if task_spec is not None else {})


def _attributes(template: TaskTemplate) -> dict[str, str]:
    container, driver = template.container_spec or ContainerSpec(), template.log_driver
    if driver is None or not driver.options:
        return {}
    return log_attributes(driver.options, container.labels or {}, tuple(container.env or ()), tag="")


def _has_tty(view: View, task_spec_id: str) -> bool:
    task_spec = view.task_specs.get(task_spec_id)
    container = task_spec.template.container_spec if task_spec is not None else None
    return container is not None and container.tty
