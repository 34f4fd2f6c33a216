"""One ASGI request and its answer, so that the request can be handed to several in turn until the answer begins."""

from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Send

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.waiting import wait_first

MAX_BODY_BYTES = 64 * 1024 * 1024


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class Exchange:
    """A request whose body is kept, and the way back to the client."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.has_started = False
        """Whether the client has the head of an answer."""
        self._receive = receive
        self._send = send
        self._kept: list[Message] = []
        self._kept_bytes = 0

    def replay(self) -> Receive:
        """Return a `receive` that gives the request from its beginning."""
        position = 0

        async def receive() -> Message:
            nonlocal position
            message = await self._message(position)
            position += 1
            return message

        return receive

    async def body(self) -> bytes:
        """Return the request's body. Raises ClientGone, and InvalidArgument when it is too large."""
        while not self._is_complete():
            await self._message(len(self._kept))
        if self._kept[-1]["type"] != "http.request":
            raise ClientGone
        return b"".join(message.get("body", b"") for message in self._kept)

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        self.has_started = True
        await self._send(message)

    async def until_disconnect(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` unless the client goes away first. The request's body must have been read."""
        await wait_first(work(), self._disconnected())

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _message(self, position: int) -> Message:
        if position < len(self._kept):
            return self._kept[position]
        message = await self._receive()
        if not self._is_complete():
            self._keep(message)
        return message

    def _is_complete(self) -> bool:
        return bool(self._kept) and not self._kept[-1].get("more_body", False)

    def _keep(self, message: Message) -> None:
        self._kept_bytes += len(message.get("body", b""))
        if self._kept_bytes > MAX_BODY_BYTES:
            raise InvalidArgument(f"the request's body is too large: at most {MAX_BODY_BYTES} bytes")
        self._kept.append(message)
