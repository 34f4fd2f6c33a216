"""The routes by which a node comes into a swarm, is unlocked, and goes out of it."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import JSONResponse, query_flag, read_json_object
from pyswarm_common.errors import Conflict, Unavailable
from pyswarm_node.api.control import ALREADY_IN_SWARM, NOT_IN_SWARM, NodeControl, require_manager

router = APIRouter()

LEAVE_WHILE_LOCKED = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message."


@router.post("/swarm/init")
async def init_swarm(request: Request) -> Response:
    """Found a swarm; answers the id of this node."""
    control = _control(request)
    body = await read_json_object(request)
    if control.local.swarm_state != "inactive" and not body.get("ForceNewCluster"):
        raise Unavailable(ALREADY_IN_SWARM)
    return JSONResponse(await control.init_swarm(body))


@router.post("/swarm/join")
async def join_swarm(request: Request) -> Response:
    """Join a swarm."""
    control = _control(request)
    body = await read_json_object(request)
    if control.local.swarm_state != "inactive":
        raise Unavailable(ALREADY_IN_SWARM)
    await control.join_swarm(body)
    return Response()


@router.post("/swarm/unlock")
async def unlock_swarm(request: Request) -> Response:
    """Unlock this node's keys; answers when its manager serves."""
    control = _control(request)
    body = await read_json_object(request)
    state = control.local.swarm_state
    if state == "locked":
        await control.unlock_swarm(str(body.get("UnlockKey") or ""))
        return Response()
    require_manager(control)
    raise Conflict("swarm is not locked")


@router.post("/swarm/leave")
async def leave_swarm(request: Request) -> Response:
    """Leave the swarm; a manager only when forced."""
    control = _control(request)
    is_forced = query_flag(request, "force")
    if control.local.swarm_state == "inactive":
        raise Unavailable(NOT_IN_SWARM)
    if control.local.swarm_state == "locked" and not is_forced:
        raise Unavailable(LEAVE_WHILE_LOCKED)
    if control.local.is_manager and not is_forced:
        raise Unavailable(_why_not_leave(control))
    await control.leave_swarm(is_forced)
    return Response()


def _why_not_leave(control: NodeControl) -> str:
    """Docker's words for what is lost when this manager goes."""
    text = "You are attempting to leave the swarm on a node that is participating as a manager. "
    manager = control.manager
    if manager is not None:
        managers = [node for node in manager.store.view.nodes if node.manager is not None]
        reachable = [node for node in managers if node.status.state == "ready" or node.id == control.local.node_id]
        if len(managers) <= 1:
            return text + (
                "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. "
            )
        if len(reachable) - 1 <= len(managers) // 2:
            text += (
                f"Removing this node leaves {len(reachable) - 1} managers out of {len(managers)}. "
                "Without a Raft quorum your swarm will be inaccessible. "
            )
    else:
        text += "Doing so may lose the consensus of your cluster. "
    return text + (
        "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. "
        "Use `--force` to suppress this message."
    )


def _control(request: Request) -> NodeControl:
    control: NodeControl = request.app.state.control
    return control
