"""Long work that reports while it runs (a pull), answered as a stream of JSON objects.

An error before the first report is an ordinary error answer; after that the status 200 has been sent, and the error is the
stream's last object.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from starlette.responses import Response

from pyswarm_agent.images import PullProgress
from pyswarm_common.engine_api.streams import StreamResponse, Write, error_line, json_line
from pyswarm_common.errors import PyswarmError

ResultT = TypeVar("ResultT")
Work: TypeAlias = Callable[[Callable[[PullProgress], None]], Awaitable[ResultT]]
"""Does something, given a function to report its progress to."""


def _say_no_more(result: object) -> Iterable[object]:
    return ()


async def stream_progress(work: Work[ResultT], answer_of: Callable[[ResultT], Iterable[object]] = _say_no_more) -> Response:
    """Start the work and return the response that shows it; cancelled with its client. Raises what it raises at once.

    `answer_of`: the last objects of the stream, from the work's result.
    """
    reports: asyncio.Queue[PullProgress | None] = asyncio.Queue()
    running = asyncio.ensure_future(work(reports.put_nowait))
    running.add_done_callback(lambda _: reports.put_nowait(None))
    try:
        first = await reports.get()
        if first is None:
            await running
    except BaseException:
        running.cancel()
        raise

    async def produce(write: Write) -> None:
        try:
            report = first
            while report is not None:
                await write(json_line(render_progress(report)))
                report = await reports.get()
            for answer in answer_of(await running):
                await write(json_line(answer))
        except PyswarmError as error:
            await write(error_line(error))
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, PyswarmError):
                await running

    return StreamResponse(produce, "application/json")


def render_progress(report: PullProgress) -> dict[str, Any]:
    """Return one report as Docker sends it."""
    rendered: dict[str, Any] = {"status": report.status}
    if report.total_bytes:
        rendered["progressDetail"] = {"current": report.current_bytes, "total": report.total_bytes}
    elif report.id:
        rendered["progressDetail"] = {}
    if report.id:
        rendered["id"] = report.id
    return rendered
