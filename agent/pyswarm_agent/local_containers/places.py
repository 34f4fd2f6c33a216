"""Where single containers get their place.

On a network of the cluster alone, in the cluster's driver; all others in this node's own, which borrows the cluster's networks.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from pyswarm_agent.local_containers.joining import is_default_bridge
from pyswarm_agent.local_containers.network import LocalBridge
from pyswarm_agent.local_containers.overlay import OverlayNetworks
from pyswarm_agent.local_containers.records import Joined, LocalContainer, NetworkPlace, OverlayAttachment
from pyswarm_agent.node_networks.records import NodeNetwork
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.errors import Unimplemented
from pyswarm_common.wire import NetworkView


class ContainerPlaces:
    """Implements `LocalNetwork`. `networks`: those of this node that its users made."""

    def __init__(self, bridge: LocalBridge, overlays: OverlayNetworks, networks: Iterable[NodeNetwork] = ()) -> None:
        self._bridge = bridge
        self._overlays = overlays
        self._networks = networks
        overlays.on_told = self._clusters_told

    async def start(self, kept: Collection[str]) -> None:
        """Take up the places of containers that still run, and remove all others."""
        await self._bridge.start(kept)

    async def attach(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        """Make the container's place, or change it. Raises PyswarmError, OSError."""
        joins = self._on_clusters(container)
        if joins and len(container.joins) == 1:
            (join,) = joins
            alone = msgspec.structs.replace(container, network_mode=join.network, aliases=join.aliases, address=join.address)
            return await self._overlays.attach(alone, config)
        if len(joins) == len(container.joins) and joins:
            raise Unimplemented(
                f"container {container.name} is on several networks of the cluster, and on none of this node that leads out: "
                "put it on one of those first (network connect bridge)"
            )
        had = self._overlays.acquired_by(container.id)
        acquired: dict[Joined, OverlayAttachment] = {}
        try:
            for join in joins:
                known = _known(container, join, had)
                acquired[join] = known if known is not None else await self._overlays.acquire(container, join)
            place = await self._bridge.attach(container, config, acquired)
        except BaseException:
            self._release({one.id for one in acquired.values()} - had)
            raise
        self._release(had - {one.id for one in acquired.values()})
        return msgspec.structs.replace(place, attachments=tuple(acquired.values()))

    async def detach(self, container_id: str) -> None:
        """Remove the container's place, if it has one of its own."""
        if self._overlays.holds(container_id):
            await self._overlays.detach(container_id)
            return
        await self._bridge.detach(container_id)
        self._release(self._overlays.acquired_by(container_id))

    def place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace | None:
        """Take up and return the place of a container that runs."""
        if container.attachment is not None:
            return self._overlays.take_up(container, config)
        place = self._bridge.place(container, config)
        for attachment in container.attachments:
            join = next((one for one in container.joins if one.network in (attachment.network_id, attachment.network_name)), None)
            named = msgspec.structs.replace(container, aliases=join.aliases if join is not None else ())
            self._overlays.keep(named, attachment)
        return msgspec.structs.replace(place, attachments=container.attachments) if place is not None else None

    async def networks_changed(self) -> None:
        """Make the networks that users made on this node as they are now. Raises PyswarmError, OSError."""
        await self._bridge.networks_changed()

    def carried(self) -> Mapping[str, NetworkView]:
        """Return the cluster's networks that this node knows."""
        return self._overlays.views()

    def bridge_subnet(self) -> str:
        """Return the subnet of the default bridge, "" before one was chosen."""
        return self._bridge.bridge_subnet()

    async def host_routes(self) -> tuple[str, ...]:
        """Return the destinations that this host knows, with prefix lengths. Raises OSError."""
        return await self._bridge.host_routes()

    async def close(self) -> None:
        """Let go; the places stay."""
        await self._bridge.close()

    async def _clusters_told(self) -> None:
        for container_id, network_id in self._overlays.take_given_up():
            await self._bridge.leave(container_id, network_id)
        await self._bridge.borrowed_changed()

    def _on_clusters(self, container: LocalContainer) -> list[Joined]:
        own = {name for network in self._networks for name in (network.id, network.name)}
        return [join for join in container.joins if not (is_default_bridge(join) or join.network_id or join.network in own)]

    def _release(self, attachment_ids: Iterable[str]) -> None:
        for attachment_id in attachment_ids:
            self._overlays.release(attachment_id)


def _known(container: LocalContainer, join: Joined, held: Collection[str]) -> OverlayAttachment | None:
    """The address that a container has already on a network, in this run."""
    named = (one for one in container.attachments if join.network in (one.network_id, one.network_name))
    return next((one for one in named if one.id in held), None)
