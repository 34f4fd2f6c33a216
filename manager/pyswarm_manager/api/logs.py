"""The routes of service and task logs: one line per frame, each with its time and origin when asked for."""

from functools import partial
from urllib.parse import quote_plus

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import parse_time_ns, query_flag, rfc3339_fixed
from pyswarm_common.engine_api.streams import (
    MULTIPLEXED_STREAM,
    RAW_STREAM,
    SYSTEM_ERROR,
    StreamResponse,
    Write,
    frame,
)
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Task
from pyswarm_common.wire import LogRequest
from pyswarm_manager.api.manager_services import read_view, services_of
from pyswarm_manager.api.tasks import resolve_task
from pyswarm_manager.log_broker import LogMessage, LogSelector, LogSubscription, incomplete_log
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
    subscription = services_of(request).log_broker.subscribe(selector, _log_request(request))
    produce = partial(
        _produce,
        subscription,
        with_details=query_flag(request, "details"),
        with_timestamps=query_flag(request, "timestamps"),
        is_tty=is_tty,
    )
    return StreamResponse(produce, RAW_STREAM if is_tty else MULTIPLEXED_STREAM)


async def _produce(subscription: LogSubscription, write: Write, *, with_details: bool, with_timestamps: bool, is_tty: bool) -> None:
    async with subscription:
        async for message in subscription:
            line = format_line(message, with_details=with_details, with_timestamps=with_timestamps)
            await write(line if is_tty else frame(message.line.stream, line))
        if subscription.reasons:
            text = incomplete_log(subscription.reasons)
            await write(text.encode() if is_tty else frame(SYSTEM_ERROR, text.encode()))


def format_line(message: LogMessage, *, with_details: bool, with_timestamps: bool) -> bytes:
    """Return a log line in the order that the CLI takes apart: time, details, message."""
    prefix = f"{rfc3339_fixed(message.line.at_ns)} " if with_timestamps else ""
    if with_details:
        prefix += f"{_details(message.task)} "
    return prefix.encode() + message.line.line


def _details(task: Task) -> str:
    details = {
        "com.docker.swarm.node.id": task.node_id,
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.task.id": task.id,
    }
    return ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in details.items())


def _log_request(request: Request) -> LogRequest:
    """Return the options of a request. Raises InvalidArgument."""
    stdout, stderr = query_flag(request, "stdout"), query_flag(request, "stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    parameters = request.query_params
    return LogRequest(
        task_id="",
        follow=query_flag(request, "follow"),
        stdout=stdout,
        stderr=stderr,
        tail=_tail(parameters.get("tail", "all")),
        since_ns=parse_time_ns(parameters.get("since") or "0"),
        until_ns=parse_time_ns(parameters.get("until") or "0"),
    )


def _tail(text: str) -> int:
    """How many lines; -1, which is also what Docker makes of anything that is no number: all."""
    return int(text) if text.isascii() and text.isdigit() else -1


def _has_tty(view: View, task_spec_id: str) -> bool:
    task_spec = view.task_specs.get(task_spec_id)
    container = task_spec.template.container_spec if task_spec is not None else None
    return container is not None and container.tty
