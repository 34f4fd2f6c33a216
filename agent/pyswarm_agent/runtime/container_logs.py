"""The logs of a runtime's containers, by their drivers: read, and kept within their limits."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable

from pyswarm_agent.runtime.file_watch import FileWatcher
from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.log_journal import read_journal
from pyswarm_agent.runtime.log_keeper import LogKeeper
from pyswarm_agent.runtime.log_reader import read_log
from pyswarm_common.clock import Clock
from pyswarm_common.log_drivers import not_readable
from pyswarm_common.wire import LogLine, LogPart, LogRequest


class ContainerLogs:
    """Reads logs; keeps them within their limits between `start` and `close`."""

    def __init__(self, containers: Callable[[], Iterable[ContainerHandle]], clock: Clock) -> None:
        self._watcher = FileWatcher()
        self._keeper = LogKeeper(containers, clock)
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to rotate; what an earlier daemon left unfinished comes first."""
        self._keeping = asyncio.get_running_loop().create_task(self._keeper.run(), name="keep logs")

    async def close(self) -> None:
        """Rotate no more; followers end."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        self._watcher.close()

    async def release(self, container_id: str) -> None:
        """Leave the files of a container alone that is about to be removed."""
        await self._keeper.release(container_id)

    def forget(self, container_id: str) -> None:
        """The container is gone."""
        self._keeper.forget(container_id)

    async def parts(self, container: ContainerHandle, request: LogRequest) -> AsyncGenerator[LogPart, None]:
        """Yield the asked lines; with `follow` until the container has ended.

        Raises Unimplemented where the driver keeps nothing that can be read, PyswarmError where it cannot be read now, OSError.
        """
        config = container.record.config
        if config.log.driver == "none":
            raise not_readable()
        if config.log.driver == "journald":
            parts = read_journal(config.id, request, container.ended)
        else:
            parts = read_log(container.paths.log, request, self._watcher, container.ended)
        async with contextlib.aclosing(parts):
            async for part in parts:
                yield part

    async def lines(self, container: ContainerHandle, request: LogRequest) -> AsyncGenerator[LogLine, None]:
        """Yield the lines of `parts` one by one."""
        async with contextlib.aclosing(self.parts(container, request)) as parts:
            async for part in parts:
                for line in part.lines:
                    yield line
