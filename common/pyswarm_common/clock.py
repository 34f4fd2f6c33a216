"""Time as an argument: loops take a `Clock`, production gives `SystemClock`, tests give `ManualClock`.

Wall time (nanoseconds since the epoch) goes into objects that people read; monotonic time measures periods.
"""

import asyncio
import math
import time
from typing import Protocol

NANOSECONDS_PER_SECOND = 1_000_000_000


class Clock(Protocol):
    """What a loop may ask of time."""

    def now_ns(self) -> int:
        """Return wall time in nanoseconds since the epoch."""
        ...

    def monotonic_s(self) -> float:
        """Return a time in seconds that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Return wall time in nanoseconds since the epoch."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """Return the monotonic time in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep in real time."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when a test says `await clock.advance(seconds)`; sleepers wake in the order of their time."""

    def __init__(self, start_ns: int = 1_700_000_000 * NANOSECONDS_PER_SECOND) -> None:
        self._start_ns = start_ns
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now_ns(self) -> int:
        """Return the start time plus what was advanced."""
        return self._start_ns + round(self._elapsed_s * NANOSECONDS_PER_SECOND)

    def monotonic_s(self) -> float:
        """Return the seconds advanced so far."""
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced by `seconds`."""
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        wake_s = self._elapsed_s + seconds
        if seconds > 0:
            wake_s = max(wake_s, math.nextafter(self._elapsed_s, math.inf))  # whoever sleeps until a time shall get there
        self._sleepers.append((wake_s, self._count, future))
        await future

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back, as an operator or a bad time server does; the monotonic time goes on as it was."""
        self._start_ns += round(seconds * NANOSECONDS_PER_SECOND)

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking each sleeper at its time and letting the tasks that it woke run."""
        await _let_others_run()
        end_s = self._elapsed_s + seconds
        while due := sorted(s for s in self._sleepers if s[0] <= end_s):
            wake_s, _, future = first = due[0]
            self._sleepers.remove(first)
            self._elapsed_s = max(self._elapsed_s, wake_s)
            if not future.done():
                future.set_result(None)
            await _let_others_run()
        self._elapsed_s = end_s
        await _let_others_run()


async def _let_others_run() -> None:
    for _ in range(50):
        await asyncio.sleep(0)
