"""The routes of the swarm itself: inspect, update (settings, join tokens), unlock key. Init, join and leave are the node's."""

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import JSONResponse, query_flag, query_version, read_json_object
from pyswarm_common.errors import Conflict, InvalidArgument, Unimplemented
from pyswarm_common.pki import new_join_token
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.api.manager_services import read_view, services_of
from pyswarm_manager.api.render.cluster import render_swarm
from pyswarm_manager.store.transaction import Transaction

router = APIRouter()

_MINIMUM_HEARTBEAT_S = 0.1
_ROTATION_FLAGS = {"rotateWorkerToken": "worker_join_token", "rotateManagerToken": "manager_join_token"}


@router.get("/swarm")
async def inspect_swarm(request: Request) -> Response:
    """Show the cluster with its join tokens."""
    manager = services_of(request)
    cluster = (await read_view(manager)).cluster
    return JSONResponse(render_swarm(cluster, manager.store.version_index(cluster)))


@router.post("/swarm/update")
async def update_swarm(request: Request) -> Response:
    """Change the cluster's settings; rotate its join tokens."""
    manager = services_of(request)
    version = query_version(request, "swarm")
    settings = cluster_settings(await read_json_object(request))
    if query_flag(request, "rotateManagerUnlockKey"):
        raise Unimplemented("locking the swarm is not supported yet")
    rotated = [field for flag, field in _ROTATION_FLAGS.items() if query_flag(request, flag)]
    await manager.store.update(lambda tx: update_cluster(tx, settings, rotated, version))
    return Response()


@router.get("/swarm/unlockkey")
async def show_unlock_key(request: Request) -> Response:
    """Show the unlock key; there is none, as the swarm cannot be locked yet."""
    services_of(request)
    return JSONResponse({"UnlockKey": ""})


@router.post("/swarm/unlock")
async def unlock_swarm(request: Request) -> Response:
    """Unlock a locked manager; none is locked."""
    raise Conflict("swarm is not locked")


def update_cluster(tx: Transaction, settings: dict[str, Any], rotated: list[str], version_index: int) -> None:
    """Store new settings, and new tokens in the cluster's fields named in `rotated`. Raises OutOfSequence."""
    cluster = tx.cluster
    tokens = {field: new_join_token(cluster.root_certificate_pem) for field in rotated}
    tx.update(msgspec.structs.replace(cluster, **settings, **tokens), expected_index=version_index)


def cluster_settings(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the cluster's fields for a posted swarm spec (without nulls). Raises InvalidArgument and Unimplemented."""
    if _member(spec, "EncryptionConfig").get("AutoLockManagers"):
        raise Unimplemented("locking the swarm is not supported yet")
    settings: dict[str, Any] = {"spec_json": msgspec.json.encode(spec)}
    history = _member(spec, "Orchestration").get("TaskHistoryRetentionLimit")
    if history is not None:
        if not isinstance(history, int) or history < 0:
            raise InvalidArgument("invalid swarm spec: TaskHistoryRetentionLimit must be a whole number, 0 or more")
        settings["task_history_limit"] = history
    heartbeat_ns = _member(spec, "Dispatcher").get("HeartbeatPeriod")
    if heartbeat_ns:
        if not isinstance(heartbeat_ns, int) or heartbeat_ns < _MINIMUM_HEARTBEAT_S * SECOND_NS:
            raise InvalidArgument(f"invalid swarm spec: HeartbeatPeriod must be at least {_MINIMUM_HEARTBEAT_S} s in nanoseconds")
        settings["heartbeat_period_s"] = heartbeat_ns / SECOND_NS
    return settings


def _member(spec: dict[str, Any], name: str) -> dict[str, Any]:
    value = spec.get(name, {})
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid swarm spec: {name} must be an object")
    return value
