"""Waiting for the first of several things to happen."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


async def wait_first(*awaitables: Awaitable[object]) -> None:
    """Wait until the first of several is done, then cancel the other coroutines (tasks given go on). Raises what it raised.

    A TaskGroup would do too, but Python before 3.13 loses a cancellation that comes while a group ends because of an error.
    """
    tasks = [asyncio.ensure_future(a) for a in awaitables]
    own = [task for task, given in zip(tasks, awaitables, strict=True) if task is not given]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)


async def run_with_farewell(work: Coroutine[Any, Any, None], farewell: Callable[[], Awaitable[object]]) -> None:
    """Run `work`; when cancelled, run `farewell` first, while the work still goes on. A second cancellation cuts it short."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        if not running.done():
            await wait_first(farewell(), running)
        raise
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
