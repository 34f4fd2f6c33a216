"""Audits all network drivers of this node every few seconds, remembers what they found, and tells it."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from pyswarm_common.clock import NANOSECONDS_PER_SECOND, Clock
from pyswarm_common.errors import PyswarmError
from pyswarm_netplugin.audit.drift import Drift, DriftHistory

PERIOD_S = 5.0
SHARE, LONGEST_PAUSE_S = 0.02, 10.0
"""Audits take about this part of one processor: where they take long, the pause between them grows, but not beyond some seconds."""

_log = structlog.get_logger()

Tell = Callable[[str, str, Mapping[str, str]], None]
"""Takes an event: action, id of the network or scope, attributes."""


class Audited(Protocol):
    """A network driver, as far as it is audited."""

    tag: str
    """The instance's tag, by which its bridge and tables are named."""

    async def audit(self) -> tuple[Drift, ...] | None:
        """Compare, repair, and return what was found; None when there was no time. Raises PyswarmError, OSError."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What on this host stands in the way of the network."""
        ...

    async def report(self, drifts: tuple[Drift, ...]) -> dict[str, Any]:
        """Return what is desired, what stands and what was found, in the form of the API. Raises PyswarmError, OSError."""
        ...


class NetworkWatch:
    """The drivers that are at work, and their drift."""

    def __init__(
        self,
        clock: Clock,
        tell: Tell | None = None,
        *,
        period_s: float = PERIOD_S,
        look_at_kernel: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """`look_at_kernel` returns what the kernel lacks, each as a sentence; called once, in a thread."""
        self._clock = clock
        self._tell = tell or (lambda _action, _id, _attributes: None)
        self._period_s = period_s
        self._histories: dict[Audited, DriftHistory] = {}
        self._look_at_kernel = look_at_kernel
        self.kernel_problems: tuple[str, ...] = ()
        """What this machine's kernel lacks, as found at the start."""

    def add(self, driver: Audited) -> None:
        """Audit this driver from now on."""
        self._histories.setdefault(driver, DriftHistory())

    def remove(self, driver: Audited) -> None:
        """Audit it no more."""
        self._histories.pop(driver, None)

    def drivers(self) -> Iterator[tuple[Audited, DriftHistory]]:
        """Yield the drivers that are at work, with what was found."""
        yield from self._histories.items()

    def warnings(self) -> list[str]:
        """Return what on this host stands in the way of its networks."""
        return [*self.kernel_problems, *(warning for driver in self._histories for warning in driver.warnings)]

    async def run(self) -> None:
        """Look at the kernel, then audit until cancelled."""
        if self._look_at_kernel is not None:
            self.kernel_problems = tuple(await asyncio.to_thread(self._look_at_kernel))
        for problem in self.kernel_problems:
            _log.error("network.kernel_lacks", problem=problem)
        pause_s = self._period_s
        while True:
            await self._clock.sleep(pause_s)
            begun_s = time.perf_counter()
            await self.audit()
            took_s = time.perf_counter() - begun_s
            pause_s = max(self._period_s, min(took_s / SHARE, LONGEST_PAUSE_S))

    async def audit(self) -> None:
        """Audit all drivers once."""
        for driver, history in list(self._histories.items()):
            try:
                drifts = await driver.audit()
            except (PyswarmError, OSError) as error:
                _log.warning("network.audit_failed", instance=driver.tag, error=str(error))
                continue
            now_ns = self._clock.now_ns()
            stamped = [stamp(drift, now_ns) for drift in drifts or ()]
            for drift in history.note(stamped, now_ns / NANOSECONDS_PER_SECOND):
                self._report(driver.tag, drift)

    def _report(self, tag: str, drift: Drift) -> None:
        _log.warning(
            "network.drift",
            instance=tag,
            scope=drift.scope,
            what=drift.sentence(),
            repaired=drift.is_repaired,
            error=drift.error,
            times=drift.times,
        )
        kind, _, id_ = drift.scope.partition(" ")
        attributes = {
            "name": tag,
            "scope": drift.scope,
            "what": drift.sentence(),
            "repaired": str(drift.is_repaired).lower(),
            "times": str(drift.times),
        }
        self._tell("drift", id_ or kind, attributes | ({"error": drift.error} if drift.error else {}))


def stamp(drift: Drift, at_ns: int) -> Drift:
    """Return it with the time at which it was found."""
    return msgspec.structs.replace(drift, at_ns=at_ns)
