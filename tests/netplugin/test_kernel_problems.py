"""What the kernel lacks is told where a node tells what stands in the way of its network."""

import asyncio
import contextlib

from pyswarm_common.clock import ManualClock
from pyswarm_netplugin.audit.watch import NetworkWatch

PROBLEM = "the kernel lacks what virtual IPs need"


class WatchedClock(ManualClock):
    """Says when somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slept = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """See ManualClock."""
        self.is_slept.set()
        await super().sleep(seconds)


async def test_what_the_kernel_lacks_is_looked_for_once_and_told() -> None:
    looks: list[str] = []

    def look() -> list[str]:
        looks.append("once")
        return [PROBLEM]

    clock = WatchedClock()
    watch = NetworkWatch(clock, look_at_kernel=look)
    assert watch.warnings() == []
    running = asyncio.ensure_future(watch.run())
    async with asyncio.timeout(5):
        await clock.is_slept.wait()
    assert watch.warnings() == [PROBLEM]
    await clock.advance(60)
    assert looks == ["once"]
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
