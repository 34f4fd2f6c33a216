"""Stops the local etcd member when this process's event loop hangs while it leads.

A manager whose loop hangs cannot lead, but its etcd child could go on being raft leader and keep its heartbeats up. A thread
notices that the loop has not moved for 3 s and kills the member (SIGKILL: a stopped one would hold connections open), so that
raft elects another, whose manager takes over. On a manager that does not lead nothing is done: its member's vote is of use.

A thread that itself was not run in time (the whole process or machine was paused) gives the loop a new period first.
"""

import asyncio
import threading
import time
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)
HANG_S = 3.0
_BEAT_PERIOD_S = 0.5
_CHECK_PERIOD_S = 0.25


class LoopWatchdog:
    """Calls `on_hang`, in a thread of its own, when the loop that runs it hangs for `hang_s` while `is_armed()`."""

    def __init__(self, on_hang: Callable[[], None], is_armed: Callable[[], bool], hang_s: float = HANG_S) -> None:
        self._on_hang = on_hang
        self._is_armed = is_armed
        self._hang_s = hang_s
        self._beat_s = 0.0
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Show that the loop moves, until cancelled."""
        self._beat_s = time.monotonic()
        thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)
        thread.start()
        try:
            while True:
                self._beat_s = time.monotonic()
                await asyncio.sleep(_BEAT_PERIOD_S)
        finally:
            self._stopped.set()
            thread.join()

    def _watch(self) -> None:
        last_s = time.monotonic()
        grace_until_s = 0.0
        while not self._stopped.wait(_CHECK_PERIOD_S):
            now_s = time.monotonic()
            if now_s - last_s > 4 * _CHECK_PERIOD_S:
                grace_until_s = now_s + self._hang_s
            last_s = now_s
            if now_s - self._beat_s > self._hang_s and now_s > grace_until_s and self._is_armed():
                _log.error("store.loop_hangs", hang_s=round(now_s - self._beat_s, 1))
                grace_until_s = now_s + 4 * self._hang_s
                self._on_hang()
