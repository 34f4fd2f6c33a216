"""Where single containers get their place: on the cluster's networks those that name one, all others on this node's own."""

from collections.abc import Collection

from pyswarm_agent.local_containers.network import LocalBridge
from pyswarm_agent.local_containers.overlay import OverlayNetworks
from pyswarm_agent.local_containers.records import LocalContainer, NetworkPlace
from pyswarm_agent.runtime.records import ContainerConfig


class ContainerPlaces:
    """Implements `LocalNetwork`."""

    def __init__(self, bridge: LocalBridge, overlays: OverlayNetworks) -> None:
        self._bridge = bridge
        self._overlays = overlays

    async def start(self, kept: Collection[str]) -> None:
        """Take up the places of containers that still run, and remove all others."""
        await self._bridge.start(kept)

    async def attach(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        """Make the container's place. Raises PyswarmError, OSError."""
        return await (self._overlays if container.is_on_overlay else self._bridge).attach(container, config)

    async def detach(self, container_id: str) -> None:
        """Remove the container's place, if it has one of its own."""
        await (self._overlays if self._overlays.holds(container_id) else self._bridge).detach(container_id)

    def place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace | None:
        """Take up and return the place of a container that runs."""
        return self._overlays.take_up(container, config) if container.is_on_overlay else self._bridge.place(container, config)

    async def close(self) -> None:
        """Let go; the places stay."""
        await self._bridge.close()
