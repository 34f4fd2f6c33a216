"""The routes of plugins: there are none, and this says so in the shapes that clients expect."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import NotFound

router = APIRouter()


@router.get("/plugins")
async def list_plugins(request: Request) -> Response:
    """List plugins: none."""
    return JSONResponse([])


@router.get("/plugins/{name:path}/json")
async def find_plugin(request: Request, name: str) -> Response:
    """Anything about one plugin: there is none."""
    raise NotFound(f'plugin "{name}" not found')
