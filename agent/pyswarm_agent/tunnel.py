"""Joins a tunnel that a manager asked for to this node's Engine API, as raw bytes (`wire.OpenTunnel`)."""

import asyncio
import contextlib
import ssl
from pathlib import Path

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from pyswarm_agent.session import STREAM_PATIENCE, open_websocket
from pyswarm_common import wire
from pyswarm_common.waiting import wait_first

_PIECE_BYTES = 64 * 1024


async def join_tunnel(address: str, request: wire.OpenTunnel, tls: ssl.SSLContext, engine_socket: Path) -> None:
    """Dial the manager at `address` and carry bytes both ways until the API ends its direction or the manager hangs up.

    Raises OSError when this node's API cannot be reached.
    """
    path = f"{wire.STREAM_PATH}/{request.stream_id}"
    reader, writer = await asyncio.open_unix_connection(engine_socket)
    try:
        with contextlib.suppress(TimeoutError, WebSocketException, ConnectionError):
            async with open_websocket(address, path, tls, STREAM_PATIENCE) as socket:
                await wait_first(_to_engine(socket, writer), _to_manager(reader, socket))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _to_engine(socket: ClientConnection, writer: asyncio.StreamWriter) -> None:
    async for message in socket:
        if not message:
            writer.write_eof()
            break
        writer.write(message if isinstance(message, bytes) else message.encode())
        await writer.drain()
    await socket.wait_closed()


async def _to_manager(reader: asyncio.StreamReader, socket: ClientConnection) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        await socket.send(piece)
    await socket.send(b"")
