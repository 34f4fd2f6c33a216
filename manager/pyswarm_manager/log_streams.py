"""Logs on their way from agents to readers: the streams that are expected or open, and the queues in between."""

import asyncio
from collections import deque

from pyswarm_common.ids import new_id
from pyswarm_common.objects import Task
from pyswarm_common.wire import LogPart

QUEUE_LINES = 512
"""How many lines wait for a slow reader before publishers wait too."""
QUEUE_BYTES = 1024 * 1024
"""The same in bytes: lines may be as long as a MiB."""


class LogStream:
    """One log on its way from one agent."""

    def __init__(self, task: Task, parts: "PartQueue", opened_at_s: float) -> None:
        self.id = new_id()
        self.task = task
        self.parts = parts
        self.opened_at_s = opened_at_s
        self.is_dialled = asyncio.Event()
        self.is_whole = False
        """Whether the agent said that it has sent all."""


class PartQueue:
    """Parts (None: a stream's end) from one or more streams to one reader; publishers wait when it is long."""

    def __init__(self, limit_bytes: int = QUEUE_BYTES) -> None:
        """`limit_bytes`: from how much on publishers wait. Each may have one part more in it."""
        self._items: deque[tuple[LogStream | None, LogPart | None]] = deque()
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._lines = 0
        self._has_items = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.is_abandoned = asyncio.Event()

    def put(self, stream: LogStream | None, part: LogPart | None) -> None:
        """Add without waiting; nothing is kept for a reader that has gone."""
        if self.is_abandoned.is_set():
            return
        self._items.append((stream, part))
        self._has_items.set()
        self._count(part, 1)
        if self._lines >= QUEUE_LINES or self._bytes >= self._limit_bytes:
            self._has_room.clear()

    async def wait_room(self) -> None:
        """Return when the reader has caught up, or has gone."""
        await self._has_room.wait()

    async def wait_items(self) -> None:
        """Return when there is something to take."""
        await self._has_items.wait()

    def take(self) -> tuple[LogStream | None, LogPart | None]:
        """Return the next part. Raises IndexError when there is none."""
        stream, part = self._items.popleft()
        if not self._items:
            self._has_items.clear()
        self._count(part, -1)
        if self._lines <= QUEUE_LINES // 2 and self._bytes <= self._limit_bytes // 2:
            self._has_room.set()
        return stream, part

    def _count(self, part: LogPart | None, sign: int) -> None:
        if part is not None:
            self._lines += sign * len(part.lines)
            self._bytes += sign * sum(len(line.line) for line in part.lines)

    @property
    def is_empty(self) -> bool:
        """Whether the reader has all that came."""
        return not self._items

    def abandon(self) -> None:
        """The reader has gone."""
        self.is_abandoned.set()
        self._items.clear()
        self._has_room.set()


class LogPublisher:
    """Where the dispatcher puts what comes on one stream."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def __call__(self, part: LogPart | None) -> None:
        """Add a part, or None at the connection's end, however long the queue is."""
        self._stream.is_whole |= part is not None and part.is_last
        self._stream.parts.put(self._stream, part)

    async def publish(self, part: LogPart) -> bool:
        """Add a part once there is room for it; False when nobody reads any more."""
        await self._stream.parts.wait_room()
        self(part)
        return not self._stream.parts.is_abandoned.is_set()

    async def wait_reader_gone(self) -> None:
        """Return when nobody reads any more: then the agent's connection is of no use."""
        await self._stream.parts.is_abandoned.wait()
