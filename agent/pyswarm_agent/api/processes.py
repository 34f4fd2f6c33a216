"""The routes of a container's processes: list them, freeze them, let them go on."""

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_agent.api.container_reference import container_of
from pyswarm_agent.runtime.access.process_listing import DEFAULT_ARGUMENTS, list_processes
from pyswarm_common.engine_api.responses import JSONResponse

router = APIRouter()


@router.get("/containers/{reference}/top")
async def list_container_processes(request: Request, reference: str) -> Response:
    """Show what the host's `ps` says about a container's processes."""
    arguments = request.query_params.get("ps_args") or DEFAULT_ARGUMENTS
    pids = await agent_of(request).access.pids(container_of(request, reference).config.id)
    listing = await asyncio.to_thread(list_processes, set(pids), arguments)
    return JSONResponse({"Titles": listing.titles, "Processes": listing.rows})


@router.post("/containers/{reference}/pause")
async def pause_container(request: Request, reference: str) -> Response:
    """Freeze all processes of a container."""
    await agent_of(request).access.pause(container_of(request, reference).config.id)
    return Response(status_code=204)


@router.post("/containers/{reference}/unpause")
async def unpause_container(request: Request, reference: str) -> Response:
    """Let them go on."""
    await agent_of(request).access.unpause(container_of(request, reference).config.id)
    return Response(status_code=204)
