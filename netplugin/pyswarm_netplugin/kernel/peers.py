"""Endpoints on other hosts, as an overlay's VXLAN device and bridge know them: to be written, and read back.

A peer is two messages, three with IPv6. The first carries the flags SELF and MASTER, so that it enters the hardware address both
into the VXLAN device (with the host that carries it) and into the bridge. Its state is NOARP|REACHABLE: the bridge takes a
PERMANENT entry for an address of its own, VXLAN demands PERMANENT or REACHABLE, and NOARP keeps both from ageing. The others are
neighbours of the VXLAN device, from which it answers ARP and neighbour solicitations itself: nothing unknown leaves the host.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyswarm_netplugin import naming
from pyswarm_netplugin.kernel import links
from pyswarm_netplugin.kernel.links import NEIGHBOUR, NTF_MASTER, NTF_SELF
from pyswarm_netplugin.kernel.netlink import CREATE, REPLACE, NetlinkSocket, attribute, attributes, message
from pyswarm_netplugin.state import Peer

_NUD_REACHABLE, _NUD_NOARP, _NUD_PERMANENT = 0x02, 0x40, 0x80
_NO_ADDRESS = "?"
"""Begins what stands for a remnant's IPv4 address, which it has not."""


def peer_add(index: int, address: str, peer: Peer) -> list[bytes]:
    """Tell the VXLAN device of this index, and its bridge, where an endpoint is; and answer for it. Repeatable."""
    mac = attribute(links.NDA_LLADDR, naming.mac_of(address, peer.mac))
    forward = NEIGHBOUR.pack(socket.AF_BRIDGE, index, _NUD_NOARP | _NUD_REACHABLE, NTF_SELF | NTF_MASTER, 0)
    answer = NEIGHBOUR.pack(socket.AF_INET, index, _NUD_PERMANENT, 0, 0)
    messages = [
        message(links.RTM_NEWNEIGH, CREATE | REPLACE, forward + mac + attribute(links.NDA_DST, socket.inet_aton(peer.host))),
        message(links.RTM_NEWNEIGH, CREATE | REPLACE, answer + attribute(links.NDA_DST, socket.inet_aton(address)) + mac),
    ]
    if peer.ipv6_address:
        answer = NEIGHBOUR.pack(socket.AF_INET6, index, _NUD_PERMANENT, 0, 0)
        packed = socket.inet_pton(socket.AF_INET6, peer.ipv6_address)
        messages.append(message(links.RTM_NEWNEIGH, CREATE | REPLACE, answer + attribute(links.NDA_DST, packed) + mac))
    return messages


def peer_remove(index: int, address: str, peer: Peer) -> list[bytes]:
    """Forget an endpoint (ENOENT for each part that is not there)."""
    messages = []
    is_remnant = address.startswith(_NO_ADDRESS)
    if peer.mac or not is_remnant:
        mac = attribute(links.NDA_LLADDR, naming.mac_of(address, peer.mac))
        messages += [
            message(links.RTM_DELNEIGH, 0, NEIGHBOUR.pack(socket.AF_BRIDGE, index, 0, flag, 0) + mac)
            for flag in (NTF_MASTER, NTF_SELF)
        ]
    if not is_remnant:
        messages.append(_neighbour_remove(index, socket.AF_INET, address))
    if peer.ipv6_address:
        messages.append(_neighbour_remove(index, socket.AF_INET6, peer.ipv6_address))
    return messages


def _neighbour_remove(index: int, family: int, address: str) -> bytes:
    destination = attribute(links.NDA_DST, socket.inet_pton(family, address))
    return message(links.RTM_DELNEIGH, 0, NEIGHBOUR.pack(family, index, 0, 0, 0) + destination)


@dataclass
class _Tables:
    """What the kernel has for one device. By hardware address: the host (SELF), and whether the bridge knows it (MASTER)."""

    hosts: dict[bytes, str] = field(default_factory=dict)
    bridged: set[bytes] = field(default_factory=set)
    ipv4: dict[str, bytes] = field(default_factory=dict)
    ipv6: dict[str, bytes] = field(default_factory=dict)


def read_peers(netlink: NetlinkSocket, device: int) -> dict[str, Peer]:
    """Return the peers of a VXLAN device by IPv4 address; those of which a part is missing have no host."""
    tables = _Tables()
    _read_forwarding(netlink, device, tables)
    tables.ipv4 = _read_neighbours(netlink, device, socket.AF_INET)
    tables.ipv6 = _read_neighbours(netlink, device, socket.AF_INET6)
    return _joined(tables)


def _read_forwarding(netlink: NetlinkSocket, device: int, tables: _Tables) -> None:
    for _, body in netlink.dump(links.RTM_GETNEIGH, links.FDB_DUMP):
        _, index, _, flags, _ = NEIGHBOUR.unpack_from(body)
        if index != device:
            continue
        parts = attributes(body, NEIGHBOUR.size)
        mac = parts.get(links.NDA_LLADDR, b"")
        if flags & NTF_SELF and links.NDA_DST in parts:
            tables.hosts[mac] = socket.inet_ntoa(parts[links.NDA_DST])
        elif links.NDA_MASTER in parts and not flags & NTF_SELF and not _is_of_the_port(body):
            tables.bridged.add(mac)


def _is_of_the_port(body: bytes) -> bool:
    """Whether an entry is the port's own hardware address, which the bridge enters by itself as PERMANENT."""
    return bool(NEIGHBOUR.unpack_from(body)[2] & _NUD_PERMANENT)


def _read_neighbours(netlink: NetlinkSocket, device: int, family: int) -> dict[str, bytes]:
    found = {}
    for _, body in netlink.dump(links.RTM_GETNEIGH, NEIGHBOUR.pack(family, 0, 0, 0, 0)):
        _, index, state, _, _ = NEIGHBOUR.unpack_from(body)
        parts = attributes(body, NEIGHBOUR.size)
        if index == device and state & _NUD_PERMANENT and links.NDA_LLADDR in parts:
            found[socket.inet_ntop(family, parts[links.NDA_DST])] = parts[links.NDA_LLADDR]
    return found


def _joined(tables: _Tables) -> dict[str, Peer]:
    peers: dict[str, Peer] = {}
    twins = {mac: address for address, mac in tables.ipv6.items()}
    told = set()
    for address, mac in tables.ipv4.items():
        host = tables.hosts.get(mac, "") if mac in tables.bridged else ""
        peers[address] = Peer(host=host, mac=naming.mac_text(mac, address), ipv6_address=twins.get(mac, ""))
        told.add(mac)
    for mac in (tables.hosts.keys() | tables.bridged) - told:
        own = naming.address_of_mac(mac)
        key = own if own and own not in peers else _NO_ADDRESS + mac.hex(":")
        peers[key] = Peer(host="", mac=naming.mac_text(mac, key if key == own else ""), ipv6_address=twins.get(mac, ""))
        told.add(mac)
    lost = {address for address, mac in tables.ipv6.items() if mac not in told or twins[mac] != address}
    return peers | {_NO_ADDRESS + address: Peer(host="", ipv6_address=address) for address in lost}


def is_any_ipv6(peers: Mapping[str, Peer]) -> bool:
    """Whether a peer has an IPv6 address."""
    return any(peer.ipv6_address for peer in peers.values())
