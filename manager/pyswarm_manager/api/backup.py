"""`GET /pyswarm/backup`: the whole state of the cluster as one file. Docker's API knows nothing of the kind."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pyswarm_manager.api.manager_services import services_of
from pyswarm_manager.recovery.taking import backup_pieces, take_cut

router = APIRouter()


@router.get("/pyswarm/backup")
async def take_backup(request: Request) -> Response:
    """Send a backup, from this manager's mirror. It holds the CA's key and the join tokens; under autolock it is encrypted."""
    manager = services_of(request)
    cut = await take_cut(manager.store, manager.clock)
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{cut.header.cluster_id}.pyswarm-backup"'}
    return StreamingResponse(backup_pieces(cut), media_type="application/octet-stream", headers=headers)
