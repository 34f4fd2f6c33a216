"""The DNS of a driver that seldom needs one: its process runs while a sandbox is on a network with names."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from pyswarm_netplugin.dns.protocol import SandboxConfig
from pyswarm_netplugin.name_service import DNS


class DNSWhenNeeded:
    """Implements `name_service.DNS` by another, which is left alone while `is_needed` says no; sandboxes without networks too."""

    def __init__(self, dns: DNS) -> None:
        self._dns = dns
        self._was_needed = asyncio.Event()
        self._is_first = True
        self.is_needed: Callable[[], bool] = lambda: False

    async def ensure_running(self) -> bool:
        """Start the process when one is needed and none runs; return whether it must be fed."""
        is_first, self._is_first = self._is_first, False
        if not self.is_needed():
            if is_first:  # of an earlier life
                await self._dns.stop()
            return False
        must_feed = await self._dns.ensure_running()
        self._was_needed.set()
        return must_feed

    async def set_network(self, network_id: str, records: Mapping[str, tuple[str, ...]], name: str = "") -> None:
        """Replace a network's names."""
        if self.is_needed():
            await self._dns.set_network(network_id, records, name)

    async def remove_network(self, network_id: str) -> None:
        """Forget a network."""
        if self.is_needed():
            await self._dns.remove_network(network_id)

    async def add_sandbox(
        self,
        sandbox_id: str,
        netns_path: str,
        network_ids: Sequence[str],
        search: Sequence[str] = (),
        upstreams: Sequence[str] = (),
    ) -> None:
        """Answer in a namespace that is on networks; in one that is on none any more, stop."""
        if not self.is_needed():
            await self.remove_sandbox(sandbox_id)
        elif network_ids:
            await self._dns.add_sandbox(sandbox_id, netns_path, network_ids, search, upstreams)
        else:
            await self._dns.remove_sandbox(sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Close the sockets in a namespace; with the last one, end the process."""
        if not self._was_needed.is_set():
            return
        await self._dns.remove_sandbox(sandbox_id)
        if not self.is_needed():
            self._was_needed.clear()
            await self._dns.stop()

    async def feed(
        self,
        networks: Mapping[str, Mapping[str, tuple[str, ...]]],
        sandboxes: Mapping[str, SandboxConfig],
        network_names: Mapping[str, str] = {},
    ) -> dict[str, str]:
        """Say everything; return why some sandboxes cannot be served."""
        if not self.is_needed():
            return {}
        named = {id_: config for id_, config in sandboxes.items() if config.network_ids}
        return await self._dns.feed(networks, named, network_names)

    async def wait_disconnected(self) -> None:
        """Return when the process that was needed has gone."""
        await self._was_needed.wait()
        await self._dns.wait_disconnected()

    async def stop(self) -> None:
        """End the process, also one of an earlier life."""
        await self._dns.stop()

    async def close(self) -> None:
        """Disconnect; the process goes on."""
        await self._dns.close()
