"""Work that must get done in the end: tried again, with growing pauses, until it goes well.

What an agent has to take away or to write down must not stay undone because it failed once, and no failure of one task's work,
foreseen or not, may reach beyond it. So every failure ends here: it is logged, and the step is tried again.
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

Step: TypeAlias = tuple[str, Callable[[], Awaitable[object]]]
"""What is done, for the log, and the function that does it."""

_log = structlog.get_logger()


async def until_done(clock: Clock, *steps: Step) -> None:
    """Do the steps in turn, and those that fail again and again until each has gone well once. Raises nothing."""
    pause_s = FIRST_PAUSE_S
    left = await failed_of(*steps)
    while left:
        await clock.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        left = await failed_of(*left)


async def failed_of(*steps: Step) -> list[Step]:
    """Do each step once; return those that failed, which is logged. Raises nothing."""
    failed = []
    for what, work in steps:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  whatever it was, it is not to end more than this step
            log_failure(error, what)
            failed.append((what, work))
    return failed


def log_failure(error: Exception, what: str) -> None:
    """Log a failure: in one line when it is of a foreseen kind, else with its traceback."""
    if isinstance(error, PyswarmError | OSError):
        _log.warning("agent.step_failed", step=what, error=error_text(error))
    else:
        _log.error("agent.step_failed", step=what, error=error_text(error), exc_info=error)


def error_text(error: BaseException) -> str:
    """Return what to tell of an error; an error of an unforeseen kind, whose text alone says little, with its kind."""
    if isinstance(error, PyswarmError | OSError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
