"""Finds where in a log's files to begin: for the last lines, for those since a time, and so that no line lacks its beginning.

Without reading the whole log: the tail is sought from the end, a time by the files' times of change and by halving. Blocking.
"""

import os
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pyswarm_agent.runtime.log_files import LogFiles, OpenLog
from pyswarm_agent.runtime.log_lines import MAXIMUM_LINE_BYTES, parse_record

BLOCK_BYTES = 64 * 1024
TIME_MARGIN_NS = 1_000_000_000
"""By how much a file's time of change, or the order of records, may differ from the records' times."""
SEARCHED_BYTES = 1024 * 1024
"""Parts of files shorter than this are read, not searched."""


class LogPlace(NamedTuple):
    """A byte of the log: the number of its file, and the offset in its plain text."""

    number: int
    offset: int

    def __str__(self) -> str:
        return f"{self.number}:{self.offset}"


def parse_place(text: str) -> LogPlace | None:
    """Return the place that `str` made this text of, None for any other text."""
    number, _, offset = text.partition(":")
    return LogPlace(int(number), int(offset)) if number.isdecimal() and offset.isdecimal() else None


def end_place(files: LogFiles) -> LogPlace | None:
    """Return where the log ends now; None when there is no file. Raises OSError."""
    current = files.open_current()
    if current is not None:
        with current:
            return LogPlace(current.number, current.size_bytes)
    archives = files.archives()
    # After the last archive comes a file that is not there.
    return LogPlace(archives[-1].number + 1, 0) if archives else None


def first_place(files: LogFiles) -> LogPlace:
    """Return where the log begins. Raises OSError."""
    archives = files.archives()
    return LogPlace(archives[0].number if archives else 1, 0)


def tail_place(files: LogFiles, end: LogPlace, tail: int, streams: frozenset[int]) -> LogPlace:
    """Return a place from which at least the last `tail` lines of these streams before `end` follow. Raises OSError."""
    wanted = tail + 1
    place = end
    for opened in _newest_first(files, end.number):
        with opened:
            bound = end.offset if opened.number == end.number else None
            ends = _whole_records(opened, bound, streams, wanted)
            wanted -= len(ends)
            place = LogPlace(opened.number, ends[-1] if wanted == 0 and ends else 0)
        if wanted == 0:
            break
    return line_start(files, place, streams)


def time_place(files: LogFiles, since_ns: int, streams: frozenset[int]) -> LogPlace:
    """Return a place before all lines of these streams since then. Raises OSError."""
    first = first_place(files)
    for archive in files.archives():
        path = files.plain(archive.number) if archive.is_plain else files.compressed(archive.number)
        try:
            changed_ns = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
        if changed_ns + TIME_MARGIN_NS >= since_ns:
            break
        first = LogPlace(archive.number + 1, 0)
    opened = files.open_from(first.number)
    if opened is None:
        return first
    with opened:
        offset = 0 if opened.is_compressed else _halved(opened.file, opened.size_bytes, since_ns - TIME_MARGIN_NS)
        return line_start(files, LogPlace(opened.number, offset), streams)


def line_start(files: LogFiles, place: LogPlace, streams: frozenset[int]) -> LogPlace:
    """Return the place of the first part of any line of these streams that is unfinished at `place`. Raises OSError.

    It looks back as far as a line may be long, and not into compressed files.
    """
    missing, start = set(streams), place
    seen_bytes = 0
    for opened in _newest_first(files, place.number):
        with opened:
            if opened.is_compressed:
                return start
            bound = place.offset if opened.number == place.number else None
            for offset, raw in _backwards(opened.file, bound):
                seen_bytes += len(raw) + 1
                record = parse_record(raw)
                if record is not None and record.stream in missing:
                    if record.is_whole:
                        missing.discard(record.stream)
                    else:
                        start = LogPlace(opened.number, offset)
                if not missing or seen_bytes > MAXIMUM_LINE_BYTES:
                    return start
    return start


def _newest_first(files: LogFiles, newest: int) -> Iterator[OpenLog]:
    """Open the files from this number down to the oldest."""
    oldest = first_place(files).number
    for number in range(newest, oldest - 1, -1):
        opened = files.open_from(number)
        if opened is None:
            continue
        if opened.number != number:
            opened.file.close()
            if number == newest:
                continue
            return
        yield opened


def _whole_records(opened: OpenLog, bound: int | None, streams: frozenset[int], wanted: int) -> list[int]:
    """Return the offsets of the last `wanted` records that end a line, last first."""
    if opened.is_compressed:
        forwards = _forwards(opened.file, bound)
        return list(reversed(deque((o for o, raw in forwards if _ends_line(raw, streams)), maxlen=wanted)))
    found: list[int] = []
    for offset, raw in _backwards(opened.file, bound):
        if _ends_line(raw, streams):
            found.append(offset)
            if len(found) == wanted:
                break
    return found


def _ends_line(raw: bytes, streams: frozenset[int]) -> bool:
    record = parse_record(raw)
    return record is not None and record.is_whole and record.stream in streams


def _forwards(file: BinaryIO, bound: int | None) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for raw in file:
        if bound is not None and offset >= bound:
            return
        yield offset, raw.rstrip(b"\n")
        offset += len(raw)


def _backwards(file: BinaryIO, bound: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield the file's lines up to the bound (None: its end) from the last to the first, each with its offset."""
    position = file.seek(0, os.SEEK_END) if bound is None else bound
    rest = b""
    while position > 0:
        size = min(BLOCK_BYTES, position)
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


def _halved(file: BinaryIO, size_bytes: int, at_ns: int) -> int:
    """Return the offset of a record before which all are older, found by halving."""
    low, high = 0, size_bytes
    while high - low > SEARCHED_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        start, found_ns = file.tell(), None
        while found_ns is None and (raw := file.readline()) and start < high:
            record = parse_record(raw.rstrip(b"\n"))
            found_ns = record.at_ns if record is not None else None
            start = start if found_ns is not None else file.tell()
        if found_ns is not None and found_ns < at_ns:
            low = start
        else:
            high = middle
    return low
