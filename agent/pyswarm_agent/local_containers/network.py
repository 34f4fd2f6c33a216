"""The network of local containers: this node's bridges, the host's own network, none at all, or another container's.

The bridge is a netplugin of its own beside the cluster's, with another tag: nodes have it without a cluster, and leaving one does
not touch it. It is opened with the first container that needs it, so that nodes without local containers have no bridge.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from pyswarm_agent.local_containers.joining import (
    Resolved,
    borrowed_network,
    borrowed_view,
    endpoint,
    host_bridges,
    is_default_bridge,
    network_view,
    placed,
    sandbox_request,
)
from pyswarm_agent.local_containers.records import CONTAINER_PREFIX, HOST, Joined, LocalContainer, NetworkPlace, OverlayAttachment
from pyswarm_agent.node_networks.records import NodeNetwork
from pyswarm_agent.resolver_config import resolv_conf, with_extra_hosts
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord
from pyswarm_common.errors import Conflict, NotFound, PyswarmError
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView
from pyswarm_netplugin.desired import SandboxRecord
from pyswarm_netplugin.driver import NetworkDriver, Sandbox, SandboxRequest
from pyswarm_netplugin.egress import gateway_of, subnet_of
from pyswarm_netplugin.host_bridges.linux import HostBridges, read_host_routes
from pyswarm_netplugin.host_bridges.trunks import Trunks
from pyswarm_netplugin.memory import Memory
from pyswarm_netplugin.published_ports.allocation import PortUnavailable
from pyswarm_netplugin.published_ports.records import PortRequest

POOL = "172.17.0.0/16"
HOST_GATEWAY = "host-gateway"
_RESOLVER_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


class LocalNetwork(Protocol):
    """Gives containers their place. `LocalBridge` is the real one."""

    async def start(self, kept: Collection[str]) -> None:
        """Take up the places of containers that still run, and remove all others."""
        ...

    async def attach(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        """Make the container's place, or change it as the container says now; idempotent. Raises PyswarmError, OSError."""
        ...

    async def detach(self, container_id: str) -> None:
        """Remove the container's place, if it has one of its own."""
        ...

    def place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace | None:
        """Take up and return the place of a container that runs."""
        ...

    async def networks_changed(self) -> None:
        """Make the networks that users made on this node as they are now. Raises PyswarmError, OSError."""
        ...

    def bridge_subnet(self) -> str:
        """Return the subnet of the default bridge, "" before one was chosen: with the first container that needs it."""
        ...

    async def host_routes(self) -> tuple[str, ...]:
        """Return the destinations that this host knows, with prefix lengths. Raises OSError."""
        ...

    def carried(self) -> Mapping[str, NetworkView]:
        """Return the cluster's networks that this node knows, as its tasks and containers use them."""
        ...

    async def close(self) -> None:
        """Let go; the places stay."""
        ...


