"""Managers for tests of the agent's session: a real WebSocket server over mutual TLS whose talk a test writes."""

import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pyswarm_agent.session import client_tls
from pyswarm_common import pki, wire

WELCOME = wire.Welcome(protocol_version=1, session_id="s1", node_id="n1", heartbeat_period_s=5.0)
Talk = Callable[[ServerConnection], Awaitable[None]]


@dataclass(frozen=True)
class Certificates:
    """A cluster's CA, and the key pair of a manager that also serves as the agent's."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, role: str = "manager") -> "Certificates":
        """Write root.pem, node.pem and node.key."""
        now = datetime.datetime.now(datetime.UTC)
        root, root_key = pki.new_root(now)
        key = pki.new_private_key_pem()
        identity = pki.NodeIdentity(node_id="m1", role=role, cluster_id="c1")
        certificate = pki.sign_node_certificate(root, root_key, pki.new_signing_request(key), identity, ("127.0.0.1",), now)
        folder.mkdir(exist_ok=True)
        for name, pem in (("root.pem", root), ("node.pem", certificate), ("node.key", key)):
            (folder / name).write_text(pem)
        return cls(folder)

    def server(self) -> ssl.SSLContext:
        """Return the TLS settings of a node port that wants to see a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.folder / "root.pem"))
        context.load_cert_chain(self.folder / "node.pem", self.folder / "node.key")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> ssl.SSLContext:
        """Return the TLS settings of the agent."""
        return client_tls(*(str(self.folder / name) for name in ("node.pem", "node.key", "root.pem")))


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
