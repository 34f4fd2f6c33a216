"""Work that several callers want at the same time is done once, and its progress told to all of them."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pyswarm_agent.images.records import PullProgress
from pyswarm_common.errors import Unavailable

Report = Callable[[PullProgress], None]
T = TypeVar("T")


@dataclass
class _Job(Generic[T]):
    task: "asyncio.Task[T]"
    listeners: list[Report] = field(default_factory=list)

    def report(self, progress: PullProgress) -> None:
        for listener in tuple(self.listeners):
            listener(progress)


class SharedWork(Generic[T]):
    """Runs at most one job per key. A job whose last caller is cancelled is cancelled too, and ends before the caller does."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, _Job[T]] = {}

    async def run(self, key: Hashable, start: Callable[[Report], Awaitable[T]], report: Report) -> T:
        """Return the result of the job for `key`, begun by `start` unless it is under way.

        When a job that somebody else began fails, it is begun anew: the cause may lie with the other's registry or credentials.
        """
        job = self._jobs.get(key)
        if job is not None:
            try:
                return await self._wait(key, job, report)
            except Exception:  # noqa: BLE001 - whatever went wrong for the other, this caller's own try says it again
                job = self._jobs.get(key)
        if job is None:
            job = self._begin(key, start)
        return await self._wait(key, job, report)

    async def close(self) -> None:
        """Cancel all jobs and wait for their end."""
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, key: Hashable, start: Callable[[Report], Awaitable[T]]) -> _Job[T]:
        async def work() -> T:
            return await start(lambda progress: job.report(progress))

        def forget(task: "asyncio.Task[T]") -> None:
            del self._jobs[key]
            if not task.cancelled():
                task.exception()  # seen: when nobody waits any more, nobody else looks

        job = _Job(asyncio.get_running_loop().create_task(work()))
        job.task.add_done_callback(forget)
        self._jobs[key] = job
        return job

    async def _wait(self, key: Hashable, job: _Job[T], report: Report) -> T:
        job.listeners.append(report)
        try:
            await asyncio.wait([job.task])
        finally:
            job.listeners.remove(report)
            if not job.task.done() and not job.listeners:
                job.task.cancel()
                await asyncio.wait([job.task])
        if job.task.cancelled():
            raise Unavailable("the work was cancelled, because the image store closes or its last caller left")
        return job.task.result()
