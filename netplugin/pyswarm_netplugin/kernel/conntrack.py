"""Forgets UDP flows whose destination was translated to a backend that is not one any more.

A new verdict counts for new connections only, and a UDP client that never pauses keeps its flow alive for ever. TCP notices by
itself. Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import socket
import struct
from collections.abc import Collection, Iterable, Mapping

from pyswarm_netplugin.kernel.netlink import NetlinkSocket, attribute, attributes, message

_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_HEADER = struct.pack("!BBH", socket.AF_INET, 0, 0)
_ORIGINAL, _REPLY, _ID = 1, 2, 12
_NESTED = 0x8000
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
    keep = {socket.inet_aton(address): {socket.inet_aton(b) for b in backends} for address, backends in kept.items()}
    doomed = [removal for _, body in netlink.dump(_GET, _HEADER) if (removal := _removal(body, keep))]
    netlink.send(doomed, tolerated=(_ENOENT,))
    return len(doomed)


def forget_udp_to_ports(netlink: NetlinkSocket, ports: Collection[int]) -> int:
    """Forget the UDP flows that were sent to one of these ports, whatever became of them; return how many."""
    if not ports or not _has_flows(netlink):
        return 0
    doomed = []
    for _, body in netlink.dump(_GET, _HEADER):
        flow = attributes(body, 4)
        transport = attributes(attributes(flow[_ORIGINAL])[2])
        if transport[1][0] == _UDP and int.from_bytes(transport[_DESTINATION_PORT], "big") in ports:
            doomed.append(_deletion(flow))
    netlink.send(doomed, tolerated=(_ENOENT,))
    return len(doomed)


def _has_flows(netlink: NetlinkSocket) -> bool:
    body = netlink.ask(message(_GET_STATISTICS, 0, _HEADER))
    return attributes(body, 4).get(_STATISTICS_ENTRIES, b"?") != b"\0\0\0\0"


def _removal(body: bytes, keep: Mapping[bytes, set[bytes]]) -> bytes | None:
    flow = attributes(body, 4)
    original, reply = attributes(flow[_ORIGINAL]), attributes(flow[_REPLY])
    if attributes(original[2])[1][0] != _UDP:
        return None
    backends = keep.get(attributes(original[1])[2])
    if backends is None or attributes(reply[1])[1] in backends:
        return None
    return _deletion(flow)


def _deletion(flow: Mapping[int, bytes]) -> bytes:
    return message(_DELETE, 0, _HEADER + attribute(_ORIGINAL | _NESTED, flow[_ORIGINAL]) + attribute(_ID, flow[_ID]))
