"""Runs blocking work in a thread made for it alone.

Work that changes its thread's namespaces must not share a pool's threads.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_new_thread(work: Callable[[], T], name: str) -> T:
    """Return what `work` returns or raise what it raises, run in a new thread.

    The work cannot be interrupted: when the caller is cancelled, the cancellation is raised once the work is over.
    """
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            errors.append(error)
        loop.call_soon_threadsafe(finished.set)

    threading.Thread(target=run, name=name, daemon=True).start()
    cancelled: asyncio.CancelledError | None = None
    while not finished.is_set():
        try:
            await finished.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    if errors:
        raise errors[0]
    return outcome[0]
