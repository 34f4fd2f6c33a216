"""Waiting for a condition on changing state, without looking again and again."""

import asyncio
from collections.abc import Callable


class Waiters:
    """Lets coroutines wait until a predicate on someone's state holds; the owner calls `check` after each change."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return once `predicate()` holds: at once, or as seen by a later `check`."""
        while not predicate():
            entry = (predicate, asyncio.get_running_loop().create_future())
            self._waiting.append(entry)
            try:
                await entry[1]
            finally:
                if entry in self._waiting:
                    self._waiting.remove(entry)

    def check(self) -> None:
        """Wake those whose predicate holds now."""
        if not self._waiting:
            return
        still_waiting = []
        for entry in self._waiting:
            if entry[1].done():
                continue
            if entry[0]():
                entry[1].set_result(None)
            else:
                still_waiting.append(entry)
        self._waiting = still_waiting
