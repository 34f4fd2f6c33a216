"""uvicorn's HTTP and WebSocket protocols, extended by what the Engine API and the node port need.

* Requests can be hijacked (`pyswarm_common.engine_api.hijack`), as attach, exec and their like need.
* `peer_certificate(scope)`: the client's TLS certificate, for http and websocket scopes alike.
* `follow_pings(scope, on_ping)`: be told of each ping of a WebSocket; it costs far less than a message.

Plain uvicorn answers `101` wrongly: its parser stops at the headers of an upgrade request, and ASGI's messages know no raw
connection. Here, on an upgrade to `tcp`, the request's body (the first `Content-Length` raw bytes) reaches the application as
any body does, what follows is kept for the hijacker, and the application runs as for any request: it may answer an ordinary
error, after which the connection closes.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from pyswarm_common.engine_api.hijack import SCOPE_EXTENSION, scope_extension

_GRACEFUL_SHUTDOWN_S = 3
_READ_LIMIT_BYTES = 64 * 1024


class HijackedConnection(asyncio.Protocol):
    """A raw connection in both directions, once the HTTP headers are done."""

    def __init__(self, transport: asyncio.Transport, connections: set[Any]) -> None:
        self._transport = transport
        self._connections = connections
        self._reader = asyncio.StreamReader(limit=_READ_LIMIT_BYTES)
        self._reader.set_transport(transport)
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        connections.add(self)

    async def read(self, limit_bytes: int = _READ_LIMIT_BYTES) -> bytes:
        """Return what the client sent, at most `limit_bytes`; b"" once it has closed its half."""
        return await self._reader.read(limit_bytes)

    async def write(self, data: bytes) -> None:
        """Send to the client, waiting while it reads too slowly. Raises ConnectionResetError when it is gone."""
        if self._closed.is_set() or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)
        await self._writable.wait()

    async def wait_closed(self) -> None:
        """Return when the connection is gone in both directions."""
        await self._closed.wait()

    def close(self) -> None:
        """Send what is buffered and end the connection."""
        self._transport.close()

    def shutdown(self) -> None:
        """uvicorn stops: end the connection."""
        self.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._reader.feed_data(data)

    def eof_received(self) -> bool:
        """The client closed its half; the other stays open, but for TLS, which asyncio cannot half-close."""
        self._reader.feed_eof()
        return self._transport.get_extra_info("ssl_object") is None

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: readers see its end, writers an error."""
        self._connections.discard(self)
        self._closed.set()
        self._writable.set()
        self._reader.feed_eof()


class EngineHTTPProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol whose requests can be hijacked and know their peer's certificate."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_upgrade = False
        self._body_bytes = 0
        self._raw = bytearray()
        self._raw_ended = False

    def on_message_begin(self) -> None:
        """Give the scope its extension."""
        super().on_message_begin()
        extension: dict[object, object] = {"hijack": self._hijack, "peer_certificate": _certificate_of(self.transport)}
        self.scope["extensions"] = {SCOPE_EXTENSION: extension}

    def data_received(self, data: bytes) -> None:
        """Parse, or keep for the hijacker what follows an upgrade request."""
        if self._is_upgrade:
            self._keep_raw(data)
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._is_upgrade = True
                self.cycle.keep_alive = False
                self._keep_raw(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def on_message_complete(self) -> None:
        """The parser takes an upgrade request as complete after its headers; its body is yet to come."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def shutdown(self) -> None:
        """The server stops: an idle TLS connection is cut, as its client would answer a goodbye only when it uses it next."""
        super().shutdown()
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.transport.get_extra_info("ssl_object") is not None:
            self.transport.abort()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Remember that the client closed its half when the connection may yet be hijacked; else the transport closes."""
        if not self._is_upgrade:
            return None
        self._raw_ended = True
        return self.transport.get_extra_info("ssl_object") is None

    def _keep_raw(self, data: bytes) -> None:
        """Split raw bytes into the request's body, as long as its Content-Length says, and what comes after it."""
        if self.cycle.more_body:
            missing = self._content_length() - self._body_bytes
            self._body_bytes += len(data[:missing])
            self.cycle.body += data[:missing]
            self.cycle.more_body = self._body_bytes < self._content_length()
            self.cycle.message_event.set()
            data = data[missing:]
        self._raw.extend(data)
        if len(self._raw) > _READ_LIMIT_BYTES:
            self.flow.pause_reading()

    def _content_length(self) -> int:
        value = next((value for name, value in self.headers if name == b"content-length"), b"0")
        return int(value) if value.isdigit() else 0

    def _hijack(self, head: bytes) -> HijackedConnection:
        """Write the head of the answer and hand the connection over; uvicorn takes the request as answered."""
        cycle = self.cycle
        cycle.response_started = cycle.response_complete = True
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        connection = HijackedConnection(self.transport, self.connections)
        self.transport.set_protocol(connection)
        self.transport.write(head)
        self.flow.resume_reading()
        if self._raw:
            connection.data_received(bytes(self._raw))
        if self._raw_ended:
            connection.eof_received()
        return connection


class PeerWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol whose scope knows its peer's certificate, and whose pings can be followed."""

    async def run_asgi(self) -> None:
        """Give the scope its extension, then run the application."""
        extension: dict[object, object] = {"peer_certificate": _certificate_of(self.transport)}
        self.scope.setdefault("extensions", {})[SCOPE_EXTENSION] = extension
        await super().run_asgi()

    def handle_ping(self) -> None:
        """Answer, and tell who follows the pings."""
        super().handle_ping()
        on_ping = scope_extension(self.scope).get("on_ping")
        if on_ping is not None:
            on_ping()


def peer_certificate(scope: Mapping[str, Any]) -> bytes | None:
    """Return the client's TLS certificate (DER), None when it showed none or the connection has no TLS."""
    certificate: bytes | None = scope_extension(scope).get("peer_certificate")
    return certificate


def follow_pings(scope: Mapping[str, Any], on_ping: Callable[[], None]) -> None:
    """Call `on_ping` at each ping of this WebSocket's client from now on."""
    scope_extension(scope)["on_ping"] = on_ping


def server_config(app: Any, **options: Any) -> uvicorn.Config:
    """Return uvicorn's configuration for our servers; `options` go to `uvicorn.Config` (`uds=…`, `port=…`, `ssl_…`)."""
    settings: dict[str, Any] = {
        "http": EngineHTTPProtocol,
        "ws": PeerWebSocketProtocol,
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "lifespan": "off",
        "timeout_graceful_shutdown": _GRACEFUL_SHUTDOWN_S,
        "ws_per_message_deflate": False,  # agents do not ask for it, and it would cost memory in every session
    }
    return uvicorn.Config(app, **{**settings, **options})


def _certificate_of(transport: asyncio.Transport) -> bytes | None:
    ssl_object = transport.get_extra_info("ssl_object")
    certificate: bytes | None = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
    return certificate
