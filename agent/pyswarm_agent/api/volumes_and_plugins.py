"""The routes of volumes and plugins: there are none yet, and this says so in the shapes that clients expect."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import NotFound, Unimplemented

router = APIRouter()


@router.get("/volumes")
async def list_volumes(request: Request) -> Response:
    """List volumes: none."""
    return JSONResponse({"Volumes": [], "Warnings": None})


@router.post("/volumes/create")
async def create_volume(request: Request) -> Response:
    """Make a volume: not offered yet."""
    raise Unimplemented("volumes are not supported yet")


@router.post("/volumes/prune")
async def prune_volumes(request: Request) -> Response:
    """Remove unused volumes: there are none."""
    return JSONResponse({"VolumesDeleted": None, "SpaceReclaimed": 0})


@router.get("/volumes/{name}")
@router.delete("/volumes/{name}")
async def find_volume(request: Request, name: str) -> Response:
    """Anything about one volume: there is none."""
    raise NotFound(f"get {name}: no such volume")


@router.get("/plugins")
async def list_plugins(request: Request) -> Response:
    """List plugins: none."""
    return JSONResponse([])


@router.get("/plugins/{name:path}/json")
async def find_plugin(request: Request, name: str) -> Response:
    """Anything about one plugin: there is none."""
    raise NotFound(f'plugin "{name}" not found')
