"""The route of a container's statistics."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import AgentServices, agent_of
from pyswarm_agent.api.container_reference import container_of
from pyswarm_agent.runtime.access.interface import Figures
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.engine_api.responses import JSONResponse, query_flag, rfc3339
from pyswarm_common.engine_api.streams import StreamResponse, Write, json_line
from pyswarm_common.errors import Conflict, NotFound

router = APIRouter()

PERIOD_S = 1.0


@router.get("/containers/{reference}/stats")
async def show_statistics(request: Request, reference: str) -> Response:
    """Show what a container uses: every second, or with `stream=0` once, then after a second look unless `one-shot` is given."""
    agent, container = agent_of(request), container_of(request, reference)
    if query_flag(request, "stream", default=True):

        async def produce(write: Write) -> None:
            await _follow(agent, container.config.id, write)

        return StreamResponse(produce, "application/json")
    now = await _figures(agent, container.config.id)
    before = None
    if now is not None and not query_flag(request, "one-shot"):
        await agent.clock.sleep(PERIOD_S)
        before, now = now, await _figures(agent, container.config.id)
    return JSONResponse(render_statistics(container, now, before))


def render_statistics(container: ContainerRecord, now: Figures | None, before: Figures | None) -> dict[str, Any]:
    """Return the statistics in Docker's form; pure. Clients work the share of the processors out of both looks."""
    shown = now or Figures()
    rendered = {
        "read": rfc3339(shown.at_ns),
        "preread": rfc3339(before.at_ns if before is not None else 0),
        "pids_stats": shown.pids,
        "blkio_stats": shown.blkio,
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": shown.cpu or _NO_CPU,
        "precpu_stats": (before.cpu if before is not None else None) or _NO_CPU,
        "memory_stats": shown.memory,
        "name": f"/{container.config.name}",
        "id": container.config.id,
    }
    return {**rendered, "networks": shown.networks} if shown.networks else rendered


_NO_CPU = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


async def _follow(agent: AgentServices, container_id: str, write: Write) -> None:
    """Write the statistics every second until the container is removed."""
    before = None
    while (container := agent.containers.get(container_id)) is not None:
        now = await _figures(agent, container_id)
        await write(json_line(render_statistics(container, now, before)))
        before = now
        await agent.clock.sleep(PERIOD_S)


async def _figures(agent: AgentServices, container_id: str) -> Figures | None:
    """Return a container's figures, None when it does not run."""
    try:
        return await agent.access.figures(container_id)
    except (Conflict, NotFound):
        return None
