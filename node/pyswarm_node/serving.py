"""Runs an ASGI application on sockets that are already bound, as part of the daemon's own task tree.

Sockets are bound by the caller, so that "address in use" is an error of the request that asked for it, not of a server in the
background.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from pyswarm_common.errors import Conflict
from pyswarm_node.http_protocol import server_config

BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the daemon decides when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon."""
        yield


async def serve(app: Any, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
    """Serve until cancelled; then finish what is under way and return."""
    options: dict[str, Any] = {"proxy_headers": False}
    if tls is not None:
        options["ssl_context_factory"] = lambda *_: tls
    server = Server(server_config(app, ws_max_size=64 * 1024 * 1024, backlog=BACKLOG, **options))
    serving = asyncio.ensure_future(server.serve(sockets=list(sockets)))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise


def bind_tcp(address: str) -> socket.socket:
    """Return a socket that is bound to host:port. Raises Conflict when the port is taken.

    It does not listen before `serve`: until then who connects is refused at once, instead of waiting for an answer.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"cannot listen on {address}: the port is taken by another program; stop it (ss -ltnp shows which), "
                "or choose another port with --listen-addr"
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise Conflict(f"cannot listen on {address}: this machine has no such address") from error
        raise
    listener.setblocking(False)
    return listener


def bind_unix(path: Path) -> socket.socket:
    """Return a listening unix socket at `path` (owner only), replacing one that a dead daemon left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
