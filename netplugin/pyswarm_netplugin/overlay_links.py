"""What a network view says of addresses and sizes on this host: the MTU, the endpoints elsewhere, a sandbox's links; pure.

An IPv6 address is the twin of an IPv4 address: the network's IPv6 subnet, ending in it (`pyswarm_common.ipv6`). Views have
thousands of endpoints, so twins are made of packed bytes here.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping

from pyswarm_common.mtu import overlay_mtu_bytes
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView
from pyswarm_netplugin.naming import address_of, is_ipv6
from pyswarm_netplugin.published_ports.records import PublishedPort
from pyswarm_netplugin.state import Egress, Link, Peer

SMALLEST_IPV6_MTU_BYTES = 1280
"""The kernel knows no IPv6 on a smaller interface; VXLAN's outer packets are then sent in fragments."""


def mtu_bytes_of(view: NetworkView, underlay_mtu_bytes: int) -> int:
    """Return the MTU of a network's tunnel and of its containers' interfaces."""
    mtu_bytes = view.mtu_bytes or overlay_mtu_bytes(underlay_mtu_bytes, is_encrypted=view.is_encrypted)
    return max(mtu_bytes, SMALLEST_IPV6_MTU_BYTES) if view.ipv6_subnet else mtu_bytes


def twins_in(subnet: str) -> Callable[[str], str]:
    """Return what makes the IPv6 address, without prefix length, of an IPv4 address without: "" when there is no subnet."""
    if not subnet:
        return lambda _: ""
    start = ipaddress.IPv6Network(subnet).network_address.packed[:12]
    return lambda address: socket.inet_ntop(socket.AF_INET6, start + socket.inet_aton(address))


def twin_with_prefix(subnet: str, address: str) -> str:
    """Return the IPv6 address, with the subnet's prefix length, of an IPv4 address (with or without); "" without a subnet."""
    return f"{twins_in(subnet)(address_of(address))}/{subnet.partition('/')[2]}" if subnet else ""


def peers_of(view: NetworkView, own_address: str) -> Mapping[str, Peer]:
    """Return every endpoint and gateway that is not on this host, by its address."""
    twin = twins_in(view.ipv6_subnet)
    peers = {}
    for endpoint in (*view.endpoints.values(), *view.gateways.values()):
        if _is_elsewhere(endpoint, own_address):
            address = address_of(endpoint.address)
            peers[address] = Peer(host=endpoint.data_path_address, mac=endpoint.mac.lower(), ipv6_address=twin(address))
    return peers


def _is_elsewhere(endpoint: Endpoint, own_address: str) -> bool:
    return bool(endpoint.address and endpoint.data_path_address) and endpoint.data_path_address != own_address


def overlay_link(attachment: NetworkAttachment, view: NetworkView, underlay_mtu_bytes: int, *, is_default: bool = False) -> Link:
    """Return a sandbox's interface on an overlay; all subnets are on the link. `is_default`: the network's gateway leads out."""
    return Link(
        network_id=attachment.network_id,
        address=attachment.address,
        gateway=address_of(view.gateway) if is_default else "",
        mtu_bytes=mtu_bytes_of(view, underlay_mtu_bytes),
        mac=attachment.mac.lower(),
        ipv6_address=twin_with_prefix(view.ipv6_subnet, attachment.address),
        ipv6_gateway=twins_in(view.ipv6_subnet)(address_of(view.gateway)) if is_default else "",
        routes=_further_routes(attachment.address, view),
    )


def _further_routes(address: str, view: NetworkView) -> tuple[str, ...]:
    if not view.further_subnets:
        return ()
    own = ipaddress.IPv4Interface(address).network
    return tuple(sorted(subnet for subnet in (view.subnet, *view.further_subnets) if ipaddress.IPv4Network(subnet) != own))


def what_links_need(view: NetworkView) -> tuple[object, ...]:
    """Return that of a view on which its sandboxes' links depend."""
    return (
        view.vni,
        view.subnet,
        view.further_subnets,
        view.gateway,
        view.ipv6_subnet,
        view.mtu_bytes,
        view.is_encrypted,
        view.internal,
    )


def egress_link(
    address: str, egress: Egress, *, is_default: bool = True, has_ipv6: bool = False, is_ipv6_default: bool = False
) -> Link:
    """Return a sandbox's interface on the host's egress bridge, which leads out if it `is_default`, or for IPv6 alone."""
    subnet = ipv6_subnet_of(egress) if has_ipv6 else ""
    return Link(
        address=address,
        gateway=address_of(egress.address) if is_default else "",
        mtu_bytes=egress.mtu_bytes,
        ipv6_address=twin_with_prefix(subnet, address),
        ipv6_gateway=address_of(egress.ipv6_address) if has_ipv6 and (is_default or is_ipv6_default) else "",
    )


def ipv6_subnet_of(egress: Egress) -> str:
    """Return the IPv6 subnet of the way out, "" without one."""
    return str(ipaddress.IPv6Interface(egress.ipv6_address).network) if egress.ipv6_address else ""


def wants_ipv6_egress(
    attachments: Iterable[NetworkAttachment], ports: Iterable[PublishedPort], views: Mapping[str, NetworkView], egress: Egress
) -> bool:
    """Whether a sandbox that has a way out gets one for IPv6: on an IPv6 network, or with a port published on an IPv6 address."""
    if not egress.ipv6_address or egress.mtu_bytes < SMALLEST_IPV6_MTU_BYTES:
        return False
    return any(is_ipv6(port.host_address) for port in ports) or any(views[a.network_id].ipv6_subnet for a in attachments)
