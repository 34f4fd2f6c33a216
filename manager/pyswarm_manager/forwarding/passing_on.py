"""The leader's answer on its way to the client of another manager.

A log that breaks off, because the leader died or another one leads, ends with Docker's words for a log that is not complete.
"""

from collections.abc import Awaitable, Callable

import structlog

from pyswarm_common.engine_api.streams import MULTIPLEXED_STREAM, RAW_STREAM, SYSTEM_ERROR, frame
from pyswarm_common.errors import OutcomeUnknown
from pyswarm_common.waiting import wait_first
from pyswarm_manager.forwarding.channel import Headers, ManagerRequest
from pyswarm_manager.forwarding.exchange import Exchange
from pyswarm_manager.log_broker import LEADER_CHANGED, incomplete_log

_OWN_HEADERS = b"pyswarm-"
_NOT_PASSED_ON = frozenset(
    b"connection content-length expect host keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
_FRAME_HEAD_BYTES = 8

_log = structlog.get_logger(__name__)


async def pass_on_answer(request: ManagerRequest, exchange: Exchange, wait_moved: Callable[[], Awaitable[None]]) -> None:
    """Send the answer to the client. `wait_moved` returns when a stream from the asked manager is worth no more waiting."""
    answer = request.answer
    assert answer is not None
    headers = passed_on(answer.headers.raw)
    if request.content is not None:
        headers.append((b"content-length", str(len(request.content)).encode()))
    await exchange.send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    if request.content is not None:
        await exchange.send({"type": "http.response.body", "body": request.content, "more_body": False})
        return
    frames = _Frames(answer.headers.get("content-type", ""))

    async def pass_on() -> None:
        await wait_first(_pass_on_chunks(request, exchange, frames), wait_moved())
        if not frames.is_ended:
            if not frames.is_whole:
                return  # without an end, which tells the client that it is cut off
            await exchange.send({"type": "http.response.body", "body": frames.farewell(), "more_body": True})
        await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})

    await exchange.until_disconnect(pass_on)


async def _pass_on_chunks(request: ManagerRequest, exchange: Exchange, frames: "_Frames") -> None:
    try:
        async for chunk in request.chunks():
            frames.note(chunk)
            await exchange.send({"type": "http.response.body", "body": chunk, "more_body": True})
        frames.is_ended = True
    except OutcomeUnknown as error:
        _log.info("leader.stream_broken", reason=error.message)


class _Frames:
    """Where in a log's stream its reader is: words of ours can only be put between two frames."""

    def __init__(self, content_type: str) -> None:
        self.is_ended = False
        self._content_type = content_type
        self._rest = b""
        """A frame that has not come as a whole yet."""

    def note(self, chunk: bytes) -> None:
        """Take notice of what is sent to the reader."""
        if self._content_type != MULTIPLEXED_STREAM:
            return
        rest = self._rest + chunk
        start = 0
        while len(rest) >= start + _FRAME_HEAD_BYTES:
            length = _FRAME_HEAD_BYTES + int.from_bytes(rest[start + 4 : start + _FRAME_HEAD_BYTES], "big")
            if len(rest) < start + length:
                break
            start += length
        self._rest = rest[start:]

    @property
    def is_whole(self) -> bool:
        """Whether it is a log, and its reader has all frames as a whole."""
        return self._content_type in (MULTIPLEXED_STREAM, RAW_STREAM) and not self._rest

    def farewell(self) -> bytes:
        """Return what tells the reader that there was more."""
        text = incomplete_log([LEADER_CHANGED]).encode()
        return frame(SYSTEM_ERROR, text) if self._content_type == MULTIPLEXED_STREAM else text


def passed_on(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers without those that belong to one connection, and without ours, which no client may give."""
    return [
        (name, value) for name, value in headers if (low := name.lower()) not in _NOT_PASSED_ON and not low.startswith(_OWN_HEADERS)
    ]
