"""The watchdog: a hanging event loop is noticed from another thread, a busy or paused one is left alone."""

import asyncio
import threading
import time

from pyswarm_manager.store.watchdog import LoopWatchdog


async def test_a_hanging_loop_is_noticed_while_leading() -> None:
    hung = threading.Event()
    task = asyncio.create_task(LoopWatchdog(hung.set, lambda: True, hang_s=1.0).run())
    await asyncio.sleep(1.5)
    assert not hung.is_set()
    deadline_s = time.monotonic() + 5
    while not hung.is_set() and time.monotonic() < deadline_s:
        time.sleep(0.05)  # noqa: ASYNC251 (this is the hang)
    assert hung.is_set()
    task.cancel()
    await asyncio.wait([task])
    assert not [thread for thread in threading.enumerate() if thread.name == "loop-watchdog"]


async def test_a_hanging_follower_is_left_alone() -> None:
    hung = threading.Event()
    task = asyncio.create_task(LoopWatchdog(hung.set, lambda: False, hang_s=0.6).run())
    await asyncio.sleep(0)
    time.sleep(1.2)  # noqa: ASYNC251 (this is the hang)
    assert not hung.is_set()
    task.cancel()
    await asyncio.wait([task])
