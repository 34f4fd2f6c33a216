"""Reads a container's log file: the last lines without reading the rest, then on as it grows.

Today a container has one file; rotation will make it several, and then `read_log` walks them from the oldest on.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from pyswarm_agent.runtime.file_watch import FileWatcher
from pyswarm_agent.runtime.log_lines import LineAssembler, parse_record, selects_stream
from pyswarm_common.wire import LogLine, LogRequest

_BLOCK_BYTES = 64 * 1024


async def read_log(path: Path, request: LogRequest, watcher: FileWatcher, ended: asyncio.Event) -> AsyncIterator[LogLine]:
    """Yield the lines that the request asks for. With `follow` it goes on until the container has ended (or been removed)."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = await asyncio.to_thread(tail_offset, file, request) if request.tail >= 0 else 0
        file.seek(start)
        reader = _Reader(file, request)
        changed = asyncio.Event()
        if not request.follow:
            async for line in reader.lines_to_end(is_last=True):
                yield line
            return
        with watcher.watch(path, changed):
            while True:
                changed.clear()
                is_last = ended.is_set()
                async for line in reader.lines_to_end(is_last=is_last):
                    yield line
                if is_last or reader.is_past_end:
                    return
                await _either(changed, ended)


def tail_offset(file: BinaryIO, request: LogRequest) -> int:
    """Return where to begin so that at least the last `tail` lines of the asked streams follow; reads from the end. Blocking."""
    wanted = request.tail + 1
    for offset, raw in _backwards(file):
        record = parse_record(raw)
        if record is not None and record.is_whole and selects_stream(request, record.stream):
            wanted -= 1
            if wanted == 0:
                return offset
    return 0


def _backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the file's lines from the last to the first, each with its offset."""
    position = file.seek(0, os.SEEK_END)
    rest = b""
    while position > 0:
        size = min(_BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        lines = (file.read(size) + rest).split(b"\n")
        end = position + sum(map(len, lines)) + len(lines) - 1
        for raw in reversed(lines[1:]):
            end -= len(raw)
            if raw:
                yield end, raw
            end -= 1
        rest = lines[0]
    if rest:
        yield 0, rest


class _Reader:
    """Reads on from where the file stands, applies the request."""

    def __init__(self, file: BinaryIO, request: LogRequest) -> None:
        self._file = file
        self._request = request
        self._assembler = LineAssembler()
        self._unread = b""
        self._is_first = request.tail >= 0
        self.is_past_end = False
        """Whether a line later than `until_ns` was met: nothing more will be asked for."""

    async def lines_to_end(self, is_last: bool) -> AsyncIterator[LogLine]:
        """Yield what there is up to now; with `is_last` also a line without its end."""
        if self._is_first:
            self._is_first = False
            for line in await asyncio.to_thread(lambda: deque(self._blocks(is_last), maxlen=self._request.tail)):
                yield line
            return
        for number, line in enumerate(self._blocks(is_last)):
            yield line
            if number % 256 == 255:
                await asyncio.sleep(0)

    def _blocks(self, is_last: bool) -> Iterator[LogLine]:
        while block := self._file.read(_BLOCK_BYTES):
            lines = (self._unread + block).split(b"\n")
            self._unread = lines.pop()
            for raw in lines:
                record = parse_record(raw)
                line = self._assembler.add(record) if record and selects_stream(self._request, record.stream) else None
                if line is not None and self._is_asked(line):
                    yield line
        if is_last:
            yield from (line for line in self._assembler.rest() if self._is_asked(line))

    def _is_asked(self, line: LogLine) -> bool:
        if self._request.until_ns and line.at_ns > self._request.until_ns:
            self.is_past_end = True
            return False
        return line.at_ns >= self._request.since_ns


async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(first.wait()), asyncio.ensure_future(second.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
