"""The route of a container's log."""

import contextlib
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import AgentServices, agent_of
from pyswarm_agent.container_lookup import find_container
from pyswarm_agent.runtime.log_arguments import container_log_attributes
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.engine_api.log_query import details_text, read_log_request, rendered_lines
from pyswarm_common.engine_api.responses import query_flag
from pyswarm_common.engine_api.streams import MULTIPLEXED_STREAM, RAW_STREAM, SYSTEM_ERROR, StreamResponse, Write, frame
from pyswarm_common.errors import PyswarmError
from pyswarm_common.log_drivers import not_readable
from pyswarm_common.wire import LogRequest

router = APIRouter()


@router.get("/containers/{reference}/logs")
async def container_logs(request: Request, reference: str) -> Response:
    """Stream what a container wrote."""
    agent = agent_of(request)
    config = find_container(agent.containers.list(), reference).config
    log_request = read_log_request(request)
    if config.log.driver == "none":
        raise not_readable()
    details = f"{details_text(container_log_attributes(config))} " if query_flag(request, "details") else ""
    produce = partial(_produce, agent, config, log_request, details, query_flag(request, "timestamps"))
    return StreamResponse(produce, RAW_STREAM if config.tty else MULTIPLEXED_STREAM)


async def _produce(
    agent: AgentServices, config: ContainerConfig, request: LogRequest, details: str, with_timestamps: bool, write: Write
) -> None:
    try:
        async with contextlib.aclosing(agent.containers.log_parts(config.id, request)) as parts:
            async for part in parts:
                if part.lines:
                    lines = ((line, details) for line in part.lines)
                    await write(rendered_lines(lines, with_timestamps=with_timestamps, is_tty=config.tty))
    except (PyswarmError, OSError) as error:
        text = f"Error grabbing logs: {error}\n".encode()
        await write(text if config.tty else frame(SYSTEM_ERROR, text))
