"""A DNS in memory, for those who test what uses the driver: it keeps what it was told, and can die."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pyswarm_common.errors import Unavailable
from pyswarm_netplugin.dns.protocol import SandboxConfig


class FakeDNS:
    """Behaves as `dns.client.DNSClient` does. `die` loses everything, as a killed process would; `was_fed` until then."""

    def __init__(self) -> None:
        self.networks: dict[str, dict[str, tuple[str, ...]]] = {}
        self.sandboxes: dict[str, SandboxConfig] = {}
        self.network_names: dict[str, str] = {}
        self.starts = 0
        self.is_running = False
        self.was_fed = asyncio.Event()
        self._gone = asyncio.Event()

    def die(self) -> None:
        """End as if killed."""
        self.networks, self.sandboxes, self.network_names = {}, {}, {}
        self.is_running = False
        self.was_fed.clear()
        self._gone.set()

    async def ensure_running(self) -> bool:
        """Start when not running; return whether it must be fed."""
        if not self.is_running:
            self.starts += 1
            self.is_running = True
            self._gone.clear()
        return not self.was_fed.is_set()

    async def set_network(self, network_id: str, records: Mapping[str, tuple[str, ...]], name: str = "") -> None:
        """Replace a network's names."""
        self._check()
        self.networks[network_id] = dict(records)
        self.network_names[network_id] = name

    async def remove_network(self, network_id: str) -> None:
        """Forget a network."""
        self._check()
        self.networks.pop(network_id, None)
        self.network_names.pop(network_id, None)

    async def add_sandbox(
        self,
        sandbox_id: str,
        netns_path: str,
        network_ids: Sequence[str],
        search: Sequence[str] = (),
        upstreams: Sequence[str] = (),
    ) -> None:
        """Remember a sandbox."""
        self._check()
        self.sandboxes[sandbox_id] = SandboxConfig(netns_path, tuple(network_ids), tuple(search), tuple(upstreams))

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox."""
        self._check()
        self.sandboxes.pop(sandbox_id, None)

    async def feed(
        self,
        networks: Mapping[str, Mapping[str, tuple[str, ...]]],
        sandboxes: Mapping[str, SandboxConfig],
        network_names: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Replace everything."""
        self._check()
        self.networks = {network_id: dict(records) for network_id, records in networks.items()}
        self.sandboxes = dict(sandboxes)
        self.network_names = dict(network_names)
        self.was_fed.set()
        return {}

    async def wait_disconnected(self) -> None:
        """Return when it has died."""
        await self._gone.wait()

    async def stop(self) -> None:
        """End in order."""
        self.die()

    async def close(self) -> None:
        """Disconnect; it goes on."""

    def _check(self) -> None:
        if not self.is_running:
            raise Unavailable("the DNS is gone")
