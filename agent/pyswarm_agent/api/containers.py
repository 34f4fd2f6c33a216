"""The routes of this node's containers: list and inspect. All belong to tasks; making single ones is not offered yet."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_agent.api.container_references import resolve_container
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import ZERO_TIME, JSONResponse, query_flag, rfc3339
from pyswarm_common.errors import Unimplemented

router = APIRouter()

_FILTERS = ("id", "name", "label", "status", "ancestor", "health", "network", "is-task", "exited")
_SECOND_NS = 1_000_000_000
_UNITS = ((86400 * 365, "year"), (86400 * 30, "month"), (86400 * 7, "week"), (86400, "day"), (3600, "hour"), (60, "minute"))


@router.get("/containers/json")
async def list_containers(request: Request) -> Response:
    """List containers: the running ones, or with `all` every one."""
    filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
    agent = agent_of(request)
    shows_all = query_flag(request, "all") or "status" in filters or "exited" in filters
    limit = _limit(request)
    newest_first = reversed(agent.containers.list())
    matching = [c for c in newest_first if (shows_all or limit or c.state == "running") and _matches(c, filters)]
    now_ns = agent.clock.now_ns()
    return JSONResponse([render_container(container, now_ns) for container in matching[: limit or None]])


@router.get("/containers/{reference}/json")
async def inspect_container(request: Request, reference: str) -> Response:
    """Show one container."""
    return JSONResponse(_render_details(resolve_container(agent_of(request).containers.list(), reference)))


@router.post("/containers/create")
async def create_container(request: Request) -> Response:
    """Make a single container: not offered yet."""
    raise Unimplemented("single containers are not supported yet: run a service instead")


@router.post("/containers/prune")
async def prune_containers(request: Request) -> Response:
    """Remove stopped containers: those of tasks go with their tasks, so there is nothing to do."""
    return JSONResponse({"ContainersDeleted": None, "SpaceReclaimed": 0})


def render_container(container: ContainerRecord, now_ns: int) -> dict[str, Any]:
    """Return a container as the list shows it."""
    config = container.config
    return {
        "Id": config.id,
        "Names": [f"/{config.name}"],
        "Image": config.image,
        "ImageID": config.image_id,
        "Command": " ".join(_quote(arg) for arg in config.args),
        "Created": container.created_at_ns // _SECOND_NS,
        "Ports": [],
        "Labels": config.labels,
        "State": container.state,
        "Status": _status(container, now_ns),
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [
            {
                "Type": mount.type,
                "Source": mount.source,
                "Destination": mount.target,
                "Mode": "",
                "RW": not mount.read_only,
                "Propagation": "",
            }
            for mount in config.mounts
        ],
    }


def _render_details(container: ContainerRecord) -> dict[str, Any]:
    config = container.config
    listed = render_container(container, container.started_at_ns)
    return {
        "Id": config.id,
        "Created": rfc3339(container.created_at_ns),
        "Path": config.args[0] if config.args else "",
        "Args": list(config.args[1:]),
        "State": _render_state(container),
        "Image": config.image_id,
        "Name": f"/{config.name}",
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": {
            "Binds": None,
            "NetworkMode": "default",
            "PortBindings": {},
            "CapAdd": list(config.cap_add) or None,
            "CapDrop": list(config.cap_drop) or None,
            "Privileged": False,
            "ReadonlyRootfs": config.read_only,
            "Init": config.init,
            "Memory": config.memory_bytes,
            "NanoCpus": config.nano_cpus,
            "PidsLimit": config.pids_limit or None,
        },
        "Mounts": listed["Mounts"],
        "Config": {
            "Hostname": config.hostname,
            "Domainname": "",
            "User": config.user,
            "Tty": config.tty,
            "OpenStdin": False,
            "Env": list(config.env),
            "Cmd": list(config.args),
            "Image": config.image,
            "Volumes": None,
            "WorkingDir": config.cwd,
            "Entrypoint": None,
            "Labels": config.labels,
            "StopSignal": config.stop_signal,
        },
        "NetworkSettings": {"Ports": {}, "Networks": {}},
    }


def _render_state(container: ContainerRecord) -> dict[str, Any]:
    ended = container.exit
    return {
        "Status": container.state,
        "Running": container.state == "running",
        "Paused": False,
        "Restarting": False,
        "OOMKilled": ended.oom_killed if ended else False,
        "Dead": False,
        "Pid": container.pid,
        "ExitCode": ended.exit_code if ended else 0,
        "Error": ended.error if ended else "",
        "StartedAt": rfc3339(container.started_at_ns),
        "FinishedAt": rfc3339(ended.finished_at_ns) if ended else ZERO_TIME,
    }


def _matches(container: ContainerRecord, filters: Filters) -> bool:
    config = container.config
    exit_code = str(container.exit.exit_code) if container.exit else ""
    return (
        filters.allows_prefix("id", config.id)
        and ("name" not in filters or any(part.removeprefix("/") in config.name for part in filters.values("name")))
        and filters.allows_labels("label", config.labels)
        and filters.allows("status", container.state)
        and ("ancestor" not in filters or bool({config.image, config.image_id} & set(filters.values("ancestor"))))
        and filters.allows("health", "none")
        and ("is-task" not in filters or bool({"true", "1"} & set(filters.values("is-task"))))
        and filters.allows("exited", exit_code)
    )


def _limit(request: Request) -> int:
    """The newest so many; 0, which negative numbers mean too: no limit."""
    text = request.query_params.get("limit", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _status(container: ContainerRecord, now_ns: int) -> str:
    if container.state == "running":
        return f"Up {_duration(now_ns - container.started_at_ns)}"
    if container.exit is not None:
        return f"Exited ({container.exit.exit_code}) {_duration(now_ns - container.exit.finished_at_ns)} ago"
    return "Created"


def _duration(duration_ns: int) -> str:
    seconds = max(0, duration_ns // _SECOND_NS)
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    if seconds >= 3600:
        return "About an hour"
    if seconds >= 60:
        return "About a minute"
    return "Less than a second" if seconds < 1 else "1 second" if seconds == 1 else f"{seconds} seconds"


def _quote(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument
