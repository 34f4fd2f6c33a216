"""Tells readers that a file has grown, by one inotify descriptor for all (a user may have 128 of them)."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pyswarm_agent.runtime import kernel_calls


class FileWatcher:
    """Watches files; belongs to the running event loop, opened with the first watch."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._events: dict[int, list[asyncio.Event]] = {}

    @contextlib.contextmanager
    def watch(self, path: Path, changed: asyncio.Event) -> Iterator[None]:
        """Set `changed` at every write to the file and every change of its names, while the block runs. Raises OSError."""
        descriptor = self._open()
        mask = kernel_calls.IN_MODIFY | kernel_calls.IN_ATTRIB | kernel_calls.IN_MOVE_SELF
        number = kernel_calls.inotify_add(descriptor, path, mask)
        self._events.setdefault(number, []).append(changed)
        try:
            yield
        finally:
            remaining = self._events.get(number, [])
            if changed in remaining:
                remaining.remove(changed)
            if not remaining and self._events.pop(number, None) is not None and self._descriptor is not None:
                kernel_calls.inotify_remove(self._descriptor, number)

    def close(self) -> None:
        """End all watches."""
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = kernel_calls.inotify_open()
            asyncio.get_running_loop().add_reader(self._descriptor, self._dispatch)
        return self._descriptor

    def _dispatch(self) -> None:
        if self._descriptor is None:
            return
        for event in kernel_calls.inotify_read(self._descriptor):
            # After an overflow of its queue the kernel tells no more whose events were lost: anybody's.
            watches = self._events if event.watch == kernel_calls.INOTIFY_OVERFLOW else (event.watch,)
            for changed in [each for watch in watches for each in self._events.get(watch, ())]:
                changed.set()
