"""Lets an audit give way: a lock that knows who waits for it, and what ends the reading early."""

import asyncio
from typing import Literal


class AuditInterrupted(Exception):
    """Somebody waits for the driver: nothing was changed, and the next audit begins anew."""


class BusyLock(asyncio.Lock):
    """A lock that says how many wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def acquire(self) -> Literal[True]:
        """Wait for the lock."""
        self.waiting += 1
        try:
            return await super().acquire()
        finally:
            self.waiting -= 1
