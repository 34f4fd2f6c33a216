"""Walks through a log's files, from where a request begins on, and keeps pace with their rotation. Blocking.

At the end of a file that is written it waits there until `container.log` is another file: then conmon has closed the one in hand,
so that it is read to its end once more, and the next number follows. A file in hand stays readable whatever becomes of its name.
"""

import zlib
from collections import deque

from pyswarm_agent.runtime.log_files import LogFiles, OpenLog, identity_of
from pyswarm_agent.runtime.log_lines import STDERR, STDOUT, LineAssembler, selects_stream
from pyswarm_agent.runtime.log_places import (
    LogPlace,
    end_place,
    first_place,
    line_start,
    parse_place,
    tail_place,
    time_place,
)
from pyswarm_common.wire import LogLine, LogPart, LogRequest

BLOCK_BYTES = 256 * 1024


class LogWalk:
    """One reader's way through the log. `begin` first, then `next_part` again and again; `close` at the end."""

    def __init__(self, files: LogFiles, request: LogRequest) -> None:
        self._files = files
        self._request = request
        self._streams = frozenset(stream for stream in (STDOUT, STDERR) if selects_stream(request, stream))
        self._assembler = LineAssembler(self._streams)
        self._opened: OpenLog | None = None
        self._is_closed = False
        """Whether nobody writes to the open file any more."""
        self._offset = 0
        self._unread = b""
        self._end: LogPlace | None = None
        """Where to stop, for those who do not follow."""
        self.is_caught_up = False
        """Whether the last part held all that there was."""
        self.is_past_end = False
        """Whether a line later than asked for was met: there is nothing more to come."""

    @property
    def watched(self) -> tuple[int, int] | None:
        """Number and descriptor of the open file, whose growth is to be watched; None when there is no log."""
        return (self._opened.number, self._opened.file.fileno()) if self._opened is not None else None

    def begin(self) -> LogPart:
        """Go to where the request begins; return the last lines if it asks for them. Raises OSError."""
        request = self._request
        end = end_place(self._files)
        if end is None:
            self.is_caught_up = True
            return LogPart(is_last=True)
        after = parse_place(request.after)
        if after is not None:
            self._open(line_start(self._files, after, self._streams))
            self._read_until(after, maximum=0)
            lines: list[LogLine] = []
        elif request.tail >= 0:
            self._open(tail_place(self._files, end, request.tail, self._streams))
            lines = self._read_until(end, maximum=request.tail)
        else:
            since_ns = request.since_ns
            self._open(time_place(self._files, since_ns, self._streams) if since_ns else first_place(self._files))
            lines = []
        self._end = None if request.follow else end
        if request.tail >= 0 and not request.follow:
            # A line that has begun but not ended is the last one.
            lines += self._assembler.rest()
            lines = lines[max(0, len(lines) - request.tail) :]
        return self._part(lines)

    def next_part(self, *, has_ended: bool) -> LogPart:
        """Return what comes next. When all was read, lines without an end too, if none is waited for. Raises OSError.

        `has_ended`: nobody writes the log any more, so that also a record without its end is all that there will be of it.
        """
        raws = self._read(self._request.part_bytes, self._end)
        self.is_caught_up = not raws
        if self.is_caught_up and has_ended and self._unread:
            raws, self._offset, self._unread = [self._unread], self._offset + len(self._unread), b""
        lines = self._assembler.add_all(raws)
        if self.is_caught_up and (has_ended or not self._request.follow):
            lines += self._assembler.rest()
        return self._part(lines)

    def close(self) -> None:
        """Close the open file."""
        if self._opened is not None:
            self._opened.file.close()
            self._opened = None

    def _part(self, lines: list[LogLine]) -> LogPart:
        since_ns, until_ns = self._request.since_ns, self._request.until_ns
        if until_ns:
            within = [line for line in lines if line.at_ns <= until_ns]
            self.is_past_end |= len(within) < len(lines)
            lines = within
        if since_ns:
            lines = [line for line in lines if line.at_ns >= since_ns]
        place = LogPlace(self._opened.number, self._offset) if self._opened is not None else ""
        return LogPart(lines=tuple(lines), position=str(place))

    def _read_until(self, end: LogPlace, maximum: int) -> list[LogLine]:
        """Read up to this place; return the last lines of that."""
        last: deque[LogLine] = deque(maxlen=maximum)
        while raws := self._read(BLOCK_BYTES, end):
            last.extend(self._assembler.add_all(raws))
        return list(last)

    def _open(self, place: LogPlace) -> None:
        self.close()
        opened = self._files.open_from(place.number)
        self._opened, self._unread, self._offset = opened, b"", 0
        if opened is None:
            return
        if opened.number == place.number:
            self._offset = opened.file.seek(place.offset)
        self._is_closed = opened.is_compressed or identity_of(self._files.path) != opened.identity

    def _read(self, limit_bytes: int, end: LogPlace | None) -> list[bytes]:
        """Return the next records, at most about so many bytes, and none beyond `end`; [] when there are none for now."""
        while self._opened is not None and (end is None or self._opened.number <= end.number):
            at = self._offset + len(self._unread)
            wanted = limit_bytes if end is None or self._opened.number < end.number else min(limit_bytes, end.offset - at)
            if wanted <= 0:
                return []
            block = self._block(self._opened, wanted)
            if block:
                raws = (self._unread + block).split(b"\n")
                self._unread = raws.pop()
                self._offset = at + len(block) - len(self._unread)
                if raws:
                    return raws
            elif not self._is_closed:
                if identity_of(self._files.path) == self._opened.identity:
                    return []
                self._is_closed = True
            elif self._unread:
                # A write that was cut short, as by a full disk, ends the file.
                raws, self._offset, self._unread = [self._unread], at, b""
                return raws
            elif not self._go_on(self._opened.number + 1):
                return []
        return []

    def _go_on(self, number: int) -> bool:
        """Open the next file; False when there is none."""
        following = self._files.open_from(number)
        if following is None:
            return False
        self.close()
        self._opened, self._offset = following, 0
        self._is_closed = following.is_compressed or identity_of(self._files.path) != following.identity
        return True

    def _block(self, opened: OpenLog, size: int) -> bytes:
        try:
            return opened.file.read(size)
        except (EOFError, zlib.error):  # a damaged archive: what it still holds was read
            return b""
