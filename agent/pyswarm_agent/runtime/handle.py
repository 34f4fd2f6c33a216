"""A container as the runtime holds it in memory."""

import asyncio
from collections.abc import Callable

from pyswarm_agent.runtime.paths import ContainerPaths, SavedContainer
from pyswarm_agent.runtime.records import ContainerRecord


class ContainerHandle:
    """A container, its files and who watches it. `lock` is held while it is started or removed."""

    def __init__(self, paths: ContainerPaths, saved: SavedContainer) -> None:
        self.paths = paths
        self.saved = saved
        self.lock = asyncio.Lock()
        self.ended = asyncio.Event()
        """Set when the container has ended, is removed, or the runtime is closed; cleared when it is started again."""
        self.is_removed = False
        self.watching: asyncio.Task[None] | None = None
        self.before_start: list[Callable[[], None]] = []
        """Called once each, in the thread of the next start, when the container's monitor is there and before its process runs."""
        if saved.record.state == "exited":
            self.ended.set()

    @property
    def record(self) -> ContainerRecord:
        """What is known of it."""
        return self.saved.record

    @property
    def id(self) -> str:
        """Its id."""
        return self.saved.record.config.id

    def call_before_start(self) -> None:
        """Call those of `before_start`."""
        calls, self.before_start = self.before_start, []
        for call in calls:
            call()
