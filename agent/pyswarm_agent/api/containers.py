"""The routes of this node's containers: create, start, stop, remove, list and the like. (Streams of output: `attach`, `logs`.)

Those of tasks are shown, and may be stopped and removed, as in Docker; their orchestrator replaces them.
"""

import asyncio
import contextlib

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_agent.api.container_files_rendering import graph_of, sizes_of
from pyswarm_agent.api.container_filters import LIST_FILTERS, PRUNE_FILTERS, ContainerFilter, may_prune
from pyswarm_agent.api.container_rendering import render_container, render_details
from pyswarm_agent.container_lookup import find_container
from pyswarm_agent.local_containers.create_body import Resources
from pyswarm_agent.local_containers.creation import FOREVER_S
from pyswarm_agent.local_containers.waiting import check_condition, wait_ended
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.layer_changes import layer_changes, layer_paths
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_agent.runtime.signals import signal_number
from pyswarm_common.disk_space import files_bytes
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.member_names import with_canonical_names
from pyswarm_common.engine_api.responses import JSONResponse, query_flag, read_json_object
from pyswarm_common.engine_api.streams import StreamResponse, Write
from pyswarm_common.errors import InvalidArgument, PyswarmError

router = APIRouter()

_NOT_MODIFIED, _NO_CONTENT = 304, 204
_START_REFUSED = (126, 127)
_json = msgspec.json.Encoder()


@router.get("/containers/json")
async def list_containers(request: Request) -> Response:
    """List containers: the running ones, or with `all` every one."""
    agent = agent_of(request)
    containers = agent.containers.list()
    wanted = ContainerFilter(Filters.parse(request.query_params.get("filters"), LIST_FILTERS), containers)
    limit = _limit(request)
    shows_all = query_flag(request, "all") or bool(limit) or wanted.shows_all
    now_ns = agent.clock.now_ns()
    shown = []
    for container in reversed(containers):
        id_ = container.config.id
        held, health = agent.local.get(id_), agent.health.status(id_)
        is_restarting = held is not None and held.is_restarting
        if (shows_all or container.is_live or is_restarting) and wanted.matches(container, held, health):
            shown.append((container, render_container(container, now_ns, health, held)))
    asks_sizes = query_flag(request, "size")
    for container, rendered in shown[: limit or None]:
        if asks_sizes:
            rendered |= await sizes_of(container, agent.containers.folders(container.config.id), agent.images)
    return JSONResponse([rendered for _, rendered in shown[: limit or None]])


@router.get("/containers/{reference}/json")
async def inspect_container(request: Request, reference: str) -> Response:
    """Show one container."""
    agent = agent_of(request)
    container = _find(request, reference)
    id_ = container.config.id
    folders = agent.containers.folders(id_)
    graph = graph_of(container, folders) if folders is not None else {}
    details = render_details(container, agent.health.status(id_), agent.local.get(id_), graph)
    sizes = await sizes_of(container, folders, agent.images) if query_flag(request, "size") else {}
    return JSONResponse({**details, **sizes, "ExecIDs": agent.execs.ids_of(id_) or None})


@router.get("/containers/{reference}/changes")
async def list_changes(request: Request, reference: str) -> Response:
    """Tell what a container has changed in its image's files."""
    container = _find(request, reference)
    folders = agent_of(request).containers.folders(container.config.id)
    if folders is None:
        return JSONResponse(None)
    hidden = [mount.target for mount in container.config.mounts]
    changes = await asyncio.to_thread(layer_changes, folders.upper, layer_paths(folders.layers), hidden)
    return JSONResponse([{"Path": change.path, "Kind": change.kind} for change in changes] or None)


@router.post("/containers/create")
async def create_container(request: Request) -> Response:
    """Make a container; its image must be here."""
    posted = await read_json_object(request)
    agent = agent_of(request)
    platform = request.query_params.get("platform", "")
    container_id = await agent.local.create(request.query_params.get("name", ""), posted, platform)
    made = agent.containers.get(container_id)
    warnings = agent.containers.warnings_about(made.config) if made is not None else []
    return JSONResponse({"Id": container_id, "Warnings": warnings}, status_code=201)


@router.post("/containers/prune")
async def prune_containers(request: Request) -> Response:
    """Remove the local containers that do not run; those of tasks go with their tasks."""
    agent = agent_of(request)
    filters = Filters.parse(request.query_params.get("filters"), PRUNE_FILTERS)
    now_ns = agent.clock.now_ns()
    deleted, freed_bytes = [], 0
    for container in agent.containers.list():
        held = agent.local.get(container.config.id)
        if held is None or container.is_live or held.is_restarting or not may_prune(container, filters, now_ns):
            continue
        with contextlib.suppress(PyswarmError):  # of one that somebody started or removed meanwhile
            folders = agent.containers.folders(container.config.id)
            size_bytes = await asyncio.to_thread(files_bytes, folders.upper) if folders is not None else 0
            await agent.local.remove(container.config.id)
            deleted.append(container.config.id)
            freed_bytes += size_bytes
    return JSONResponse({"ContainersDeleted": deleted or None, "SpaceReclaimed": freed_bytes})


