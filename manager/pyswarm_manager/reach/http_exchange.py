"""One HTTP request through a tunnel and its answer, which may be a connection that was taken over (attach, exec)."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import h11

from pyswarm_common.errors import Unavailable
from pyswarm_manager.reach.tunnels import Tunnel

_HEAD_LIMIT_BYTES = 64 * 1024
_OF_ONE_CONNECTION = frozenset(b"connection keep-alive proxy-connection te trailer upgrade host".split())

Headers = Sequence[tuple[bytes, bytes]]


class HTTPExchange:
    """Sends one request and reads its answer: `send`, then `chunks`, or `pipe` when `is_taken_over`."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT_BYTES)
        self._sending: asyncio.Task[None] | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_taken_over = False
        """Whether the node answered 101: both sides send raw bytes from now on."""

    async def send(self, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes]) -> None:
        """Send the request and wait for the head of the answer. Raises Unavailable when the node is gone, or answers nonsense."""
        is_upgrade = any(name.lower() == b"upgrade" for name, _ in headers)
        kept = [(name, value) for name, value in headers if name.lower() not in _OF_ONE_CONNECTION]
        ending = [(b"connection", b"Upgrade"), (b"upgrade", b"tcp")] if is_upgrade else [(b"connection", b"close")]
        request = h11.Request(method=method, target=target, headers=[(b"host", b"node"), *kept, *ending])
        await self._write(request)
        # A node may refuse before it has the whole body, so both directions go on at once.
        self._sending = asyncio.ensure_future(self._send_body(body))
        while True:
            event = await self._next_event()
            if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                continue
            if not isinstance(event, h11.Response | h11.InformationalResponse):
                raise Unavailable(f"node {self._tunnel.node_id} ended the connection without an answer")
            self.status = event.status_code
            self.is_taken_over = event.status_code == 101
            self.headers = [(n, v) for n, v in event.headers if n not in _OF_ONE_CONNECTION and n != b"transfer-encoding"]
            return

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes. Raises Unavailable when the connection ends before it does."""
        while isinstance(event := await self._next_event(), h11.Data):
            yield bytes(event.data)

    async def raw_chunks(self) -> AsyncIterator[bytes]:
        """Yield what the node sends over a connection that was taken over."""
        begun = self._connection.trailing_data[0]
        if begun:
            yield begun
        while piece := await self._tunnel.read():
            yield piece

    async def close(self) -> None:
        """End it, also in the middle."""
        self._tunnel.close()
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send_body(self, body: AsyncIterator[bytes]) -> None:
        async for chunk in body:
            if chunk:
                await self._write(h11.Data(data=chunk))
        await self._write(h11.EndOfMessage())

    async def _write(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        data = self._connection.send(event)
        if data:
            await self._tunnel.write(data)

    async def _next_event(self) -> object:
        try:
            while (event := self._connection.next_event()) is h11.NEED_DATA:
                self._connection.receive_data(await self._tunnel.read())
        except h11.RemoteProtocolError as error:
            raise Unavailable(f"the answer of node {self._tunnel.node_id} broke off: {error}") from error
        return event
