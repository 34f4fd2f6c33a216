"""What an ingress network's view asks of this node; pure."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.mesh.records import MeshBalancer, ReturnRoutes
from pyswarm_netplugin.naming import address_of, digest, mac_of
from pyswarm_netplugin.published_ports.records import PublishedPort
from pyswarm_netplugin.state import Link


@dataclass(frozen=True)
class MeshParts:
    """What one view comes to: the gateways' hardware addresses, the chain of each port with tasks, and the chains' contents."""

    gateways: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, str] = field(default_factory=dict)
    balancers: Mapping[str, MeshBalancer] = field(default_factory=dict)


NO_MESH = MeshParts()


def mesh_parts(view: NetworkView, known: MeshParts = NO_MESH, host: str = "") -> MeshParts:
    """Return the parts of a view on a host (data path address); those of `known` that did not change are the same objects."""
    if not view.is_ingress:
        return NO_MESH
    gateways = {
        address_of(gateway.address): mac_of(address_of(gateway.address), gateway.mac).hex(":")
        for _, gateway in sorted(view.gateways.items())
        if gateway.address
    }
    balancers = {mesh_chain(balancer): balancer for balancer in balancers_of(view, host)}
    ports = {balancer.key: chain for chain, balancer in balancers.items()}
    return MeshParts(
        known.gateways if known.gateways == gateways else gateways,
        known.ports if known.ports == ports else ports,
        balancers,
    )


def returns_of(links: Mapping[str, Link], gateways: Mapping[str, Mapping[str, str]]) -> ReturnRoutes | None:
    """Return the ways back for a sandbox with these links; `gateways`: hardware addresses by address, by ingress network."""
    for interface, link in links.items():
        if link.network_id in gateways:
            way_out = next((address_of(other.address) for other in links.values() if not other.network_id and other.gateway), "")
            return ReturnRoutes(interface=interface, datagram_address=way_out, gateways=gateways[link.network_id])
    return None


def mesh_chain(balancer: MeshBalancer) -> str:
    """Return the name of a balancer's chain, which says its content."""
    way = "source" if balancer.is_by_source else "turn"
    content = digest(way, str(balancer.target_port), *balancer.backends)
    return f"{balancer.protocol}_{balancer.published_port}_{content}"


def balancers_of(view: NetworkView, host: str = "") -> list[MeshBalancer]:
    """Return the balancer of each published port that has tasks; of services that share a port, the first by id has it.

    Hosts that balance in turn begin with different tasks; by source all of them have the same order.
    """
    found: dict[str, MeshBalancer] = {}
    for _, service in sorted(view.services.items()):
        backends = tuple(address_of(backend) for backend in service.backends)
        if backends and service.balancing == "round-robin":
            first = zlib.crc32(host.encode()) % len(backends)
            backends = (*backends[first:], *backends[:first])
        for port in service.ports if backends else ():
            balancer = MeshBalancer(
                protocol=port.protocol,
                published_port=port.published_port,
                target_port=port.target_port,
                backends=backends,
                is_by_source=service.balancing == "source-hash",
            )
            found.setdefault(balancer.key, balancer)
    return list(found.values())


def published_ports_of(view: NetworkView) -> tuple[PublishedPort, ...]:
    """Return the ports that this host shall lead to its mesh sandbox, where they have the same numbers; sorted."""
    wanted = {(port.protocol, port.published_port) for service in view.services.values() for port in service.ports}
    return tuple(PublishedPort(protocol=protocol, container_port=number, host_port=number) for protocol, number in sorted(wanted))


def ingress_view(views: Iterable[NetworkView], node_id: str) -> NetworkView | None:
    """Return the view of the ingress network on which this node has an address, if there is one."""
    own = [view for view in views if view.is_ingress and (gateway := view.gateways.get(node_id)) is not None and gateway.address]
    return min(own, key=lambda view: view.network_id, default=None)
