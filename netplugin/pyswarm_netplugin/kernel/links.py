"""The messages for links, addresses, routes and bridge ports, packed; and their numbers.

Only bytes are made here, nothing is sent. Sources: linux/if_link.h, linux/neighbour.h, linux/rtnetlink.h. Worth knowing:

* A veth pair is one message: this end goes to a bridge here, the other to the namespace of a descriptor. The latter must be set
  up there: before the pair is tied together, the kernel answers ENOTCONN.
"""

import socket
import struct

from pyswarm_netplugin.kernel.netlink import CREATE, EXCLUSIVE, REPLACE, attribute, message, nested, text, u8, u32
from pyswarm_netplugin.naming import is_ipv6
from pyswarm_netplugin.state import Tunnel

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_GROUP, IFLA_NET_NS_FD = 18, 27, 28
INFO_KIND, INFO_DATA, INFO_SLAVE_KIND, INFO_SLAVE_DATA = 1, 2, 4, 5
VXLAN_ID, VXLAN_LOCAL, VXLAN_LEARNING, VXLAN_PROXY, VXLAN_PORT = 1, 4, 7, 11, 15
_VETH_PEER = 1
_PORT_HAIRPIN, _PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_ISOLATED = 4, 8, 9, 33

NDA_DST, NDA_LLADDR, NDA_MASTER = 1, 2, 9
NTF_SELF, NTF_MASTER = 2, 4
_NUD_NOARP = 0x40

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
_NO_DUPLICATE_TEST = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
MAIN_TABLE = 254
_LOCAL_TABLE, _LOCAL, _RTA_PRIORITY = 255, 2, 6
_AFTER_LOOPBACK = 2048
"""The metric of a route that comes after the loopback's own."""
_ANY, _UNIVERSE, _LINK_SCOPE, _UNICAST = 0, 0, 253, 1
LINK_ROUTE_PROTOCOL = 112
"""Says who made a route: tells ours from those that a container makes itself."""

SANDBOX_LINK_GROUP = 0x7073
"""The link group of the interfaces that we put into a sandbox, which tells them from those that a container makes itself."""

_IFF_UP = 1
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
NEIGHBOUR = struct.Struct("=BxxxiHBB")
LINK_DUMP = _LINK.pack(0, 0, 0, 0, 0)
ADDRESS_DUMP: dict[int, bytes] = {family: _ADDRESS.pack(family, 0, 0, 0, 0) for family in (socket.AF_INET, socket.AF_INET6)}
ROUTE_DUMP: dict[int, bytes] = {family: _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) for family in (socket.AF_INET, socket.AF_INET6)}
FDB_DUMP = NEIGHBOUR.pack(socket.AF_BRIDGE, 0, 0, 0, 0)


def link_up(name: str) -> bytes:
    """Set an interface up."""
    return message(RTM_NEWLINK, 0, _LINK.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(IFLA_IFNAME, name))


def link_remove(name: str) -> bytes:
    """Remove an interface (ENODEV when there is none)."""
    return message(RTM_DELLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name))


def bridge_add(name: str, mtu_bytes: int, mac: bytes | None = None) -> bytes:
    """Make a bridge, up (EEXIST when there is one)."""
    body = _LINK.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(IFLA_IFNAME, name) + u32(IFLA_MTU, mtu_bytes)
    if mac is not None:
        body += attribute(IFLA_ADDRESS, mac)
    return message(RTM_NEWLINK, CREATE | EXCLUSIVE, body + nested(IFLA_LINKINFO, text(INFO_KIND, "bridge")))


def link_mtu(name: str, mtu_bytes: int) -> bytes:
    """Set an interface's MTU."""
    return message(RTM_NEWLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name) + u32(IFLA_MTU, mtu_bytes))


def vxlan_add(name: str, tunnel: Tunnel, namespace: int) -> bytes:
    """Make a VXLAN device in the namespace of the descriptor; its packets travel in that of the socket which sends this."""
    data = nested(
        INFO_DATA,
        u32(VXLAN_ID, tunnel.vni),
        attribute(VXLAN_LOCAL, socket.inet_aton(tunnel.local_address)),
        u8(VXLAN_LEARNING, 0),
        u8(VXLAN_PROXY, 1),
        attribute(VXLAN_PORT, struct.pack("!H", tunnel.port)),
    )
    body = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(IFLA_IFNAME, name)
        + u32(IFLA_MTU, tunnel.mtu_bytes)
        + u32(IFLA_NET_NS_FD, namespace)
        + nested(IFLA_LINKINFO, text(INFO_KIND, "vxlan"), data)
    )
    return message(RTM_NEWLINK, CREATE | EXCLUSIVE, body)


def master_set(name: str, master: int) -> bytes:
    """Make an interface a port of the bridge with this index, and set it up."""
    body = _LINK.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(IFLA_IFNAME, name) + u32(IFLA_MASTER, master)
    return message(RTM_NEWLINK, 0, body)


def port_static(name: str, *, is_isolated: bool = False, is_hairpin: bool = False) -> bytes:
    """Tell a bridge's port to learn nothing and to get no packet for an unknown address.

    Isolated ports do not hear each other; a hairpin port may get back what came from it, as when a container asks for its own
    published port.
    """
    settings = [u8(_PORT_HAIRPIN, int(is_hairpin)), u8(_PORT_LEARNING, 0), u8(_PORT_UNICAST_FLOOD, 0)]
    data = nested(INFO_SLAVE_DATA, *settings, u8(_PORT_ISOLATED, int(is_isolated)))
    info = nested(IFLA_LINKINFO, text(INFO_SLAVE_KIND, "bridge"), data)
    return message(RTM_NEWLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name) + info)


