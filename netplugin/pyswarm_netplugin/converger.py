"""Brings the kernel to a desired state, on a thread of its own, and knows what it has without reading it again each time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from pyswarm_common.errors import PyswarmError
from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.kernel.interface import HostNetwork, Kernel
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.state import State

_log = structlog.get_logger()
_T = TypeVar("_T")


class Converger:
    """Owns the thread that talks to the kernel. Calls must not overlap (the driver's lock sees to it)."""

    def __init__(self, make_kernel: Callable[[], Kernel]) -> None:
        self._make_kernel = make_kernel
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pyswarm-network")
        self._kernel: Kernel | None = None
        self._observed: State | None = None

    async def open(self) -> None:
        """Make the kernel's side, in the thread. Raises OSError."""
        self._kernel = await self.in_thread(self._make_kernel)

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

    async def converge(self, desired: State) -> dict[str, PyswarmError]:
        """Plan and carry out what makes the kernel as desired; return, by scope, why some of it failed.

        When all of it went well the desired state is what the next plan starts from; else the kernel is read again.
        """
        observed = self._observed or await self.observe()
        operations = plan(desired, observed)
        self._observed = None
        kernel = self._required()
        failures = await self.in_thread(lambda: carry_out(kernel, operations)) if operations else {}
        if not failures:
            self._observed = desired
        for scope, error in failures.items():
            _log.error("network.operation_failed", scope=scope, error=error.message)
        return failures

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
