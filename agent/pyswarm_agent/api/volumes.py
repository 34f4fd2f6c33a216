"""The routes of volumes: list, create, inspect, remove, prune."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import AgentServices, agent_of
from pyswarm_agent.volumes import LOCAL_DRIVER, Volume
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import (
    JSONResponse,
    query_flag,
    read_json_object,
    refuse_unsupported,
    rfc3339,
)
from pyswarm_common.errors import InvalidArgument, Unavailable

router = APIRouter()

_LIST_FILTERS = ("dangling", "driver", "label", "name")
_PRUNE_FILTERS = ("all", "label", "label!")
_TRUE, _FALSE = ("1", "true"), ("0", "false")
_ALL_BEFORE = (1, 42)
"""Clients of older versions mean all volumes by `prune`, and tell their users so."""


@router.get("/volumes")
async def list_volumes(request: Request) -> Response:
    """List volumes."""
    filters = Filters.parse(request.query_params.get("filters"), _LIST_FILTERS)
    agent = agent_of(request)
    users = agent.volumes.users()
    dangling = _boolean(filters, "dangling")
    found = [
        volume
        for volume in agent.volumes.list()
        if (dangling is None or dangling == (volume.name not in users)) and _matches(volume, filters)
    ]
    return JSONResponse({"Volumes": [_render(agent, volume) for volume in found], "Warnings": None})


@router.post("/volumes/create")
async def create_volume(request: Request) -> Response:
    """Make a volume, or show the one of this name that exists."""
    body = await read_json_object(request)
    refuse_unsupported(body, {"ClusterVolumeSpec": "a cluster volume (CSI)"})
    agent = agent_of(request)
    is_new = agent.volumes.get(_text(body, "Name")) is None
    volume = await agent.volumes.create(
        _text(body, "Name"), driver=_text(body, "Driver"), options=_texts(body, "DriverOpts"), labels=_texts(body, "Labels")
    )
    if is_new:
        agent.events.publish("volume", "create", volume.name, {"driver": LOCAL_DRIVER})
    return JSONResponse(_render(agent, volume), status_code=201)


@router.post("/volumes/prune")
async def prune_volumes(request: Request) -> Response:
    """Remove unused volumes: those without a name, or all."""
    filters = Filters.parse(request.query_params.get("filters"), _PRUNE_FILTERS)
    given = _boolean(filters, "all")
    is_all = given if given is not None else getattr(request.state, "api_version", _ALL_BEFORE) < _ALL_BEFORE

    def is_wanted(volume: Volume) -> bool:
        return (
            (is_all or volume.is_anonymous)
            and filters.allows_labels("label", volume.labels)
            and not ("label!" in filters and filters.allows_labels("label!", volume.labels))
        )

    names, freed_bytes = await agent_of(request).volumes.prune(is_wanted)
    return JSONResponse({"VolumesDeleted": names or None, "SpaceReclaimed": freed_bytes})


@router.get("/volumes/{name}")
async def inspect_volume(request: Request, name: str) -> Response:
    """Show one volume."""
    agent = agent_of(request)
    return JSONResponse(_render(agent, agent.volumes.need(name)))


@router.put("/volumes/{name}")
async def update_volume(request: Request, name: str) -> Response:
    """Change a cluster volume: there are none."""
    agent_of(request).volumes.need(name)
    raise Unavailable(f"volume {name} is a volume of this node, and only cluster volumes, which are not offered, can be changed")


@router.delete("/volumes/{name}")
async def remove_volume(request: Request, name: str) -> Response:
    """Remove a volume that no container uses."""
    agent = agent_of(request)
    await agent.volumes.remove(name, force=query_flag(request, "force"))
    agent.events.publish("volume", "destroy", name, {"driver": LOCAL_DRIVER})
    return Response(status_code=204)


async def volumes_with_usage(agent: AgentServices) -> list[dict[str, Any]]:
    """Return all volumes with their sizes and how many containers use them, for the disk use of a node."""
    users = agent.volumes.users()
    return [
        {
            **_render(agent, volume),
            "UsageData": {"RefCount": len(users.get(volume.name, ())), "Size": await agent.volumes.size_bytes(volume.name)},
        }
        for volume in agent.volumes.list()
    ]


def _render(agent: AgentServices, volume: Volume) -> dict[str, Any]:
    return {
        "CreatedAt": rfc3339(volume.created_at_ns - volume.created_at_ns % 1_000_000_000),
        "Driver": LOCAL_DRIVER,
        "Labels": volume.labels or None,
        "Mountpoint": str(agent.volumes.data_path(volume.name)),
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
    }


def _matches(volume: Volume, filters: Filters) -> bool:
    return (
        filters.allows("driver", LOCAL_DRIVER)
        and ("name" not in filters or any(part in volume.name for part in filters.values("name")))
        and filters.allows_labels("label", volume.labels)
    )


def _boolean(filters: Filters, key: str) -> bool | None:
    """Return what a filter says; None when it is not given. Raises InvalidArgument."""
    values = {value.lower() for value in filters.values(key)}
    if not values:
        return None
    if values <= set(_TRUE):
        return True
    if values <= set(_FALSE):
        return False
    raise InvalidArgument(f"invalid filter '{key}={sorted(values)}': it is true or false")


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} must be a text")
    return value


def _texts(body: dict[str, Any], name: str) -> dict[str, str]:
    value = body.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise InvalidArgument(f"{name} must be an object of texts")
    return value
