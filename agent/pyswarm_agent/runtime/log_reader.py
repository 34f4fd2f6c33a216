"""Reads a container's log from its files, the last lines without reading the rest, and on as it grows.

What blocks (`LogWalk`) runs in threads; what is read comes in parts, each with the position after it.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from pyswarm_agent.runtime.file_watch import FileWatcher
from pyswarm_agent.runtime.log_files import LogFiles
from pyswarm_agent.runtime.log_walk import LogWalk
from pyswarm_agent.runtime.threads import in_new_thread
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import LogLine, LogPart, LogRequest


async def read_log(path: Path, request: LogRequest, watcher: FileWatcher, ended: asyncio.Event) -> AsyncGenerator[LogPart, None]:
    """Yield the lines that the request asks for. With `follow` it goes on until the container has ended (or been removed)."""
    if not path.parent.exists():
        return
    walk = LogWalk(LogFiles(path), request)
    try:
        part = await in_new_thread(walk.begin, "read log")
        for portion in in_portions(part, request.part_bytes):
            yield portion
        if walk.watched is None or walk.is_past_end:
            return
        reading = _follow(walk, watcher, ended) if request.follow else _read_to_end(walk, ended)
        async with contextlib.aclosing(reading) as parts:
            async for part in parts:
                yield part
    finally:
        walk.close()


def in_portions(part: LogPart, part_bytes: int) -> Iterator[LogPart]:
    """Yield a part that may be long as parts of about this length; only the last one has the position."""
    portion: list[LogLine] = []
    size = 0
    for line in part.lines:
        portion.append(line)
        size += len(line.line)
        if size >= part_bytes:
            yield LogPart(lines=tuple(portion))
            portion, size = [], 0
    if portion or part.position:
        yield LogPart(lines=tuple(portion), position=part.position)


async def _read_to_end(walk: LogWalk, ended: asyncio.Event) -> AsyncGenerator[LogPart, None]:
    has_ended = ended.is_set()
    while not (walk.is_caught_up or walk.is_past_end):
        yield await in_new_thread(lambda: walk.next_part(has_ended=has_ended), "read log")


async def _follow(walk: LogWalk, watcher: FileWatcher, ended: asyncio.Event) -> AsyncGenerator[LogPart, None]:
    changed = asyncio.Event()
    while (watched := walk.watched) is not None:
        with watcher.watch(Path(f"/proc/self/fd/{watched[1]}"), changed):
            # The walk goes from file to file: only while it stands in the one that is watched may we wait.
            while walk.watched == watched:
                changed.clear()
                has_ended = ended.is_set()
                part = await in_new_thread(functools.partial(walk.next_part, has_ended=has_ended), "read log")
                if part.lines:
                    yield part
                if walk.is_past_end or (walk.is_caught_up and has_ended):
                    return
                if walk.is_caught_up and walk.watched == watched:
                    await wait_first(changed.wait(), ended.wait())
