"""For networks whose names nobody answers, as Docker's default bridge: a DNS that is not there, and is never missed."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pyswarm_netplugin.dns.protocol import SandboxConfig


class NoDNS:
    """Implements `name_service.DNS` by doing nothing."""

    async def ensure_running(self) -> bool:
        """Need no feeding."""
        return False

    async def set_network(self, network_id: str, records: Mapping[str, tuple[str, ...]], name: str = "") -> None:
        """Forget the names."""

    async def remove_network(self, network_id: str) -> None:
        """Have none to forget."""

    async def add_sandbox(
        self,
        sandbox_id: str,
        netns_path: str,
        network_ids: Sequence[str],
        search: Sequence[str] = (),
        upstreams: Sequence[str] = (),
    ) -> None:
        """Answer nobody."""

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Answer nobody."""

    async def feed(
        self,
        networks: Mapping[str, Mapping[str, tuple[str, ...]]],
        sandboxes: Mapping[str, SandboxConfig],
        network_names: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Take everything."""
        return {}

    async def wait_disconnected(self) -> None:
        """Never go away."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Have nothing to end."""

    async def close(self) -> None:
        """Have nothing to let go of."""