@router.post("/containers/{reference}/start")
async def start_container(request: Request, reference: str) -> Response:
    """Start a container; one that runs already is answered 304."""
    try:
        is_started = await agent_of(request).local.start(_find(request, reference).config.id)
    except ContainerStartFailed as error:
        # 400 for what the user has mistyped: the client ends with 126 or 127 by the words.
        words = f"failed to create task for container: {error.message}"
        return JSONResponse({"message": words}, status_code=400 if error.exit_code in _START_REFUSED else 500)
    return Response(status_code=_NO_CONTENT if is_started else _NOT_MODIFIED)


@router.post("/containers/{reference}/stop")
async def stop_container(request: Request, reference: str) -> Response:
    """Stop a container; one that does not run is answered 304."""
    is_stopped = await agent_of(request).local.stop(_find(request, reference).config.id, _grace_s(request))
    return Response(status_code=_NO_CONTENT if is_stopped else _NOT_MODIFIED)


@router.post("/containers/{reference}/restart")
async def restart_container(request: Request, reference: str) -> Response:
    """Stop a container if it runs, and start it."""
    await agent_of(request).local.restart(_find(request, reference).config.id, _grace_s(request))
    return Response(status_code=_NO_CONTENT)


@router.post("/containers/{reference}/kill")
async def kill_container(request: Request, reference: str) -> Response:
    """Send a signal to a container's first process."""
    signal = request.query_params.get("signal") or "SIGKILL"
    try:
        signal_number(signal)
    except InvalidArgument:
        raise InvalidArgument(f"Invalid signal: {signal}") from None
    await agent_of(request).local.kill(_find(request, reference).config.id, signal)
    return Response(status_code=_NO_CONTENT)


@router.post("/containers/{reference}/rename")
async def rename_container(request: Request, reference: str) -> Response:
    """Give a container another name."""
    await agent_of(request).local.rename(_find(request, reference).config.id, request.query_params.get("name", ""))
    return Response(status_code=_NO_CONTENT)


@router.post("/containers/{reference}/update")
async def update_container(request: Request, reference: str) -> Response:
    """Change a container's limits and restart policy."""
    posted = await read_json_object(request)
    try:
        changed = msgspec.convert(with_canonical_names(posted, Resources), Resources, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    warnings = await agent_of(request).local.update(_find(request, reference).config.id, changed, posted)
    return JSONResponse({"Warnings": warnings or None})


@router.post("/containers/{reference}/wait")
async def wait_container(request: Request, reference: str) -> Response:
    """Answer at once, and tell how the container ended when it has."""
    agent = agent_of(request)
    condition = check_condition(request.query_params.get("condition", ""))
    events = agent.events.listen()
    try:
        container = _find(request, reference)
    except PyswarmError:
        events.close()
        raise

    async def produce(write: Write) -> None:
        ended = await wait_ended(agent.local, container, condition, events)
        error = {"Message": ended.error} if ended.error else None
        await write(_json.encode({"StatusCode": ended.exit_code, "Error": error}) + b"\n")

    return StreamResponse(produce, "application/json")


@router.delete("/containers/{reference}")
async def remove_container(request: Request, reference: str) -> Response:
    """Remove a container; one that runs must be forced."""
    if query_flag(request, "link"):
        raise InvalidArgument("links between containers are not offered, so there is none to remove")
    container_id = _find(request, reference).config.id
    await agent_of(request).local.remove(container_id, force=query_flag(request, "force"), with_volumes=query_flag(request, "v"))
    return Response(status_code=_NO_CONTENT)


def _find(request: Request, reference: str) -> ContainerRecord:
    return find_container(agent_of(request).containers.list(), reference)


def _grace_s(request: Request) -> float | None:
    text = request.query_params.get("t", "")
    if not text:
        return None
    try:
        seconds = int(text)
    except ValueError:
        raise InvalidArgument(f'invalid time to wait: strconv.Atoi: parsing "{text}": invalid syntax') from None
    return float(seconds) if seconds >= 0 else FOREVER_S


def _limit(request: Request) -> int:
    """The newest so many; 0, which negative numbers mean too: no limit."""
    text = request.query_params.get("limit", "0")
    return int(text) if text.isascii() and text.isdigit() else 0
