"""The routes of the swarm itself: inspect, update (settings, join tokens, autolock), unlock key. The rest is the node's."""

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import JSONResponse, query_flag, query_version, read_json_object
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.pki import new_join_token
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.unlock_key import new_unlock_key
from pyswarm_manager.api.manager_services import read_view, services_of
from pyswarm_manager.api.render.cluster import render_swarm
from pyswarm_manager.ca.rotation.start import CARequest, certificate_lifetime_s, parse_ca_config, stored_spec, with_ca_request
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
    """Change the cluster's settings; rotate its join tokens and its unlock key."""
    manager = services_of(request)
    version = query_version(request, "swarm")
    spec = await read_json_object(request)
    settings, is_autolocked = cluster_settings(spec), wants_autolock(spec)
    ca_request = parse_ca_config(spec, manager.clock.now_ns())
    rotated = [field for flag, field in _ROTATION_FLAGS.items() if query_flag(request, flag)]
    is_rotated, fresh = query_flag(request, "rotateManagerUnlockKey"), new_unlock_key()

    def change(tx: Transaction) -> None:
        unlock_key = next_unlock_key(tx.cluster.unlock_key, is_wanted=is_autolocked, is_rotated=is_rotated, fresh=fresh)
        update_cluster(tx, {**settings, "unlock_key": unlock_key}, rotated, version, ca_request)

    await manager.store.update(change)
    return Response()


@router.get("/swarm/unlockkey")
async def show_unlock_key(request: Request) -> Response:
    """Show the unlock key; "" without autolock."""
    return JSONResponse({"UnlockKey": (await read_view(services_of(request))).cluster.unlock_key})


def update_cluster(
    tx: Transaction, settings: dict[str, Any], rotated: list[str], version_index: int, ca_request: CARequest | None = None
) -> None:
    """Store new settings, and new tokens in the cluster's fields named in `rotated`. Raises OutOfSequence."""
    cluster = with_ca_request(tx.cluster, ca_request) if ca_request is not None else tx.cluster
    tokens = {field: new_join_token(cluster.root_certificate_pem) for field in rotated}
    tx.update(msgspec.structs.replace(cluster, **settings, **tokens), expected_index=version_index)


def cluster_settings(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the cluster's fields for a posted swarm spec (without nulls), but for the unlock key. Raises InvalidArgument."""
    settings: dict[str, Any] = {"spec_json": msgspec.json.encode(stored_spec(spec))}
    lifetime_s = certificate_lifetime_s(spec)
    if lifetime_s is not None:
        settings["node_certificate_lifetime_s"] = lifetime_s
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


def wants_autolock(spec: dict[str, Any]) -> bool:
    """Whether a posted swarm spec asks for autolock; saying nothing means no, as with Docker. Raises InvalidArgument."""
    return bool(_member(spec, "EncryptionConfig").get("AutoLockManagers"))


def next_unlock_key(present: str, *, is_wanted: bool, is_rotated: bool, fresh: str) -> str:
    """Return the cluster's unlock key after an update, "" for no autolock. `fresh` is a new key for when one is needed."""
    if not is_wanted:
        return ""
    return fresh if is_rotated or not present else present


def _member(spec: dict[str, Any], name: str) -> dict[str, Any]:
    value = spec.get(name, {})
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid swarm spec: {name} must be an object")
    return value