def veth_add(name: str, master: int, peer: str, peer_namespace: int, peer_mac: bytes, mtu_bytes: int) -> bytes:
    """Make a veth pair: `name` here, a port of the bridge, up; `peer` in the sandbox's namespace, to be set up there."""
    peer_body = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(IFLA_IFNAME, peer)
        + attribute(IFLA_ADDRESS, peer_mac)
        + u32(IFLA_MTU, mtu_bytes)
        + u32(IFLA_GROUP, SANDBOX_LINK_GROUP)
        + u32(IFLA_NET_NS_FD, peer_namespace)
    )
    info = nested(IFLA_LINKINFO, text(INFO_KIND, "veth"), nested(INFO_DATA, attribute(_VETH_PEER, peer_body)))
    body = (
        _LINK.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(IFLA_IFNAME, name) + u32(IFLA_MTU, mtu_bytes) + u32(IFLA_MASTER, master) + info
    )
    return message(RTM_NEWLINK, CREATE | EXCLUSIVE, body)


def _split(address: str) -> tuple[int, bytes, int]:
    plain, _, prefix = address.partition("/")
    family = socket.AF_INET6 if is_ipv6(plain) else socket.AF_INET
    packed = socket.inet_pton(family, plain)
    return family, packed, int(prefix or 8 * len(packed))


def address_add(index: int, address: str) -> bytes:
    """Give an interface an address with prefix length (EEXIST when it has it). One of IPv6 is not tested for duplicates."""
    family, packed, prefix = _split(address)
    flags = _NO_DUPLICATE_TEST if family == socket.AF_INET6 else 0
    body = _ADDRESS.pack(family, prefix, flags, 0, index)
    return message(RTM_NEWADDR, CREATE | EXCLUSIVE, body + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed))


def address_remove(index: int, address: str) -> bytes:
    """Take an address with prefix length from an interface (EADDRNOTAVAIL when it has it not)."""
    family, packed, prefix = _split(address)
    return message(RTM_DELADDR, 0, _ADDRESS.pack(family, prefix, 0, 0, index) + attribute(IFA_LOCAL, packed))


def default_route_add(gateway: str, index: int) -> bytes:
    """Send what has no other route to the gateway (EEXIST when it goes elsewhere already)."""
    return message(RTM_NEWROUTE, CREATE | EXCLUSIVE, _default_route(gateway, index, LINK_ROUTE_PROTOCOL))


def default_route_remove(gateway: str, index: int) -> bytes:
    """Send what has no other route nowhere (ESRCH when it does not go to the gateway)."""
    return message(RTM_DELROUTE, 0, _default_route(gateway, index, _ANY))


def _default_route(gateway: str, index: int, protocol: int) -> bytes:
    family, packed, _ = _split(gateway)
    body = _ROUTE.pack(family, 0, 0, 0, MAIN_TABLE, protocol, _UNIVERSE, _UNICAST, 0)
    return body + attribute(RTA_GATEWAY, packed) + u32(RTA_OIF, index)


def link_route_add(subnet: str, index: int) -> bytes:
    """Look for the addresses of a subnet on this link."""
    return message(RTM_NEWROUTE, CREATE | REPLACE, _link_route(subnet, index))


def link_route_remove(subnet: str, index: int) -> bytes:
    """Look for the addresses of a subnet on this link no more (ESRCH when it was not so)."""
    return message(RTM_DELROUTE, 0, _link_route(subnet, index))


def _link_route(subnet: str, index: int) -> bytes:
    family, packed, prefix = _split(subnet)
    body = _ROUTE.pack(family, prefix, 0, 0, MAIN_TABLE, LINK_ROUTE_PROTOCOL, _LINK_SCOPE, _UNICAST, 0)
    return body + attribute(RTA_DST, packed) + u32(RTA_OIF, index)


def loopback_route_add(index: int) -> bytes:
    """Take packets for ::1 that come by this link, as answers do to what this host sent there from ::1."""
    return message(RTM_NEWROUTE, CREATE | REPLACE, _loopback_route(index))


def loopback_route_remove(index: int) -> bytes:
    """Undo `loopback_route_add` (ESRCH when it was not so)."""
    return message(RTM_DELROUTE, 0, _loopback_route(index))


def _loopback_route(index: int) -> bytes:
    family, packed, prefix = _split("::1/128")
    body = _ROUTE.pack(family, prefix, 0, 0, _LOCAL_TABLE, LINK_ROUTE_PROTOCOL, _UNIVERSE, _LOCAL, 0)
    return body + attribute(RTA_DST, packed) + u32(RTA_OIF, index) + u32(_RTA_PRIORITY, _AFTER_LOOPBACK)


def port_address_add(index: int, mac: bytes) -> bytes:
    """Tell the bridge of a port which hardware address is behind it."""
    body = NEIGHBOUR.pack(socket.AF_BRIDGE, index, _NUD_NOARP, NTF_MASTER, 0) + attribute(NDA_LLADDR, mac)
    return message(RTM_NEWNEIGH, CREATE | REPLACE, body)
