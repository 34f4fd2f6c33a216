"""conmon's log format (the Kubernetes one), read into whole lines; pure.

A record is `2024-01-02T03:04:05.123456789+00:00 stdout F text`; `P` instead of `F` says that the line goes on in the next
record of its stream.
"""

from calendar import timegm
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from pyswarm_common.wire import LogLine, LogRequest

STDOUT, STDERR = 1, 2
MAXIMUM_LINE_BYTES = 1024 * 1024
"""A longer line is handed on in pieces without a newline."""
_STREAMS = {b"stdout": STDOUT, b"stderr": STDERR}


class LogRecord(NamedTuple):
    """One record of the file: `is_whole` when it ends its line."""

    at_ns: int
    stream: int
    is_whole: bool
    text: bytes


def parse_record(raw: bytes) -> LogRecord | None:
    """Return the record that a line of the file (without its newline) holds, None if it is damaged."""
    fields = raw.split(b" ", 3)
    if len(fields) != 4 or fields[1] not in _STREAMS or fields[2] not in (b"F", b"P"):
        return None
    try:
        at_ns = _nanoseconds(fields[0])
    except ValueError:
        return None
    return LogRecord(at_ns, _STREAMS[fields[1]], fields[2] == b"F", fields[3])


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
    """Joins the parts of lines. A line has the time of its first part."""

    def __init__(self) -> None:
        self._begun: dict[int, LogLine] = {}

    def add(self, record: LogRecord) -> LogLine | None:
        """Take a record; return the line that it completes."""
        begun = self._begun.pop(record.stream, None)
        at_ns = begun.at_ns if begun else record.at_ns
        text = (begun.line if begun else b"") + record.text
        if record.is_whole:
            return LogLine(stream=record.stream, at_ns=at_ns, line=text + b"\n")
        line = LogLine(stream=record.stream, at_ns=at_ns, line=text)
        if len(text) >= MAXIMUM_LINE_BYTES:
            return line
        self._begun[record.stream] = line
        return None

    def rest(self) -> list[LogLine]:
        """Return the lines that have begun but not ended, in order of time, and forget them."""
        rest = sorted(self._begun.values(), key=lambda line: line.at_ns)
        self._begun = {}
        return rest
