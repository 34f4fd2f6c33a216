"""Networks of this node: made, removed, and containers connected to and disconnected from them, also while they run."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pyswarm_agent.events import EventBus
from pyswarm_agent.local_containers.create_body import EndpointBody
from pyswarm_agent.local_containers.endpoints import check_endpoint, joined_of
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.local_containers.network import POOL, LocalNetwork
from pyswarm_agent.local_containers.records import (
    BRIDGE,
    CONTAINER_PREFIX,
    HOST,
    NONE,
    Joined,
    LocalContainer,
    NetworkPlace,
    PlacedNetwork,
)
from pyswarm_agent.network_events import ToldNetwork, network_told, networks_told
from pyswarm_agent.node_networks.records import NodeNetwork
from pyswarm_agent.node_networks.specification import build, parse, warning_about
from pyswarm_agent.node_networks.store import NodeNetworks
from pyswarm_agent.persistence import failed_of
from pyswarm_agent.runtime.interface import Runtime
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound, PermissionDenied, PyswarmError, Unimplemented
from pyswarm_common.ids import new_container_id
from pyswarm_common.wire import NetworkView

EGRESS_POOL = "172.19.0.0/16"
"""Where the way out of the cluster's containers has its addresses."""
_SHORT_ID_LENGTH = 12


class Connections:
    """`held`: all single containers, by id; `save` changes a container's record."""

    def __init__(
        self,
        networks: NodeNetworks,
        network: LocalNetwork,
        runtime: Runtime,
        clock: Clock,
        events: EventBus,
        held: Mapping[str, Held],
        save: Callable[..., Awaitable[None]],
    ) -> None:
        self.networks = networks
        self._network = network
        self._runtime = runtime
        self._clock = clock
        self._events = events
        self._held = held
        self._save = save
        events.networks_of = self._told

    async def create(self, body: Mapping[str, Any]) -> tuple[str, str]:
        """Make a network from the body of a request; return its id and a warning. Raises PyswarmError, OSError."""
        spec = parse(body)
        async with self.networks.lock:
            self.networks.check_name(spec.name)
            taken = (POOL, EGRESS_POOL, *await self._network.host_routes())
            network = build(spec, self.networks, taken, id_=new_container_id(), now_ns=self._clock.now_ns())
            if any(other.interface == network.interface for other in self.networks):
                raise PermissionDenied(f"networks have same bridge name: {network.interface}")
            await self.networks.add(network)
            try:
                await self._network.networks_changed()
            except (PyswarmError, OSError):
                await self.networks.remove(network.id)
                await failed_of(("remove a network that could not be made", self._network.networks_changed))
                raise
        self._publish("create", network)
        return network.id, warning_about(spec)

    async def remove(self, reference: str) -> NodeNetwork:
        """Remove a network on which no container runs. Raises NotFound, PermissionDenied, PyswarmError, OSError."""
        async with self.networks.lock:
            network = self.networks.need(reference)
            users = self.users_of(network.id)
            if users:
                shown = ", ".join(f'name:"{held.container.name}" id:"{held.container.id[:_SHORT_ID_LENGTH]}"' for held in users)
                raise PermissionDenied(
                    f"error while removing network: network {network.name} id {network.id} has active endpoints ({shown})"
                )
            await self.networks.remove(network.id)
            await self._network.networks_changed()
        self._publish("destroy", network)
        return network

    def carried(self) -> Mapping[str, NetworkView]:
        """Return the cluster's networks that this node knows, as its tasks and containers use them."""
        return self._network.carried()

    def bridge_subnet(self) -> str:
        """Return the subnet of the default bridge, "" before one was chosen."""
        return self._network.bridge_subnet()

    def users_of(self, network_id: str) -> list[Held]:
        """Return the containers that are on a network while they run."""
        return [
            held
            for held in self._held.values()
            if held.place is not None and any(place.id == network_id for place in held.place.networks)
        ]

    def resolved(self, container: LocalContainer) -> LocalContainer:
        """Return a new container with the ids of those of its networks that are this node's."""
        joins = tuple(self._resolved(join) for join in container.joins)
        return container if joins == container.joins else msgspec.structs.replace(container, joined=joins)

    async def connect(self, container_id: str, reference: str, endpoint: EndpointBody) -> None:
        """Put a container on a network, at once when it runs. Raises what refuses it, PyswarmError, OSError."""
        held = self._own(container_id)
        async with held.lock:
            container = held.container
            _check_connectable(container, reference)
            check_endpoint(reference, endpoint)
            join = self._resolved(joined_of(reference, endpoint))
            if self._index_of(container.joins, join) is not None:
                raise PermissionDenied(f"endpoint with name {container.name} already exists in network {join.name}")
            joins = (*container.joins, join)
            self._check_mixture(held, joins)
            await self._change(held, joins)
        if held.place is not None:  # else it comes there when it starts
            self._events.publish_network("connect", network_told(held.container, join), container_id)

    async def disconnect(self, container_id: str, reference: str) -> None:
        """Take a container off a network, at once when it runs. Raises what refuses it, PyswarmError, OSError."""
        held = self._own(container_id)
        async with held.lock:
            container = held.container
            if container.network_mode == HOST:
                raise PermissionDenied("container cannot be disconnected from host network or connected to host network")
            if reference == NONE and container.network_mode == NONE and container.joined is None:
                await self._save(held, joined=())
                return
            asked = self._resolved(Joined(network=reference))
            index = self._index_of(container.joins, asked)
            if index is None:
                raise PermissionDenied(f"container {container_id} is not connected to network {asked.name}")
            join = container.joins[index]
            joins = tuple(one for number, one in enumerate(container.joins) if number != index)
            self._check_mixture(held, joins)
            told = network_told(container, join)
            await self._change(held, joins)
        self._events.publish_network("disconnect", told, container_id)

    async def finish_changes(self) -> None:
        """Give those containers their places that an earlier daemon was changing when it was killed."""
        for held in self._held.values():
            if held.place is not None and held.container.joined is not None and held.container.attachment is None:
                borrowed = {one.network_id for one in held.container.attachments}
                has = {place.id for place in held.place.networks} - borrowed | ({BRIDGE} if held.place.address else set())
                wanted = {join.network_id or join.network for join in held.container.joins}
                if has != {one for one in wanted if one == BRIDGE or self.networks.get(one) is not None}:
                    await failed_of((f"change networks of {held.container.id}", partial(self._place_anew, held, held.container)))

    async def renamed(self, held: Held) -> None:
        """Let a container that runs have its new name on its networks. The caller holds its lock."""
        if held.place is not None and held.place.networks and held.container.attachment is None:
            await self._place_anew(held, held.container)

    async def _change(self, held: Held, joins: tuple[Joined, ...]) -> None:
        before = held.container
        changed = msgspec.structs.replace(before, joined=joins)
        if held.place is None:
            await self._save(held, joined=joins)
            return
        await self._save(held, joined=joins)  # a daemon that is killed now finds the place half changed, and finishes it
        try:
            await self._place_anew(held, changed)
        except (PyswarmError, OSError):
            await self._save(held, joined=before.joined)
            raise

    async def _place_anew(self, held: Held, container: LocalContainer) -> None:
        record = self._need(container.id)
        place = await self._network.attach(container, record.config)
        held.place = place
        if place.attachments != held.container.attachments:
            await self._save(held, attachments=place.attachments)
        config = msgspec.structs.replace(record.config, resolv_conf=place.resolv_conf, hosts=place.hosts)
        if config != record.config:
            await self._runtime.configure(config)
            await asyncio.to_thread(_rewrite, self._bundle(container.id), record, place)

    def _bundle(self, container_id: str) -> Path | None:
        folders = self._runtime.folders(container_id)
        return folders.bundle if folders is not None else None

    def _own(self, container_id: str) -> Held:
        held = self._held.get(container_id)
        if held is None:
            raise Conflict(
                f"container {container_id} belongs to a task: its networks are its service's (service update --network-add, "
                "--network-rm)"
            )
        return held

    def _resolved(self, join: Joined) -> Joined:
        network = None if join.network == BRIDGE else self.networks.find(join.network)
        if network is None:
            return join
        return msgspec.structs.replace(join, network_id=network.id, network_name=network.name)

    def _check_mixture(self, held: Held, joins: tuple[Joined, ...]) -> None:
        """Raise Unimplemented for what would move a container that runs from one driver to another."""
        container = held.container
        own = [join for join in joins if join.network_id or join.network == BRIDGE]
        if len(joins) > 1 and not own:
            raise Unimplemented(
                f"container {container.name} would be on several networks of the cluster, and on none of this node that leads out: "
                "put it on one of those first (network connect bridge)"
            )
        if held.place is None:
            return
        if container.attachment is not None:
            raise Unimplemented(
                f"container {container.name} was started on a network of the cluster alone: stop it, change its networks, start it"
            )
        if joins and not own:
            raise Unimplemented(f"container {container.name} would be on a network of the cluster alone: stop it first")

    def _index_of(self, joins: tuple[Joined, ...], asked: Joined) -> int | None:
        for number, join in enumerate(joins):
            if (join.network_id and join.network_id == asked.network_id) or join.network == asked.network:
                return number
        return None

    def _need(self, container_id: str) -> ContainerRecord:
        record = self._runtime.get(container_id)
        if record is None:
            raise NotFound(f"No such container: {container_id}")
        return record

    def _publish(self, action: str, network: NodeNetwork) -> None:
        self._events.publish("network", action, network.id, {"name": network.name, "type": network.driver})

    def _told(self, record: ContainerRecord) -> Iterable[ToldNetwork]:
        held = self._held.get(record.config.id)
        return networks_told(record, held.container if held is not None else None)


