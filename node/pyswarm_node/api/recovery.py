"""`POST /pyswarm/restore`: begin the cluster that a backup holds anew, with this node as its only manager."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import Unavailable
from pyswarm_node.api.control import ALREADY_IN_SWARM, NodeControl

router = APIRouter()

UNLOCK_KEY_HEADER = "x-pyswarm-unlock-key"
_ADDRESSES = {"advertiseAddr": "AdvertiseAddr", "listenAddr": "ListenAddr", "dataPathAddr": "DataPathAddr"}


@router.post("/pyswarm/restore")
async def restore_swarm(request: Request) -> Response:
    """Restore the backup in the body; the query has the addresses of `POST /swarm/init`, a header the unlock key."""
    control: NodeControl = request.app.state.control
    if control.local.swarm_state != "inactive":
        raise Unavailable(ALREADY_IN_SWARM)
    addresses = {name: request.query_params[key] for key, name in _ADDRESSES.items() if request.query_params.get(key)}
    backup = bytearray()
    async for piece in request.stream():
        backup += piece
    return JSONResponse(await control.restore_swarm(bytes(backup), addresses, request.headers.get(UNLOCK_KEY_HEADER, "")))
