"""The routes that join a client with a container's first process."""

import contextlib
from collections.abc import Collection

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import AgentServices, agent_of
from pyswarm_agent.api.container_reference import container_of
from pyswarm_agent.api.conversation import Conversation
from pyswarm_agent.api.terminal_size import asked_size
from pyswarm_agent.runtime.access.interface import STDERR, STDOUT
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.detach_keys import parse_detach_keys
from pyswarm_common.engine_api.hijack import HijackResponse, RawConnection, scope_extension
from pyswarm_common.engine_api.responses import query_flag
from pyswarm_common.engine_api.streams import frame
from pyswarm_common.errors import Unimplemented
from pyswarm_common.wire import LogRequest

router = APIRouter()


@router.post("/containers/{reference}/attach")
async def attach(request: Request, reference: str) -> Response:
    """Join the connection with the container's streams; `logs`: first what it has written so far; `stream`: then what it writes.

    A container that has not started yet may be attached to: its output comes from the first byte on.
    """
    agent, container = agent_of(request), container_of(request, reference)
    config = container.config
    wanted = [stream for stream, name in ((STDOUT, "stdout"), (STDERR, "stderr")) if query_flag(request, name)]
    takes_input = query_flag(request, "stdin") and config.open_stdin
    detach_keys = parse_detach_keys(request.query_params.get("detachKeys", ""))
    if "hijack" not in scope_extension(request.scope):
        raise Unimplemented("this server cannot hand over its connections")
    shows_log, streams_on = query_flag(request, "logs"), query_flag(request, "stream")
    # Attached before the log is read, so that nothing is lost in between.
    streams = await agent.access.attach(config.id, takes_input=takes_input) if streams_on else None
    until_ns = agent.clock.now_ns()
    agent.containers.on_event("attach", container, {})

    async def talk(connection: RawConnection) -> None:
        try:
            if shows_log:
                await _replay(connection, agent, container, wanted, until_ns)
        except ConnectionResetError:
            if streams is not None:
                await streams.close()
            return
        if streams is None:
            return
        conversation = Conversation(
            connection,
            streams,
            wanted=wanted,
            is_raw=config.tty,
            takes_input=takes_input,
            detach_keys=detach_keys if config.tty else b"",
            ends_with_input=config.tty or not config.stdin_once,
        )
        await conversation.run()
        if conversation.is_detached:
            agent.containers.on_event("detach", container, {})

    return HijackResponse(talk)


async def _replay(
    connection: RawConnection, agent: AgentServices, container: ContainerRecord, wanted: Collection[int], until_ns: int
) -> None:
    """Send what the container has written before."""
    request = LogRequest(task_id="", stdout=STDOUT in wanted, stderr=STDERR in wanted, until_ns=until_ns)
    with contextlib.suppress(Unimplemented):  # its log driver keeps nothing
        async for line in agent.containers.logs(container.config.id, request):
            await connection.write(line.line if container.config.tty else frame(line.stream, line.line))


@router.post("/containers/{reference}/resize")
async def resize(request: Request, reference: str) -> Response:
    """Tell the container's terminal its size."""
    size = asked_size(request)
    await agent_of(request).access.resize(container_of(request, reference).config.id, size)
    return Response(status_code=200)
