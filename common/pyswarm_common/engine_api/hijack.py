"""Taking a connection over from HTTP, as attach, exec and their like do; the server's own part is in `pyswarm_node.http_protocol`.

A request with `Connection: Upgrade` and `Upgrade: tcp` is answered by `101 UPGRADED` (any other by `200 OK`); then both sides send
raw bytes, and the client may close its half while output still flows.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pyswarm_common.engine_api.streams import RAW_STREAM
from pyswarm_common.errors import Unimplemented
from pyswarm_common.waiting import wait_first

SCOPE_EXTENSION = "pyswarm"
"""Where in a scope's `extensions` our server keeps what it adds: `hijack`, a function from the answer's head to the connection."""


class RawConnection(Protocol):
    """A connection to a client, once the HTTP headers are done."""

    async def read(self, limit_bytes: int = ...) -> bytes:
        """Return what the client sent, at most `limit_bytes`; b"" once it has closed its half."""
        ...

    async def write(self, data: bytes) -> None:
        """Send to the client, waiting while it reads too slowly. Raises ConnectionResetError when it is gone."""
        ...

    async def wait_closed(self) -> None:
        """Return when the connection is gone in both directions."""
        ...

    def close(self) -> None:
        """Send what is buffered and end the connection."""
        ...


class HijackResponse(Response):
    """An answer that takes the connection over and runs `talk(connection)`, which ends with the connection closed.

    Raises Unimplemented, before anything was sent, on a server that cannot hand its connections over.
    """

    def __init__(self, talk: Callable[[RawConnection], Awaitable[None]], media_type: str = RAW_STREAM) -> None:
        super().__init__(media_type=media_type)
        self._talk = talk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run as an ASGI application."""
        connection = hijack(Request(scope), self.media_type or RAW_STREAM)
        try:
            await self._talk(connection)
        finally:
            connection.close()


def hijack(request: Request, media_type: str = RAW_STREAM) -> RawConnection:
    """Answer 101 (200 to a client that did not ask for an upgrade) and return the raw connection. Raises Unimplemented."""
    take_over = scope_extension(request.scope).get("hijack")
    if take_over is None:
        raise Unimplemented("this server cannot hand over its connections")
    is_upgrade = request.headers.get("upgrade", "").lower() == "tcp"
    head = "HTTP/1.1 101 UPGRADED\r\n" if is_upgrade else "HTTP/1.1 200 OK\r\n"
    head += f"Content-Type: {media_type}\r\n"
    head += "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" if is_upgrade else "\r\n"
    connection: RawConnection = take_over(head.encode("ascii"))
    return connection


async def join(
    connection: RawConnection,
    incoming: AsyncIterator[bytes],
    send: Callable[[bytes], Awaitable[object]],
    end_input: Callable[[], Awaitable[object]],
) -> None:
    """Carry raw bytes between the client and another stream until `incoming`, that stream's output, ends or the client is gone.

    A client that closes its half ends the other's input, and still gets its output. Raises ConnectionResetError when the client is
    gone, and what the other stream raises.
    """

    async def pass_input() -> None:
        while data := await connection.read():
            await send(data)
        await end_input()
        await connection.wait_closed()

    async def pass_output() -> None:
        async for data in incoming:
            await connection.write(data)

    await wait_first(pass_input(), pass_output())


def scope_extension(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return what our server has added to a scope; {} on any other server."""
    extension: dict[str, Any] = (scope.get("extensions") or {}).get(SCOPE_EXTENSION, {})
    return extension
