"""`POST /pyswarm/containers/{container}/dial?port=N`: a connection to a port inside a container (Docker's API has none)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.container_reference import container_of
from pyswarm_agent.runtime.access.dialing import dial_inside
from pyswarm_common.engine_api.hijack import HijackResponse, RawConnection, join
from pyswarm_common.errors import Conflict, InvalidArgument

router = APIRouter()

_HIGHEST_PORT = 65535
_PIECE_BYTES = 64 * 1024


@router.post("/pyswarm/containers/{reference}/dial")
async def dial(request: Request, reference: str) -> Response:
    """Join the client's connection to TCP port `port` on the container's own loopback."""
    container = container_of(request, reference)
    text = request.query_params.get("port", "")
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _HIGHEST_PORT):
        raise InvalidArgument(f"invalid port {text!r}: it is a number from 1 to {_HIGHEST_PORT}")
    config = container.config
    if container.state != "running":
        raise Conflict(f"container {config.id} is not running")
    connected = await dial_inside(config.netns_path, int(text), config.name or config.id[:12])

    async def talk(client: RawConnection) -> None:
        await _join(client, connected)

    return HijackResponse(talk)


async def _join(client: RawConnection, connected: socket.socket) -> None:
    """Carry bytes both ways until the container's side ends, or the client is gone."""
    reader, writer = await asyncio.open_connection(sock=connected)

    async def pieces() -> AsyncIterator[bytes]:
        while data := await reader.read(_PIECE_BYTES):
            yield data

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    async def end_input() -> None:
        writer.write_eof()

    try:
        with contextlib.suppress(ConnectionError):
            await join(client, pieces(), send, end_input)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
