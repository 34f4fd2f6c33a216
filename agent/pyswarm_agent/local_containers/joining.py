"""From a container's networks of this node to its sandbox: addresses, interfaces, the default route; pure."""

from collections.abc import Iterable, Mapping

import msgspec

from pyswarm_agent.container_config import SHORT_ID_LENGTH
from pyswarm_agent.local_containers.records import BRIDGE, Joined, LocalContainer, PlacedNetwork
from pyswarm_agent.node_networks.records import NodeNetwork
from pyswarm_agent.node_networks.specification import give_address, take_address
from pyswarm_agent.resolver_config import search_domains
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView
from pyswarm_netplugin.desired import SandboxRecord
from pyswarm_netplugin.driver import SandboxRequest
from pyswarm_netplugin.host_bridges.bridges import HostBridge
from pyswarm_netplugin.naming import address_of, mac_of
from pyswarm_netplugin.placement import WAY_OUT, Placement, interface_names
from pyswarm_netplugin.published_ports.records import PortForward, PortRequest

SMALLEST_OVERLAY_MTU_BYTES = 1450
Resolved = tuple[Joined, NodeNetwork | None]
"""A container's network; None for the default bridge."""


def sandbox_request(
    container: LocalContainer,
    hostname: str,
    joins: list[Resolved],
    used: Mapping[str, Iterable[str]],
    known: SandboxRecord | None,
    acquired: Mapping[str, NetworkAttachment] | None = None,
) -> SandboxRequest:
    """Return what to ask of the driver. `used`: addresses by network, the container's own not among them; `known`: what it has.

    `acquired`: its places on networks of the cluster, by network.

    Raises FailedPrecondition, InvalidArgument: an address is not to be had.
    """
    had = {attachment.network_id: attachment for attachment in known.attachments} if known is not None else {}
    given = acquired or {}
    attachments = tuple(
        given.get(network.id) or had.get(network.id) or _attachment(join, network, used.get(network.id, ()))
        for join, network in joins
        if network is not None
    )
    is_on_bridge = any(network is None for _, network in joins)
    ids = [network.id if network is not None else WAY_OUT for _, network in joins]
    names = interface_names(ids, _interfaces_of(known) if known is not None else {})
    outward = [(join, network) for join, network in joins if network is None or not network.is_internal]
    first = min(outward, key=lambda one: (-one[0].priority, one[0].name), default=None)
    return SandboxRequest(
        id=container.id,
        hostname=hostname,
        attachments=attachments,
        is_closed=not is_on_bridge,
        ports=_port_requests(container, first[1]) if first is not None else (),
        search=search_domains(container.dns),
        nameservers=tuple(container.dns.nameservers or ()),
        placement=Placement(
            interfaces=dict(zip(ids, names, strict=True)),
            default_network=first[1].id if first is not None and first[1] is not None else WAY_OUT,
            has_way_out=is_on_bridge,
        ),
    )


def placed(record: SandboxRecord, networks: Mapping[str, NodeNetwork]) -> tuple[PlacedNetwork, ...]:
    """Return a sandbox's places on the networks of this node."""
    return tuple(
        PlacedNetwork(
            id=network.id,
            name=network.name,
            address=attachment.address,
            gateway="" if network.is_internal else network.gateway,
            mac=attachment.mac or ":".join(f"{byte:02x}" for byte in mac_of(address_of(attachment.address))),
        )
        for attachment in record.attachments
        if (network := networks.get(attachment.network_id)) is not None
    )


def network_view(network: NodeNetwork, endpoints: Mapping[str, Endpoint]) -> NetworkView:
    """Return a network of this node as the driver takes it: an overlay without a tunnel."""
    prefix = network.subnet.partition("/")[2]
    return NetworkView(
        network_id=network.id,
        name=network.name,
        version=1,
        vni=0,
        subnet=network.subnet,
        gateway=f"{network.gateway}/{prefix}",
        internal=network.is_internal,
        mtu_bytes=network.mtu_bytes,
        endpoints=dict(endpoints),
    )


def borrowed_view(view: NetworkView) -> NetworkView:
    """Return a network of the cluster as a driver takes it that reaches its endpoints over a trunk."""
    endpoints = {id_: msgspec.structs.replace(one, data_path_address="") for id_, one in view.endpoints.items()}
    mtu_bytes = view.mtu_bytes or SMALLEST_OVERLAY_MTU_BYTES
    return msgspec.structs.replace(
        view, vni=0, is_encrypted=False, gateways={}, node_keys={}, endpoints=endpoints, mtu_bytes=mtu_bytes
    )


def borrowed_network(view: NetworkView) -> NodeNetwork:
    """Return a network of the cluster as one of this node, by which nothing leads out."""
    gateway = address_of(view.gateway)
    return NodeNetwork(id=view.network_id, name=view.name, subnet=view.subnet, gateway=gateway, is_internal=True)


def endpoint(container: LocalContainer, join: Joined, attachment: NetworkAttachment) -> Endpoint:
    """Return the names that lead to a container on one network."""
    aliases = tuple(dict.fromkeys((*join.aliases, container.id[:SHORT_ID_LENGTH])))
    return Endpoint(address=attachment.address, data_path_address="", name=container.name, aliases=aliases, mac=attachment.mac)


def host_bridges(networks: Iterable[NodeNetwork], records: Iterable[SandboxRecord]) -> tuple[HostBridge, ...]:
    """Return the host's ends of all networks, with the ports that lead to containers whose way out they are."""
    forwards: dict[str, list[PortForward]] = {}
    for record in records:
        way_out = record.placement.default_network
        address = next((a.address for a in record.attachments if a.network_id == way_out), "")
        if address and not record.egress_address:
            forwards.setdefault(way_out, []).extend(PortForward(port=p, address=address_of(address)) for p in record.ports)
    return tuple(
        HostBridge(
            network_id=network.id,
            interface=network.interface,
            address=f"{network.gateway}/{network.subnet.partition('/')[2]}",
            mtu_bytes=network.mtu_bytes,
            is_internal=network.is_internal,
            masquerades=network.masquerades,
            forwards=tuple(forwards.get(network.id, ())),
        )
        for network in networks
    )


def is_default_bridge(join: Joined) -> bool:
    """Whether this is the network that every node has."""
    return join.network == BRIDGE and not join.network_id


def _attachment(join: Joined, network: NodeNetwork, used: Iterable[str]) -> NetworkAttachment:
    address = take_address(network, join.address, used) if join.address else give_address(network, used)
    return NetworkAttachment(network_id=network.id, address=address, mac=join.mac)


def _interfaces_of(known: SandboxRecord) -> dict[str, str]:
    ids = [attachment.network_id for attachment in known.attachments] + ([WAY_OUT] if known.egress_address else [])
    return dict(zip(ids, interface_names(ids, known.placement.interfaces), strict=True))


def _port_requests(container: LocalContainer, network: NodeNetwork | None) -> tuple[PortRequest, ...]:
    binding = network.host_binding if network is not None else ""
    return tuple(
        request if request.host_address else msgspec.structs.replace(request, host_address=binding)
        for request in container.port_requests
    )
