"""How many updates one request has committed so far: what changed something must not be tried again as if it had not."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class WriteCount:
    """The updates that were committed, or may have been, while the count was kept."""

    writes: int = 0


_count: ContextVar[WriteCount | None] = ContextVar("write_count", default=None)


@contextlib.contextmanager
def counting_writes() -> Iterator[WriteCount]:
    """Count the updates that this task, and those that it starts, make within the block."""
    count = WriteCount()
    token = _count.set(count)
    try:
        yield count
    finally:
        _count.reset(token)


def note_write() -> None:
    """Note that an update was committed."""
    count = _count.get()
    if count is not None:
        count.writes += 1
