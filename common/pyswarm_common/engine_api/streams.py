"""Answers that flow: a response whose headers leave at once, Docker's multiplexed frames, and JSON object streams."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pyswarm_common.errors import PyswarmError

STDOUT = 1
STDERR = 2
SYSTEM_ERROR = 3
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"
RAW_STREAM = "application/vnd.docker.raw-stream"

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends a chunk to the client; returns when the connection has room for more."""

_json = msgspec.json.Encoder()


class StreamResponse(Response):
    """Answers 200 at once, then runs `produce(write)`; a client that goes away cancels it.

    `produce` must catch what it wants to tell the client: the status has been sent when it starts.
    """

    def __init__(self, produce: Callable[[Write], Awaitable[None]], media_type: str) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run as an ASGI application."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def write(chunk: bytes) -> None:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        if await until_disconnect(self._produce(write), receive):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def frame(stream: int, payload: bytes) -> bytes:
    """Return one frame of the multiplexed stream: its number, three zero bytes, the length (32 bits, big endian), the payload."""
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def json_line(value: Any) -> bytes:
    """Return one object of a JSON stream as Docker sends it, ended by CR LF."""
    return _json.encode(value) + b"\r\n"


def error_line(error: PyswarmError) -> bytes:
    """Return an error inside a JSON stream, which is how pull, push and load fail once the 200 has been sent."""
    return json_line({"errorDetail": {"message": error.api_message}, "error": error.api_message})


async def until_disconnect(work: Awaitable[None], receive: Receive) -> bool:
    """Run `work` unless the client goes away first; returns whether it came to its end, and raises what it raised."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        is_finished = working.done()
        for future in (working, listening):
            future.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)
    if is_finished:
        working.result()
    return is_finished


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
