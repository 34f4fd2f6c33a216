"""Statuses on their way: one report under way, the newest status wins, nothing is lost with a session."""

import asyncio

from pyswarm_agent.reporter import MAXIMUM_UPDATES_PER_REPORT, StatusReporter
from pyswarm_common.objects import TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import StatusReport

READY, RUNNING, FAILED = (TaskStatus(state=state) for state in (TaskState.READY, TaskState.RUNNING, TaskState.FAILED))


async def next_now(reporter: StatusReporter) -> dict[str, TaskStatus] | None:
    """Return the next report's content, None when there is none now."""
    waiting = asyncio.ensure_future(reporter.next_report())
    for _ in range(3):
        await asyncio.sleep(0)
    if not waiting.done():
        waiting.cancel()
        await asyncio.wait([waiting])
        return None
    return content(waiting.result())


def content(report: StatusReport) -> dict[str, TaskStatus]:
    return {update.task_id: update.status for update in report.updates}


async def test_the_newest_status_of_each_task_is_sent() -> None:
    reporter = StatusReporter()
    reporter.put("a", READY)
    reporter.put("b", READY)
    reporter.put("a", RUNNING)
    assert await next_now(reporter) == {"a": RUNNING, "b": READY}


async def test_one_report_is_under_way_at_a_time() -> None:
    reporter = StatusReporter()
    reporter.put("a", READY)
    first = await reporter.next_report()
    reporter.put("a", RUNNING)
    assert await next_now(reporter) is None
    reporter.acknowledge(first.number - 1)
    assert await next_now(reporter) is None
    reporter.acknowledge(first.number)
    assert await next_now(reporter) == {"a": RUNNING}


async def test_a_waiting_report_goes_out_as_soon_as_the_one_before_is_stored() -> None:
    reporter = StatusReporter()
    reporter.put("a", READY)
    first = await reporter.next_report()
    reporter.put("a", FAILED)
    waiting = asyncio.ensure_future(reporter.next_report())
    await asyncio.sleep(0)
    reporter.acknowledge(first.number)
    report = await waiting
    assert content(report) == {"a": FAILED}
    assert report.number > first.number


async def test_what_was_not_acknowledged_is_sent_again_unless_there_is_newer() -> None:
    reporter = StatusReporter()
    reporter.put("a", READY)
    reporter.put("b", READY)
    lost = await reporter.next_report()
    reporter.put("a", RUNNING)
    reporter.restart()
    again = await reporter.next_report()
    assert content(again) == {"a": RUNNING, "b": READY}
    reporter.acknowledge(lost.number)  # late, from the old session
    assert await next_now(reporter) is None
    reporter.acknowledge(again.number)
    reporter.restart()
    assert await next_now(reporter) is None


async def test_a_session_that_ends_while_it_waits_for_a_report_takes_none_with_it() -> None:
    reporter = StatusReporter()
    assert await next_now(reporter) is None
    reporter.put("a", READY)
    assert await next_now(reporter) == {"a": READY}


async def test_nothing_is_said_of_a_forgotten_task() -> None:
    reporter = StatusReporter()
    reporter.put("a", READY)
    await reporter.next_report()
    reporter.put("a", RUNNING)
    reporter.put("b", RUNNING)
    reporter.forget("a")
    reporter.restart()
    assert await next_now(reporter) == {"b": RUNNING}


async def test_many_statuses_travel_in_several_reports() -> None:
    reporter = StatusReporter()
    for number in range(MAXIMUM_UPDATES_PER_REPORT + 1):
        reporter.put(str(number), READY)
    first = await reporter.next_report()
    assert len(first.updates) == MAXIMUM_UPDATES_PER_REPORT
    reporter.acknowledge(first.number)
    assert await next_now(reporter) == {str(MAXIMUM_UPDATES_PER_REPORT): READY}
