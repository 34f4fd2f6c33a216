"""The messages for the secure namespace's own links and routes, packed, and what tells where an interface sends."""

import socket
import struct

from pyswarm_netplugin.kernel.links import (
    IFLA_IFNAME,
    IFLA_NET_NS_FD,
    MAIN_TABLE,
    RTA_OIF,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from pyswarm_netplugin.kernel.netlink import CREATE, REPLACE, NetlinkSocket, attribute, attributes, message, text, u32

_LINK = struct.Struct("=BxHiII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_BOOT, _LINK_SCOPE, _UNICAST = 3, 253, 1
_GET_NUMBER = 90
_NAMESPACE_NUMBER, _NAMESPACE_DESCRIPTOR = 1, 3
_LINK_NAMESPACE = 37
_UNKNOWN = struct.pack("=i", -1)


def link_move(index: int, name: str, namespace: int) -> bytes:
    """Move an interface to the namespace of the descriptor, under a new name."""
    body = _LINK.pack(0, 0, index, 0, 0) + text(IFLA_IFNAME, name) + u32(IFLA_NET_NS_FD, namespace)
    return message(RTM_NEWLINK, 0, body)


def only_route_add(index: int) -> bytes:
    """Send everything over one interface, which knows where to."""
    body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, MAIN_TABLE, _BOOT, _LINK_SCOPE, _UNICAST, 0)
    return message(RTM_NEWROUTE, CREATE | REPLACE, body + u32(RTA_OIF, index))


def sends_in(netlink: NetlinkSocket, name: str, descriptor: int) -> bool:
    """Whether an interface of the socket's namespace sends its packets in the namespace of the descriptor. Raises OSError."""
    request = message(_GET_NUMBER, 0, struct.pack("=Bxxx", 0) + attribute(_NAMESPACE_DESCRIPTOR, struct.pack("=I", descriptor)))
    number = attributes(netlink.ask(request), 4).get(_NAMESPACE_NUMBER, _UNKNOWN)
    link = netlink.ask(message(RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name)))
    return number != _UNKNOWN and attributes(link, 16).get(_LINK_NAMESPACE) == number
