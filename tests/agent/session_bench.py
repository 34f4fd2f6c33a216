"""Managers for tests of the agent's session: a real WebSocket server over mutual TLS whose talk a test writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from tls_certificates import Certificates
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from pyswarm_common import wire

WELCOME = wire.Welcome(protocol_version=1, session_id="s1", node_id="n1", heartbeat_period_s=5.0)
Talk = Callable[[ServerConnection], Awaitable[None]]


class _FollowedConnection(ServerConnection):
    """A connection that puts each ping into a queue."""

    def __init__(self, beats: asyncio.Queue[None], *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._beats = beats

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame) and event.opcode is Opcode.PING:
            self._beats.put_nowait(None)
        super().process_event(event)


@asynccontextmanager
async def manager(certificates: Certificates, talk: Talk, beats: asyncio.Queue[None] | None = None) -> AsyncIterator[str]:
    """Run a node port whose sessions go as `talk` says, and put its heartbeats into a queue; give its address."""

    async def handle(socket: ServerConnection) -> None:
        try:
            await talk(socket)
        except ConnectionClosed:
            return

    options: dict[str, Any] = {"compression": None, "close_timeout": 0.2}
    options["create_connection"] = partial(_FollowedConnection, asyncio.Queue() if beats is None else beats)
    async with serve(handle, "127.0.0.1", 0, ssl=certificates.server(), **options) as server:
        yield f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def welcome(socket: ServerConnection) -> wire.Hello:
    """Greet; return what the agent said."""
    hello = wire.decode_agent_message(bytes(await socket.recv()))
    assert isinstance(hello, wire.Hello)
    await socket.send(wire.encode(WELCOME))
    return hello


async def receive(socket: ServerConnection) -> wire.AgentMessage:
    """Return the next message."""
    return wire.decode_agent_message(bytes(await socket.recv()))
