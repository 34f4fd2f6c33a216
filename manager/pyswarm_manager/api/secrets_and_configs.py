"""The routes of secrets and configs: there are none yet, and this says so in the shapes that clients expect."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import NotFound, Unimplemented
from pyswarm_manager.api.manager_services import services_of

router = APIRouter()

_FILTERS = ("id", "name", "names", "label")


@router.get("/secrets")
@router.get("/configs")
async def list_none(request: Request) -> Response:
    """List: empty."""
    Filters.parse(request.query_params.get("filters"), _FILTERS)
    services_of(request)
    return JSONResponse([])


@router.post("/secrets/create")
async def create_secret(request: Request) -> Response:
    """Create a secret: not offered yet."""
    services_of(request)
    raise Unimplemented("secrets are not supported yet")


@router.post("/configs/create")
async def create_config(request: Request) -> Response:
    """Create a config: not offered yet."""
    services_of(request)
    raise Unimplemented("configs are not supported yet")


@router.get("/secrets/{reference}")
@router.delete("/secrets/{reference}")
@router.post("/secrets/{reference}/update")
async def find_secret(request: Request, reference: str) -> Response:
    """Anything about one secret: there is none."""
    services_of(request)
    raise NotFound(f"secret {reference} not found")


@router.get("/configs/{reference}")
@router.delete("/configs/{reference}")
@router.post("/configs/{reference}/update")
async def find_config(request: Request, reference: str) -> Response:
    """Anything about one config: there is none."""
    services_of(request)
    raise NotFound(f"config {reference} not found")