def member_place(place: NetworkPlace | None, network_id: str) -> PlacedNetwork | None:
    """Return a container's place on one network."""
    return next((one for one in place.networks if one.id == network_id), None) if place is not None else None


def _check_connectable(container: LocalContainer, reference: str) -> None:
    if HOST in (reference, container.network_mode):
        raise PermissionDenied("container cannot be disconnected from host network or connected to host network")
    if container.network_mode.startswith(CONTAINER_PREFIX):
        raise PermissionDenied(
            "container sharing network namespace with another container or host cannot be connected to any other network"
        )
    if reference == NONE or (container.network_mode == NONE and container.joined is None):
        raise PermissionDenied("container cannot be connected to multiple networks with one of the networks in private (none) mode")
    if not reference:
        raise InvalidArgument("a network's name or id is missing")


def _rewrite(bundle: Path | None, before: ContainerRecord, place: NetworkPlace) -> None:
    """Change the files of a container that runs, in place, as it has them mounted; not those that it wrote itself."""
    if bundle is None:
        return
    was = before.config
    for name, old, new in (("resolv.conf", was.resolv_conf, place.resolv_conf), ("hosts", was.hosts, place.hosts)):
        path = bundle / name
        if old != new and path.exists() and path.read_text() == old:
            path.write_text(new)
