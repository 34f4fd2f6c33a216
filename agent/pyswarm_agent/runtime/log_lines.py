"""conmon's log format (the Kubernetes one), read into whole lines; pure.

A record is `2024-01-02T03:04:05.123456789+00:00 stdout F text`; `P` instead of `F` says that the line goes on in the next
record of its stream. conmon stamps all that it reads at once with one time, so the beginnings of many records are alike: they are
parsed once.
"""

import re
from calendar import timegm
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from pyswarm_common.wire import LogLine, LogRequest

STDOUT, STDERR = 1, 2
MAXIMUM_LINE_BYTES = 1024 * 1024
"""A longer line is handed on in pieces without a newline."""
_STREAMS = {b"stdout": STDOUT, b"stderr": STDERR}
_HEAD = re.compile(rb"\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d std(?:out|err) [FP] ")


class LogRecord(NamedTuple):
    """One record of the file: `is_whole` when it ends its line."""

    at_ns: int
    stream: int
    is_whole: bool
    text: bytes


def parse_record(raw: bytes) -> LogRecord | None:
    """Return the record that a line of the file (without its newline) holds, None if it is damaged.

    A write that a full disk cut short leaves a beginning to which the next record is glued: then that one is returned.
    """
    fields = raw.split(b" ", 3)
    if len(fields) == 4 and fields[1] in _STREAMS and fields[2] in (b"F", b"P"):
        try:
            return LogRecord(_nanoseconds(fields[0]), _STREAMS[fields[1]], fields[2] == b"F", fields[3])
        except ValueError:
            pass
    glued = _HEAD.search(raw)
    return parse_record(raw[glued.start() :]) if glued is not None and glued.start() > 0 else None


def _nanoseconds(text: bytes) -> int:
    """Return the time that `2024-01-02T03:04:05.123456789+00:00` stands for."""
    seconds, _, rest = text.partition(b".")
    fraction, offset = rest[:9], rest[9:]
    return _seconds(seconds, offset) * 1_000_000_000 + int(fraction)


@lru_cache(maxsize=64)
def _seconds(text: bytes, offset: bytes) -> int:
    moment = datetime.fromisoformat(text.decode() + offset.decode())
    return timegm(moment.utctimetuple())


def selects_stream(request: LogRequest, stream: int) -> bool:
    """Whether the request asks for this stream."""
    return request.stdout if stream == STDOUT else request.stderr


class LineAssembler:
    """Joins the parts of the asked streams' lines. A line has the time of its first part."""

    def __init__(self, streams: frozenset[int] = frozenset({STDOUT, STDERR})) -> None:
        self._streams = streams
        self._begun: dict[int, tuple[int, list[bytes], int]] = {}
        self._head = b"\n"
        self._parsed = LogRecord(0, 0, True, b"")

    def add_all(self, raws: Iterable[bytes]) -> list[LogLine]:
        """Take lines of the file (without their newlines); return the lines that they complete."""
        lines: list[LogLine] = []
        begun, streams, head, parsed = self._begun, self._streams, self._head, self._parsed
        size = len(head)
        for raw in raws:
            if raw.startswith(head):
                text = raw[size:]
            else:
                record = parse_record(raw)
                if record is None:
                    continue
                parsed, text = record, record.text
                size = len(raw) - len(text)
                head = raw[:size]
            if parsed.stream not in streams:
                continue
            if parsed.is_whole and parsed.stream not in begun:
                lines.append(LogLine(stream=parsed.stream, at_ns=parsed.at_ns, line=text + b"\n"))
                continue
            line = self._join(parsed, text)
            if line is not None:
                lines.append(line)
        self._head, self._parsed = head, parsed
        return lines

    def _join(self, record: LogRecord, text: bytes) -> LogLine | None:
        at_ns, parts, size = self._begun.pop(record.stream, (record.at_ns, [], 0))
        parts.append(text)
        size += len(text)
        if record.is_whole:
            return LogLine(stream=record.stream, at_ns=at_ns, line=b"".join(parts) + b"\n")
        if size >= MAXIMUM_LINE_BYTES:
            return LogLine(stream=record.stream, at_ns=at_ns, line=b"".join(parts))
        self._begun[record.stream] = at_ns, parts, size
        return None

    def rest(self) -> list[LogLine]:
        """Return the lines that have begun but not ended, in order of time, and forget them."""
        begun = ((at_ns, stream, parts) for stream, (at_ns, parts, _) in self._begun.items())
        rest = [LogLine(stream=stream, at_ns=at_ns, line=b"".join(parts)) for at_ns, stream, parts in sorted(begun)]
        self._begun = {}
        return rest
