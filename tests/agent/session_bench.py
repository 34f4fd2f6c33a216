"""Managers for tests of the agent's session: a real WebSocket server over mutual TLS whose talk a test writes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tls_certificates import Certificates
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pyswarm_common import wire

WELCOME = wire.Welcome(protocol_version=1, session_id="s1", node_id="n1", heartbeat_period_s=5.0)
Talk = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def manager(certificates: Certificates, talk: Talk) -> AsyncIterator[str]:
    """Run a node port whose sessions go as `talk` says; give its address."""

    async def handle(socket: ServerConnection) -> None:
        try:
            await talk(socket)
        except ConnectionClosed:
            return

    async with serve(handle, "127.0.0.1", 0, ssl=certificates.server(), compression=None, close_timeout=0.2) as server:
        yield f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def welcome(socket: ServerConnection) -> wire.Hello:
    """Greet; return what the agent said."""
    hello = wire.decode_agent_message(bytes(await socket.recv()))
    assert isinstance(hello, wire.Hello)
    await socket.send(wire.encode(WELCOME))
    return hello


async def receive(socket: ServerConnection) -> wire.AgentMessage:
    """Return the next message that is no heartbeat."""
    while True:
        message = wire.decode_agent_message(bytes(await socket.recv()))
        if not isinstance(message, wire.Heartbeat):
            return message
