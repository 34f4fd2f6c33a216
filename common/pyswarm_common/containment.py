"""A cure for a fault of Python 3.11.0 to 3.11.4, Debian 12's among them, that loses tasks.

When a child of an `asyncio.TaskGroup` fails while its parent already waits in the group's `__aexit__`, the group cancels the
parent to wake it and forgets to take that back: `parent.cancelling()` stays at 1. From then on no `asyncio.timeout` in that task
turns its cancellation into TimeoutError (websockets uses them to close), and the task ends as if it had been cancelled, without a
word.

Whoever catches what a group raised and goes on in the same task therefore runs the group in a task of its own.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def contained(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine in a task of its own and return its result; cancelling the caller cancels it."""
    return await asyncio.ensure_future(coroutine)
