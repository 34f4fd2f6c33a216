"""Keeps the node's pyswarm-dns running and told: changes one by one, everything when another process took over."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import structlog

from pyswarm_common.errors import Unavailable
from pyswarm_netplugin.dns.protocol import SandboxConfig

_log = structlog.get_logger()
_RETRY_S = 1.0


class DNS(Protocol):
    """What is needed of `dns.client.DNSClient`. Methods raise Unavailable when the process is gone."""

    async def ensure_running(self) -> bool:
        """Start the process when none runs; return whether it must be fed."""
        ...

    async def set_network(self, network_id: str, records: Mapping[str, tuple[str, ...]], name: str = ...) -> None:
        """Replace a network's names; `name` is its own."""
        ...

    async def remove_network(self, network_id: str) -> None:
        """Forget a network."""
        ...

    async def add_sandbox(
        self,
        sandbox_id: str,
        netns_path: str,
        network_ids: Sequence[str],
        search: Sequence[str] = (),
        upstreams: Sequence[str] = (),
    ) -> None:
        """Answer in a namespace."""
        ...

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Close the sockets in a namespace."""
        ...

    async def feed(
        self,
        networks: Mapping[str, Mapping[str, tuple[str, ...]]],
        sandboxes: Mapping[str, SandboxConfig],
        network_names: Mapping[str, str] = ...,
    ) -> dict[str, str]:
        """Say everything; return why some sandboxes cannot be served."""
        ...

    async def wait_disconnected(self) -> None:
        """Return when the process has gone."""
        ...

    async def stop(self) -> None:
        """End the process."""
        ...

    async def close(self) -> None:
        """Disconnect; the process goes on."""
        ...


Everything: TypeAlias = tuple[Mapping[str, Mapping[str, tuple[str, ...]]], Mapping[str, SandboxConfig], Mapping[str, str]]
"""Each network's names, each sandbox's namespace and networks, and the networks' own names."""


class NameService:
    """`start`, then `tell`; `close` leaves the process, `stop` ends it. `everything` is called when it must be fed."""

    def __init__(self, dns: DNS, everything: Callable[[], Everything]) -> None:
        self._dns = dns
        self._everything = everything
        self._lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process or find it running, feed it, and from now on replace it when it dies. Raises Unavailable."""
        async with self._lock:
            await self._dns.ensure_running()
            await self._feed()
        self._watcher = asyncio.create_task(self._watch(), name="pyswarm-dns watcher")

    async def tell(self, *changes: Callable[[], Awaitable[None]]) -> None:
        """Tell the process of changes that `everything` has already. Raises Unavailable when no process can be had."""
        async with self._lock:
            if await self._dns.ensure_running():
                await self._feed()
                return
            try:
                for change in changes:
                    await change()
            except Unavailable:
                await self._dns.ensure_running()
                await self._feed()

    async def close(self) -> None:
        """Stop watching; the process goes on answering."""
        await self._end_watcher()
        await self._dns.close()

    async def stop(self) -> None:
        """End the process."""
        await self._end_watcher()
        await self._dns.stop()

    async def _feed(self) -> None:
        failures = await self._dns.feed(*self._everything())
        for sandbox_id, reason in failures.items():
            _log.warning("network.names_not_served", sandbox=sandbox_id, reason=reason)

    async def _watch(self) -> None:
        while True:
            await self._dns.wait_disconnected()
            try:
                async with self._lock:
                    if await self._dns.ensure_running():
                        await self._feed()
            except Unavailable as error:
                _log.error("network.names_unavailable", error=error.message)
                await asyncio.sleep(_RETRY_S)

    async def _end_watcher(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
