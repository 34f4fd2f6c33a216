"""Docker's multiplexed stream, taken apart: logs, and what processes without a terminal write."""

import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import click

from pyswarm_cli.engine import worded_for_cli

STDERR, SYSTEM_ERROR = 2, 3
_HEADER = struct.Struct(">BxxxL")

Frame = tuple[int, bytes]


def read_frames(read: Callable[[], bytes]) -> Iterator[list[Frame]]:
    """Yield the frames (stream, payload) as they come; `read` returns what has come, b"" at the end."""
    rest = b""
    while chunk := read():
        data, start, frames = rest + chunk, 0, []
        while len(data) >= start + _HEADER.size:
            stream, size = _HEADER.unpack_from(data, start)
            end = start + _HEADER.size + size
            if len(data) < end:
                break
            frames.append((stream, data[start + _HEADER.size : end]))
            start = end
        rest = data[start:]
        if frames:
            yield frames
    if len(rest) > _HEADER.size:
        yield [(rest[0], rest[_HEADER.size :])]


def print_frames(frames: Iterable[Frame], render: Callable[[bytes], bytes] | None = None) -> None:
    """Print frames where they belong, in their order, with as few writes as that takes.

    Raises click.ClickException with what the daemon says of its own in the stream.
    """
    pending: list[bytes] = []
    target: BinaryIO = sys.stdout.buffer
    for stream, payload in frames:
        wanted = sys.stderr.buffer if stream == STDERR else sys.stdout.buffer
        if wanted is not target or stream == SYSTEM_ERROR:
            write_now(target, b"".join(pending))
            pending, target = [], wanted
        if stream == SYSTEM_ERROR:
            raise click.ClickException(worded_for_cli(payload.decode(errors="replace")))
        pending.append(payload if render is None else render(payload))
    write_now(target, b"".join(pending))


def write_now(file: BinaryIO, data: bytes) -> None:
    """Write, and let it be seen at once."""
    if data:
        file.write(data)
        file.flush()
