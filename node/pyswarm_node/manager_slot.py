"""Runs this node's manager for as long as the node's role says so. What stops it is tried again; the agent is not touched."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.containment import contained
from pyswarm_common.errors import PyswarmError
from pyswarm_common.waiting import wait_first

if TYPE_CHECKING:
    from pyswarm_node.manager_runner import ManagerRunner

RETRY_PAUSE_S = 3.0

_log = structlog.get_logger()


class ManagerSlot:
    """The place of the manager in a node: empty on workers. `new_runner` makes one for the membership as it is then."""

    def __init__(self, new_runner: "Callable[[], ManagerRunner]", clock: Clock, *, must_start: bool) -> None:
        self.runner: ManagerRunner | None = None
        self.error = ""
        """Why the manager, though wanted, does not run."""
        self.is_ready = asyncio.Event()
        """Whether it serves."""
        self._new_runner = new_runner
        self._clock = clock
        self._must_start = must_start
        self._is_wanted = asyncio.Event()
        self._is_unwanted = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def progress(self) -> str:
        """What a manager that does not serve yet is waiting for."""
        return self.runner.progress if self.runner is not None else ""

    def fill(self) -> None:
        """From now on a manager runs here."""
        self._is_unwanted.clear()
        self._is_wanted.set()

    async def empty(self) -> None:
        """End the manager; returns when nothing of it runs any more."""
        self._is_wanted.clear()
        self._is_unwanted.set()
        await self._is_empty.wait()

    async def run(self) -> None:
        """Run managers until cancelled. Raises what keeps the first one from starting, if that must start."""
        while True:
            await self._is_wanted.wait()
            self._is_empty.clear()
            try:
                await contained(wait_first(self._run_one(), self._is_unwanted.wait()))
                self.error = ""
            except* Exception as errors:
                if self._must_start:
                    raise
                self.error = describe(errors)
                is_expected = errors.subgroup(lambda e: not isinstance(e, PyswarmError | OSError)) is None
                _log.error("manager.failed", reason=self.error, exc_info=None if is_expected else errors)
            finally:
                self.is_ready.clear()
                self.runner = None
                self._is_empty.set()
            await wait_first(self._clock.sleep(RETRY_PAUSE_S), self._is_unwanted.wait())

    async def _run_one(self) -> None:
        self.runner = runner = self._new_runner()
        await wait_first(runner.run(), self._note_ready(runner))

    async def _note_ready(self, runner: "ManagerRunner") -> None:
        await runner.is_ready.wait()
        self._must_start = False
        self.error = ""
        self.is_ready.set()
        await asyncio.Event().wait()


def describe(errors: BaseExceptionGroup[BaseException]) -> str:
    """Return what a person needs to know of a group of errors."""
    leaves: list[str] = []
    for error in errors.exceptions:
        leaves.append(describe(error) if isinstance(error, BaseExceptionGroup) else str(error) or type(error).__name__)
    return "; ".join(dict.fromkeys(leaves))
