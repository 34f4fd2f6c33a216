"""Brings the kernel to a desired state, on a thread of its own, and knows what it has without reading it again each time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from pyswarm_common.errors import PyswarmError
from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.audit.auditor import Auditor, Findings
from pyswarm_netplugin.audit.facts import KINDS
from pyswarm_netplugin.audit.touch import EVERY_OVERLAY, merged, touched_by
from pyswarm_netplugin.audit.yielding import AuditInterrupted
from pyswarm_netplugin.kernel.interface import HostNetwork, Kernel
from pyswarm_netplugin.operations import HOST_SCOPE
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.secure.records import Encryption
from pyswarm_netplugin.state import State

_log = structlog.get_logger()
_T = TypeVar("_T")


class Converger:
    """Owns the thread that talks to the kernel. Calls must not overlap (the driver's lock sees to it)."""

    def __init__(self, make_kernel: Callable[[], Kernel], tag: str) -> None:
        self._make_kernel = make_kernel
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pyswarm-network")
        self._kernel: Kernel | None = None
        self._observed: State | None = None
        self._auditor = Auditor(tag)
        self._touched: dict[str, frozenset[str]] = {}

    async def open(self) -> None:
        """Make the kernel's side, in the thread. Raises OSError."""
        self._kernel = await self.in_thread(self._make_kernel)

    @property
    def is_open(self) -> bool:
        """Whether the kernel can be asked."""
        return self._kernel is not None

    @property
    def has_facts(self) -> bool:
        """Whether the kernel is a real one, with others on the same host."""
        return self._required().inspector() is not None

    async def close(self) -> None:
        """Let go of the kernel; what was made stays."""
        if self._kernel is not None:
            await self.in_thread(self._kernel.close)
            self._kernel = None
        self._executor.shutdown(wait=False)

    async def host_network(self, data_path_address: str) -> HostNetwork:
        """Look at the host. Raises FailedPrecondition when no interface has the address."""
        kernel = self._required()
        return await self.in_thread(lambda: kernel.host_network(data_path_address))

    async def observe(self) -> State:
        """Read what stands. Raises OSError."""
        self._observed = observed = await self.in_thread(self._required().observe)
        return observed

    async def observed(self) -> State:
        """Return what stands as far as is known. Raises OSError."""
        return self._observed or await self.observe()

    async def encryption(self) -> Encryption:
        """Return whether encrypted overlays are possible, without keys and port."""
        return await self.in_thread(self._required().encryption)

    async def look(self) -> State:
        """Read what stands, for whoever wants to see it; plans go on from what they knew. Raises OSError."""
        return await self.in_thread(self._required().observe)

    async def converge(self, desired: State) -> dict[str, PyswarmError]:
        """Plan and carry out what makes the kernel as desired; return, by scope, why some of it failed.

        When all of it went well the desired state is what the next plan starts from; else the kernel is read again.
        """
        observed = self._observed or await self.observe()
        operations = plan(desired, observed)
        self._observed = None
        self._touched = merged(self._touched, touched_by(operations))
        kernel = self._required()
        failures = await self.in_thread(lambda: carry_out(kernel, operations)) if operations else {}
        if not failures:
            self._observed = desired
        for scope, error in failures.items():
            _log.error("network.operation_failed", scope=scope, error=error.message)
        return failures

    def note_change(self) -> None:
        """Remember that something was changed beside the plan: the next audit takes what the host and overlays have as it is."""
        self._touched = merged(self._touched, {HOST_SCOPE: KINDS, EVERY_OVERLAY: KINDS})

    async def audit(self, desired: State, must_end: Callable[[], bool]) -> Findings:
        """Compare what stands with what should, and repair it. Raises OSError, AuditInterrupted once `must_end` says so."""
        kernel, known, touched = self._required(), self._observed, self._touched
        self._observed, self._touched = None, {}
        try:
            findings = await self.in_thread(lambda: self._auditor.look(kernel, desired, known, touched, must_end))
        except AuditInterrupted:
            self._observed, self._touched = known, touched
            raise
        self._observed = desired if findings.is_sound else None
        return findings

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """Run a function in the thread; when cancelled, wait for it first, so that none runs while nobody knows."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def _required(self) -> Kernel:
        if self._kernel is None:
            raise RuntimeError("the network driver was not started, or is closed")
        return self._kernel