class LocalBridge:
    """Implements `LocalNetwork` by a network driver that `open_driver` makes. `find` looks up the containers of this node.

    `networks` are those that its users made: each is an overlay of the driver without a tunnel, and the host's end of it.
    `clusters` are the views of the cluster's networks, to which `trunks` lead: a container that is also on others is on them here.
    """

    def __init__(
        self,
        open_driver: Callable[[], NetworkDriver],
        memory: Path,
        find: Callable[[str], ContainerRecord | None],
        networks: Iterable[NodeNetwork] = (),
        ends: HostBridges | None = None,
        *,
        clusters: Callable[[], Mapping[str, NetworkView]] = dict,
        trunks: Trunks | None = None,
    ) -> None:
        self._open_driver = open_driver
        self._memory = memory
        self._find = find
        self._networks = networks
        self._ends = ends
        self._clusters = clusters
        self._trunks = trunks
        self._driver: NetworkDriver | None = None
        self._subnet = ""
        self._lock = asyncio.Lock()
        """From the choice of an address until it is the driver's."""

    async def start(self, kept: Collection[str]) -> None:
        """Take up the places of containers that still run, and remove all others."""
        if self._memory.exists() or any(True for _ in self._networks):
            driver = await self._started()
            await driver.sweep(set(kept))
            await self.networks_changed()

    async def close(self) -> None:
        """Let go; the places stay."""
        if self._driver is not None:
            await self._driver.close()
            self._driver = None

    async def teardown(self) -> None:
        """Remove the bridge and every place."""
        driver = await self._started()
        if self._ends is not None:
            await driver.in_host(partial(self._ends.converge, ()))
        await driver.teardown()
        self._driver, self._subnet = None, ""

    async def networks_changed(self) -> None:
        """Make the networks as they are now. Raises PyswarmError, OSError."""
        async with self._lock:
            await self._tell_networks(await self._started(), {})

    def carried(self) -> Mapping[str, NetworkView]:
        """Return the cluster's networks that this node knows."""
        return self._clusters()

    def bridge_subnet(self) -> str:
        """Return the subnet of the default bridge, "" before one was chosen."""
        self._subnet = self._subnet or Memory(self._memory).egress().subnet
        return self._subnet

    async def host_routes(self) -> tuple[str, ...]:
        """Return the destinations that this host knows, with prefix lengths. Raises OSError."""
        return await (await self._started()).in_host(read_host_routes)

    async def attach(
        self, container: LocalContainer, config: ContainerConfig, acquired: Mapping[Joined, OverlayAttachment] | None = None
    ) -> NetworkPlace:
        """Make the container's place, or change it as the container says now. Raises PyswarmError, OSError.

        `acquired`: its addresses on networks of the cluster.
        """
        acquired = acquired or {}
        mode = container.network_mode
        if mode == HOST or mode.startswith(CONTAINER_PREFIX):
            return self._shared_place(container, config)
        joins = self._resolved(container, acquired)
        driver = await self._started()
        try:
            async with self._lock:
                places = {
                    one.network_id: NetworkAttachment(network_id=one.network_id, address=one.address) for one in acquired.values()
                }
                sandbox = await self._join(driver, container, config, joins, places)
        except PortUnavailable as error:
            raise PortUnavailable(
                f"driver failed programming external connectivity on endpoint {container.name} ({container.id}): {error.message}"
            ) from error
        return self._own_place(driver, container, config, sandbox)

    async def detach(self, container_id: str) -> None:
        """Remove the container's place, if it has one of its own."""
        if self._driver is not None:
            was_on_networks = (record := self._driver.record(container_id)) is not None and record.attachments
            await self._driver.detach(container_id)
            if was_on_networks:
                await self.networks_changed()

    def place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace | None:
        """Return the place of a container that runs."""
        sandbox = self._driver.sandbox(container.id) if self._driver is not None else None
        if self._driver is not None and sandbox is not None:
            return self._own_place(self._driver, container, config, sandbox)
        return NetworkPlace(
            netns_path=config.netns_path, resolv_conf=config.resolv_conf, hosts=config.hosts, hostname=config.hostname
        )

    async def borrowed_changed(self) -> None:
        """Let the containers here know what became of the cluster's networks that they are on. Raises PyswarmError, OSError."""
        driver = self._driver
        if driver is not None and any(network_id not in self._own_ids() for network_id in driver.views()):
            await self.networks_changed()

    async def leave(self, container_id: str, network_id: str) -> None:
        """Take a container that runs off a network at once, as its address may be another's. Raises PyswarmError, OSError."""
        async with self._lock:
            record = self._driver.record(container_id) if self._driver is not None else None
            if self._driver is None or record is None:
                return
            request = SandboxRequest(
                id=container_id,
                hostname=record.hostname,
                attachments=tuple(one for one in record.attachments if one.network_id != network_id),
                is_closed=not record.egress_address,
                ports=(),
                search=record.search,
                nameservers=record.nameservers,
                placement=record.placement,
            )
            await self._driver.attach(msgspec.structs.replace(request, ports=_requests_of(record)))

    async def _join(
        self,
        driver: NetworkDriver,
        container: LocalContainer,
        config: ContainerConfig,
        joins: list[Resolved],
        places: Mapping[str, NetworkAttachment],
    ) -> Sandbox:
        if places:
            await self._tell_networks(driver, {}, also=places.keys())
        used = {
            view.network_id: [endpoint.address for id_, endpoint in view.endpoints.items() if id_ != container.id]
            for view in driver.views().values()
        }
        request = sandbox_request(container, config.hostname, joins, used, driver.record(container.id), places)
        sandbox = await driver.attach(request)
        by_id = {network.id: join for join, network in joins if network is not None}
        own = {a.network_id: endpoint(container, by_id[a.network_id], a) for a in request.attachments if a.network_id not in places}
        if request.attachments or any(container.id in view.endpoints for view in driver.views().values()):
            await self._tell_networks(driver, {container.id: own})
        return sandbox

    async def _tell_networks(
        self, driver: NetworkDriver, changed: Mapping[str, Mapping[str, Endpoint]], also: Iterable[str] = ()
    ) -> None:
        """Tell the driver of all networks; `changed`: the new names of containers, by container and network.

        `also`: networks of the cluster that are about to be used.
        """
        before, standing = driver.views(), driver.sandboxes()
        records = [record for id_ in sorted(standing) if (record := driver.record(id_)) is not None]
        borrowed = {one.network_id for record in records for one in record.attachments}.union(also) - self._own_ids()
        clusters = self._clusters()
        views = {id_: borrowed_view(clusters[id_]) if id_ in clusters else before[id_] for id_ in sorted(borrowed)}
        for network in self._networks:
            known = before[network.id].endpoints if network.id in before else {}
            kept = {id_: one for id_, one in known.items() if id_ in standing and id_ not in changed}
            own = {id_: places[network.id] for id_, places in changed.items() if network.id in places}
            views[network.id] = network_view(network, {**kept, **own})
        await driver.apply_views(views)
        if self._trunks is not None and borrowed:
            await driver.in_host(partial(self._trunks.converge, sorted(borrowed)))
        if self._ends is not None:
            await driver.in_host(partial(self._ends.converge, host_bridges(self._networks, records)))

    def _own_ids(self) -> set[str]:
        return {network.id for network in self._networks}

    def _resolved(self, container: LocalContainer, acquired: Mapping[Joined, OverlayAttachment]) -> list[Resolved]:
        clusters = self._clusters()
        by_id = {network.id: network for network in self._networks}
        found: list[Resolved] = []
        for join in container.joins:
            if join in acquired:
                found.append((join, borrowed_network(clusters[acquired[join].network_id])))
                continue
            network = None if is_default_bridge(join) else by_id.get(join.network_id)
            if network is None and not is_default_bridge(join):
                network = next((one for one in by_id.values() if join.network in (one.name, one.id)), None)
                if network is None:
                    raise NotFound(f"network {join.network} not found")
            found.append((join, network))
        return found

    def _own_place(
        self, driver: NetworkDriver, container: LocalContainer, config: ContainerConfig, sandbox: Sandbox
    ) -> NetworkPlace:
        record = driver.record(container.id)
        own = {network.id: network for network in self._networks}
        borrowed = {id_: borrowed_network(view) for id_, view in driver.views().items() if id_ not in own}
        networks = placed(record, {**own, **borrowed}) if record is not None else ()
        gateway = gateway_of(subnet_of(sandbox.address)).partition("/")[0] if sandbox.address else ""
        has_names = record is not None and bool(record.attachments)
        base = sandbox.resolv_conf if has_names else resolvers_of(map(_read, _RESOLVER_FILES))
        host = gateway or next((place.gateway for place in networks if place.gateway), "")
        return NetworkPlace(
            netns_path=sandbox.netns_path,
            resolv_conf=resolv_conf(base, container.dns),
            hosts=with_extra_hosts(sandbox.hosts, extra_lines(container.extra_hosts, host)),
            hostname=config.hostname,
            address=sandbox.address,
            gateway=gateway,
            ports=sandbox.ports,
            networks=networks,
        )

    def _shared_place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        if container.network_mode == HOST:
            hosts = with_extra_hosts(_read(Path("/etc/hosts")), extra_lines(container.extra_hosts, "127.0.0.1"))
            text = resolv_conf(_read(_RESOLVER_FILES[0]), container.dns)
            return NetworkPlace(netns_path=None, resolv_conf=text, hosts=hosts, hostname=config.hostname)
        other_id = container.network_mode.removeprefix(CONTAINER_PREFIX)
        other = self._find(other_id)
        if other is None:
            raise NotFound(f"No such container: {other_id}")
        if not other.is_live:
            raise Conflict(f"cannot join network of a non running container: {other_id}")
        theirs = other.config
        return NetworkPlace(
            netns_path=theirs.netns_path, resolv_conf=theirs.resolv_conf, hosts=theirs.hosts, hostname=theirs.hostname
        )

    async def _started(self) -> NetworkDriver:
        if self._driver is None:
            driver = self._open_driver()
            try:
                await driver.start()
            except (PyswarmError, OSError):
                await driver.close()
                raise
            driver.auditing.remakers.append(self.networks_changed)
            self._driver = driver
        return self._driver


def _requests_of(record: SandboxRecord) -> tuple[PortRequest, ...]:
    """Return what asks for the ports that a sandbox has, which it then keeps."""
    return tuple(PortRequest(protocol=port.protocol, container_port=port.container_port) for port in record.ports)


def resolvers_of(texts: Iterable[str]) -> str:
    """Return the first resolv.conf that names a server which a container can reach: none on a loopback address. Pure."""
    best = ""
    for text in texts:
        lines = [line for line in text.splitlines() if not _is_loopback_server(line.split())]
        kept = "".join(f"{line}\n" for line in lines)
        if any(line.split()[:1] == ["nameserver"] for line in lines):
            return kept
        best = best or kept
    return best


def _is_loopback_server(words: list[str]) -> bool:
    return words[:1] == ["nameserver"] and len(words) > 1 and words[1].startswith(("127.", "::1"))


def extra_lines(extra: Iterable[str], gateway: str) -> list[str]:
    """Return lines of /etc/hosts for `name:address` pairs; `gateway` stands for the address `host-gateway`. Pure."""
    pairs = (text.partition(":")[::2] for text in extra)
    return [f"{gateway if address == HOST_GATEWAY else address}\t{name}" for name, address in pairs]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
