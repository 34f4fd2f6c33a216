"""The audit of one network driver: when it may happen, what it looks at, and what it can tell of it."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pyswarm_common.errors import PyswarmError
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.audit.drift import Drift
from pyswarm_netplugin.audit.survey import Survey, take_survey
from pyswarm_netplugin.audit.watch import NetworkWatch
from pyswarm_netplugin.audit.yielding import AuditInterrupted, BusyLock
from pyswarm_netplugin.converger import Converger
from pyswarm_netplugin.operations import overlay_scope, sandbox_scope
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.published_ports.records import PublishedPort
from pyswarm_netplugin.state import State

LONGEST_PAUSE = 3
"""How many audits in a row may be left out because others are at work."""
SURVEY_EVERY = 12
"""What others have on the host is looked at in every twelfth audit."""


class DriverAudit:
    """Audits what `desired` says through the driver's own converger, under the driver's own lock."""

    def __init__(
        self,
        tag: str,
        netns_directory: Path,
        lock: BusyLock,
        converger: Converger,
        desired: Callable[[], State],
        views: Callable[[], Mapping[str, NetworkView]],
        is_reserved: Callable[[PublishedPort], bool],
    ) -> None:
        self.tag = tag
        self.netns_directory = netns_directory
        self.desired = desired
        self.views = views
        self.remakers: list[Callable[[], Awaitable[None]]] = []
        """What makes things beside the plan, to be done again after a drift; each is idempotent."""
        self._is_reserved = is_reserved
        self._lock = lock
        self._converger = converger
        self._skipped = 0
        self._rounds = 0
        self._watch: NetworkWatch | None = None
        self._survey = Survey()
        self._failures: Mapping[str, PyswarmError] = {}

    def begin(self, watch: NetworkWatch | None) -> None:
        """Be audited from now on."""
        self._watch = watch
        if watch is not None:
            watch.add(self)

    def end(self) -> None:
        """Be audited no more."""
        if self._watch is not None:
            self._watch.remove(self)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What on this host stands in the way of the network, as it was seen last."""
        return self._survey.warnings

    async def audit(self) -> tuple[Drift, ...] | None:
        """Compare what stands with what should be, repair it and return what was wrong; None when others are at work.

        Who attaches or detaches goes first; after three audits that were left out this one waits its turn. Raises OSError.
        """
        if self._lock.locked() and self._skipped < LONGEST_PAUSE:
            self._skipped += 1
            return None
        async with self._lock:
            if not self._converger.is_open:
                return None
            is_due = self._skipped >= LONGEST_PAUSE
            try:
                findings = await self._converger.audit(self.desired(), lambda: bool(self._lock.waiting) and not is_due)
            except AuditInterrupted:
                self._skipped += 1
                return None
            self._skipped = 0
            self._failures = findings.failures
            self._rounds += 1
            if self._rounds % SURVEY_EVERY == 1:
                self._survey = await self._look_around()
        if findings.drifts:
            for remake in self.remakers:
                await remake()
        told = {drift.scope for drift in findings.drifts}
        foreign = [drift for drift in self._survey.foreign if drift.scope not in told]
        return (*findings.drifts, *foreign)

    async def report(self, drifts: tuple[Drift, ...]) -> dict[str, Any]:
        """Return what is desired, what stands now and what was found, in the form of the API; changes nothing. Raises OSError."""
        from pyswarm_netplugin.audit.report import render_report  # seldom asked

        async with self._lock:
            desired = self.desired()
            observed = await self._converger.look()
            self._survey = await self._look_around()
        warnings = (*self._survey.warnings, *(f"{drift.scope}: {drift.sentence()}" for drift in self._survey.foreign))
        return render_report(self.tag, desired, observed, self.views(), drifts, warnings, self._is_reserved, self._failures)

    async def overlay_plan(self, network_id: str, sandbox_id: str) -> list[str]:
        """Return what is not as desired of a network and a sandbox on this node. Raises OSError."""
        async with self._lock:
            operations = plan(self.desired(), await self._converger.look())
        scopes = {overlay_scope(network_id), sandbox_scope(sandbox_id)}
        return [operation.describe() for operation in operations if operation.scope in scopes]

    async def _look_around(self) -> Survey:
        if not self._converger.has_facts:
            return Survey()
        return await self._converger.in_thread(partial(take_survey, self.tag, self.desired()))
