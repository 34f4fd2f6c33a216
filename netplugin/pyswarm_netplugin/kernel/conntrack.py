"""Forgets UDP flows whose destination was translated to a backend that is not one any more.

A new verdict counts for new connections only, and a UDP client that never pauses keeps its flow alive for ever. TCP notices by
itself. Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import socket
import struct
from collections.abc import Collection, Iterable, Mapping

from pyswarm_netplugin.kernel.netlink import NESTED, NetlinkSocket, attribute, attributes, message
from pyswarm_netplugin.naming import is_ipv6

_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_HEADER = struct.pack("!BBH", socket.AF_INET, 0, 0)
_SOURCE: dict[int, int] = {socket.AF_INET: 1, socket.AF_INET6: 3}
_DESTINATION: dict[int, int] = {socket.AF_INET: 2, socket.AF_INET6: 4}
_ORIGINAL, _REPLY, _ID = 1, 2, 12
_DESTINATION_PORT = 3
_UDP = 17
_ENOENT = 2
_GET_STATISTICS, _STATISTICS_ENTRIES = (1 << 8) | 5, 1


def forget_udp(netlink: NetlinkSocket, kept: Mapping[str, Iterable[str]]) -> int:
    """Forget the UDP flows to the addresses in `kept`, but those to one of an address's backends; return how many.

    The flows are those of the netfilter socket's namespace. Reading them is a walk over all namespaces' flows, so it is left out
    where there is none.
    """
    if not kept or not _has_flows(netlink):
        return 0
    doomed = []
    for family in (socket.AF_INET, socket.AF_INET6):
        addresses = [address for address in kept if is_ipv6(address) == (family == socket.AF_INET6)]
        keep = {socket.inet_pton(family, a): {socket.inet_pton(family, backend) for backend in kept[a]} for a in addresses}
        flows = netlink.dump(_GET, _header(family)) if keep else []
        doomed += [removal for _, body in flows if (removal := _removal(body, keep, family))]
    netlink.send(doomed, tolerated=(_ENOENT,))
    return len(doomed)


def _header(family: int) -> bytes:
    return struct.pack("!BBH", family, 0, 0)


def forget_udp_to_ports(netlink: NetlinkSocket, ports: Collection[int]) -> int:
    """Forget the UDP flows that were sent to one of these ports, whatever became of them; return how many."""
    if not ports or not _has_flows(netlink):
        return 0
    doomed = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for _, body in netlink.dump(_GET, _header(family)):
            flow = attributes(body, 4)
            transport = attributes(attributes(flow[_ORIGINAL])[2])
            if transport[1][0] == _UDP and int.from_bytes(transport[_DESTINATION_PORT], "big") in ports:
                doomed.append(_deletion(flow, family))
    netlink.send(doomed, tolerated=(_ENOENT,))
    return len(doomed)


def forget_udp_of_ports(netlink: NetlinkSocket, kept: Mapping[int, Iterable[str]]) -> int:
    """Forget the UDP flows that were sent to the ports in `kept`, but those to one of a port's backends; return how many."""
    if not kept or not _has_flows(netlink):
        return 0
    keep = {port: {socket.inet_aton(b) for b in backends} for port, backends in kept.items()}
    doomed = []
    for _, body in netlink.dump(_GET, _HEADER):
        flow = attributes(body, 4)
        transport = attributes(attributes(flow[_ORIGINAL])[2])
        backends = keep.get(int.from_bytes(transport[_DESTINATION_PORT], "big")) if transport[1][0] == _UDP else None
        if backends is not None and attributes(attributes(flow[_REPLY])[1])[1] not in backends:
            doomed.append(_deletion(flow))
    netlink.send(doomed, tolerated=(_ENOENT,))
    return len(doomed)


def _has_flows(netlink: NetlinkSocket) -> bool:
    body = netlink.ask(message(_GET_STATISTICS, 0, _HEADER))
    return attributes(body, 4).get(_STATISTICS_ENTRIES, b"?") != b"\0\0\0\0"


def _removal(body: bytes, keep: Mapping[bytes, set[bytes]], family: int) -> bytes | None:
    flow = attributes(body, 4)
    original, reply = attributes(flow[_ORIGINAL]), attributes(flow[_REPLY])
    if attributes(original[2])[1][0] != _UDP:
        return None
    backends = keep.get(attributes(original[1]).get(_DESTINATION[family], b""))
    if backends is None or attributes(reply[1])[_SOURCE[family]] in backends:
        return None
    return _deletion(flow, family)


def _deletion(flow: Mapping[int, bytes], family: int = socket.AF_INET) -> bytes:
    return message(_DELETE, 0, _header(family) + attribute(_ORIGINAL | NESTED, flow[_ORIGINAL]) + attribute(_ID, flow[_ID]))
