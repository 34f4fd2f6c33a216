"""The process's event loop: epoll, callbacks by descriptor, timers.

asyncio would do, but costs 9 MB of memory on every node and half of the queries per second; a table of callbacks is all that
this process needs. Callbacks are short and never block.
"""

import heapq
import select
import sys
import time
import traceback
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Timer:
    """A callback that is due at a monotonic time, until it is cancelled."""

    __slots__ = ("callback", "due_s")

    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: "Timer") -> bool:
        return self.due_s < other.due_s

    def cancel(self) -> None:
        """Make sure that it never runs (again)."""
        self.callback = None


class EventLoop:
    """Runs callbacks when their descriptors are ready or their time has come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[Timer] = []
        self._running = False

    def watch(self, descriptor: int, callback: Callable[[], None], events: int = READ) -> None:
        """Call back whenever the descriptor is ready for one of the events, or has failed."""
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def change(self, descriptor: int, events: int) -> None:
        """Watch the descriptor for other events."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Watch the descriptor no more; call before closing it."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back once, after `delay_s`."""
        timer = Timer(time.monotonic() + delay_s, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def run(self) -> None:
        """Serve until `stop`."""
        self._running = True
        while self._running:
            wait_s = self._run_timers()
            if not self._running:  # a timer may have stopped it, and poll would wait
                return
            for descriptor, _ in self._epoll.poll(wait_s):
                callback = self._callbacks.get(descriptor)
                if callback is not None:
                    _call(callback)

    def stop(self) -> None:
        """Make `run` return once the present callback has."""
        self._running = False

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._epoll.close()

    def _run_timers(self) -> float | None:
        """Run what is due; return the seconds until the next timer, None when there is none."""
        timers = self._timers
        while timers:
            wait_s = timers[0].due_s - time.monotonic()
            if timers[0].callback is not None and wait_s > 0:
                return wait_s
            callback = heapq.heappop(timers).callback
            if callback is not None:
                _call(callback)
        return None


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001  one bad packet or sandbox must not take the names away from all others; it is logged
        traceback.print_exc(file=sys.stderr)
