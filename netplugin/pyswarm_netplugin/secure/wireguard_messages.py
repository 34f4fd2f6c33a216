"""The messages for the kernel's WireGuard, packed, and what it answers, read. Only bytes here. Source: linux/wireguard.h.

An interface is made by one rtnetlink message with the namespace that it shall live in; its UDP socket belongs to the namespace
of the netlink socket which sends that message.
"""

import base64
import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping

from pyswarm_netplugin.kernel.links import (
    IFLA_IFNAME,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    INFO_KIND,
    RTM_NEWLINK,
)
from pyswarm_netplugin.kernel.netlink import (
    CREATE,
    EXCLUSIVE,
    attribute,
    attribute_list,
    attributes,
    message,
    nested,
    text,
    u8,
    u32,
)
from pyswarm_netplugin.secure.generic_netlink import HEADER_BYTES, header
from pyswarm_netplugin.secure.records import NO_KEY, SecurePeer, preshared_mark

GET_DEVICE, SET_DEVICE, VERSION = 0, 1, 1
_IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _LISTEN_PORT, _PEERS = 2, 3, 4, 6, 8
_PEER_KEY, _PEER_PRESHARED, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_ALLOWED = 1, 2, 3, 4, 9
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_MASK = 1, 2, 3
_REMOVE_PEER, _REPLACE_ALLOWED = 1, 2
_LINK = struct.Struct("=BxHiII")


def interface_add(name: str, mtu_bytes: int, namespace: int) -> bytes:
    """Make an interface in the namespace of the descriptor, down."""
    body = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(IFLA_IFNAME, name)
        + u32(IFLA_MTU, mtu_bytes)
        + u32(IFLA_NET_NS_FD, namespace)
        + nested(IFLA_LINKINFO, text(INFO_KIND, "wireguard"))
    )
    return message(RTM_NEWLINK, CREATE | EXCLUSIVE, body)


def device_set(family: int, name: str, private_key: str, port: int) -> bytes:
    """Give an interface its key and port."""
    body = text(_IFNAME, name) + attribute(_PRIVATE_KEY, _raw(private_key)) + attribute(_LISTEN_PORT, struct.pack("=H", port))
    return message(family, 0, header(SET_DEVICE, VERSION) + body)


def peer_messages(family: int, name: str, add: Mapping[str, SecurePeer], remove: Iterable[str], preshared_key: str) -> list[bytes]:
    """Forget these public keys, then set these peers by address; one message each. What exists keeps its sessions."""
    peers = [nested(0, attribute(_PEER_KEY, _raw(key)) + u32(_PEER_FLAGS, _REMOVE_PEER)) for key in remove]
    for address, peer in add.items():
        packed = socket.inet_aton(address)
        endpoint = struct.pack("=H", socket.AF_INET) + struct.pack("!H", peer.port) + packed + bytes(8)
        allowed = nested(
            0,
            attribute(_ALLOWED_FAMILY, struct.pack("=H", socket.AF_INET)),
            attribute(_ALLOWED_ADDRESS, packed),
            u8(_ALLOWED_MASK, 32),
        )
        peers.append(
            nested(
                0,
                attribute(_PEER_KEY, _raw(peer.public_key)),
                attribute(_PEER_PRESHARED, _raw(preshared_key or NO_KEY)),
                u32(_PEER_FLAGS, _REPLACE_ALLOWED),
                attribute(_PEER_ENDPOINT, endpoint),
                nested(_PEER_ALLOWED, allowed),
            )
        )
    return [message(family, 0, header(SET_DEVICE, VERSION) + text(_IFNAME, name) + nested(_PEERS, peer)) for peer in peers]


def device_request(name: str) -> bytes:
    """Return the body of a dump request for an interface."""
    return header(GET_DEVICE, VERSION) + text(_IFNAME, name)


def read_device(bodies: Iterable[bytes]) -> tuple[str, int, dict[str, SecurePeer]]:
    """Return public key ("" for none), port and peers by address; a peer without one address is under its key."""
    public_key, port = "", 0
    peers: dict[str, SecurePeer] = {}
    for body in bodies:
        parts = attributes(body, HEADER_BYTES)
        if _PUBLIC_KEY in parts:
            public_key = _text(parts[_PUBLIC_KEY])
        if _LISTEN_PORT in parts:
            (port,) = struct.unpack("=H", parts[_LISTEN_PORT])
        for _, value in attribute_list(parts.get(_PEERS, b"")):
            address, peer = _read_peer(value)
            peers[address] = peer
    return public_key, port, peers


def _read_peer(value: bytes) -> tuple[str, SecurePeer]:
    parts = attributes(value)
    endpoint = parts.get(_PEER_ENDPOINT, b"")
    peer = SecurePeer(
        public_key=_text(parts[_PEER_KEY]),
        port=struct.unpack_from("!H", endpoint, 2)[0] if len(endpoint) >= 4 else 0,
        preshared_mark=preshared_mark(_text(parts.get(_PEER_PRESHARED, b""))),
    )
    allowed = [attributes(item) for _, item in attribute_list(parts.get(_PEER_ALLOWED, b""))]
    if len(allowed) != 1 or allowed[0][_ALLOWED_MASK][0] != 32:
        return peer.public_key, peer
    return str(ipaddress.ip_address(allowed[0][_ALLOWED_ADDRESS])), peer


def _raw(key: str) -> bytes:
    return base64.b64decode(key)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
