"""A sandbox's interfaces: one end is a port of a bridge (an overlay's, or the way out), the other is in the sandbox.

Blocking; for the thread in the host's namespace. What is read back as the link's MTU is that of the sandbox's end, so the port
changes first.
"""

import errno
import socket
from contextlib import AbstractContextManager, nullcontext

from pyswarm_netplugin import naming
from pyswarm_netplugin.kernel import ipv6, links
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.operations import AdjustLink, Connect
from pyswarm_netplugin.state import Link

_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)


def connect(namespaces: Namespaces, tag: str, operation: Connect, *, joins: bool = False) -> None:
    """Make the pair and give the sandbox's end its addresses and routes. `joins`: sandboxes hear each other on the way out."""
    link, interface, sandbox_id = operation.link, operation.interface, operation.sandbox_id
    port = _port(tag, sandbox_id, link)
    bridge = naming.OVERLAY_BRIDGE if link.network_id else naming.egress_bridge(tag)
    with namespaces.open(naming.SANDBOX_PREFIX + sandbox_id) as descriptor, _beside_bridge(namespaces, link):
        is_open = joins or sandbox_id == MESH_SANDBOX_ID  # where the host bridges what it translates, neighbours must reach it
        _add_port(port, bridge, interface, descriptor, link, joins=is_open)
    with namespaces.inside(naming.SANDBOX_PREFIX + sandbox_id):
        index = socket.if_nametoindex(interface)
        if link.ipv6_address:
            ipv6.enable(interface)
        messages = [links.link_up(interface), links.address_add(index, link.address)]
        if link.ipv6_address:
            messages.append(links.address_add(index, link.ipv6_address))
        messages += [links.link_route_add(route, index) for route in link.routes]
        defaults = [links.default_route_add(gateway, index) for gateway in (link.gateway, link.ipv6_gateway) if gateway]
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send(messages)
            netlink.send(defaults, tolerated=(errno.EEXIST,))  # the container has one of its own


def adjust(namespaces: Namespaces, tag: str, operation: AdjustLink) -> None:
    """Change MTU, routes and IPv6 addresses while packets flow."""
    before, link, sandbox_id = operation.before, operation.link, operation.sandbox_id
    if before.mtu_bytes != link.mtu_bytes:
        with _beside_bridge(namespaces, link), NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send([links.link_mtu(_port(tag, sandbox_id, link), link.mtu_bytes)])
    with namespaces.inside(naming.SANDBOX_PREFIX + sandbox_id), NetlinkSocket(NETLINK_ROUTE) as netlink:
        index = socket.if_nametoindex(operation.interface)
        netlink.send([links.link_mtu(operation.interface, link.mtu_bytes)])
        if link.ipv6_address and link.ipv6_address != before.ipv6_address:
            ipv6.enable(operation.interface)
        removals, additions = _changes(index, before, link)
        netlink.send(removals, tolerated=_GONE)
        netlink.send(additions, tolerated=(errno.EEXIST,))


def _changes(index: int, before: Link, link: Link) -> tuple[list[bytes], list[bytes]]:
    removals = [links.link_route_remove(route, index) for route in before.routes if route not in link.routes]
    additions = [links.link_route_add(route, index) for route in link.routes]
    if before.ipv6_gateway and before.ipv6_gateway != link.ipv6_gateway:
        removals.append(links.default_route_remove(before.ipv6_gateway, index))
    if before.ipv6_address and before.ipv6_address != link.ipv6_address:
        removals.append(links.address_remove(index, before.ipv6_address))
    if link.ipv6_address and link.ipv6_address != before.ipv6_address:
        additions.append(links.address_add(index, link.ipv6_address))
    if link.ipv6_gateway and link.ipv6_gateway != before.ipv6_gateway:
        additions.append(links.default_route_add(link.ipv6_gateway, index))
    return removals, additions


def _port(tag: str, sandbox_id: str, link: Link) -> str:
    return naming.overlay_port(sandbox_id, link.network_id) if link.network_id else naming.egress_port(tag, sandbox_id)


def _beside_bridge(namespaces: Namespaces, link: Link) -> AbstractContextManager[None]:
    return namespaces.inside(naming.OVERLAY_PREFIX + link.network_id) if link.network_id else nullcontext()


def _add_port(port: str, bridge: str, interface: str, sandbox: int, link: Link, *, joins: bool) -> None:
    mac = naming.mac_of(naming.address_of(link.address), link.mac)
    add = links.veth_add(port, socket.if_nametoindex(bridge), interface, sandbox, mac, link.mtu_bytes)
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            netlink.send([add])
        except FileExistsError:
            netlink.send([links.link_remove(port)], tolerated=_GONE)
            netlink.send([add])
        is_isolated = not link.network_id and not joins
        static = links.port_static(port, is_isolated=is_isolated, is_hairpin=joins)
        netlink.send([static, links.port_address_add(socket.if_nametoindex(port), mac)])
