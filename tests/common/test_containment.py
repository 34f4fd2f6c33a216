"""The fault that `contained` is for, and that it helps."""

import asyncio

import pytest

from pyswarm_common.containment import contained


async def group_that_fails() -> None:
    async def fail_soon() -> None:
        await asyncio.sleep(0)
        raise EOFError

    async with asyncio.TaskGroup() as group:
        group.create_task(fail_soon())


async def test_a_timeout_works_after_a_group_has_failed() -> None:
    async def catch_and_go_on() -> str:
        with pytest.raises(ExceptionGroup):
            await contained(group_that_fails())
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "unreachable"

    assert await asyncio.create_task(catch_and_go_on()) == "timed out"


async def test_cancelling_the_caller_cancels_what_it_contains() -> None:
    ended = asyncio.Event()

    async def wait_forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(contained(wait_forever()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
