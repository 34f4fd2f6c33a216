"""Waiting for the first of several things to happen."""

import asyncio
from collections.abc import Awaitable


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
