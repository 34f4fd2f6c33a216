"""nf_tables maps of any type, and the expressions on connections that the routing mesh needs; packed like those of `nftables`."""

import struct
from collections.abc import Sequence

from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.kernel.netlink import CREATE, attribute, attribute_list, attributes, be32, message, nested, string, text, u8

_SUBSYSTEM = 10 << 8
_NEWSET, _NEWSETELEM, _DELSETELEM = 9, 12, 14
_MAP = 8
_GOTO = -4 & 0xFFFFFFFF
_LINK_HEADER, _NETWORK_HEADER, _TRANSPORT_HEADER = 0, 1, 2
_CT_DIRECTION, _CT_MARK, _CT_ZONE = 1, 3, 17
_META_MARK, _META_PROTOCOL = 3, 16
_ORIGINAL = 0
_TCP_FLAGS, _SYN, _RST = 13, 2, 4
_RT_SEGMENT_SIZE, _TO_NETWORK, _TCP_OPTION, _SEGMENT_SIZE_OPTION = 3, 1, 1, 2
_SOURCE = {nft.IPV4: (12, 4), nft.IPV6: (8, 16)}

INPUT = 1
"""The hook, beside those in `nftables`."""
ETHER_ADDRESS, MARK = 9, 19
PROTOCOL_AND_PORT = 12 << 6 | 13
VERDICT = 0xFFFFFF00
"""Types of keys and values, which tell `nft list` how to print them."""
_HOST_ENDIAN_VALUE = struct.pack("=BBI", 1, 4, 1)
"""The same, of a value's byte order."""


def _body(family: int, *parts: bytes) -> bytes:
    return struct.pack("!BBH", family, 0, 0) + b"".join(parts)


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *parts))


def _compare(data: bytes, *, is_not: bool = False) -> bytes:
    return _expression("cmp", be32(1, 1), be32(2, int(is_not)), nested(3, attribute(1, data)))


def map_add(table: str, name: str, set_id: int, key: tuple[int, int], value: tuple[int, int], *, family: int = nft.IPV4) -> bytes:
    """Make a map; `key` and `value` are types with their lengths in bytes. `set_id` tells the sets of one transaction apart."""
    types = [be32(4, key[0]), be32(5, key[1]), be32(6, value[0])]
    if value[1]:
        types += [be32(7, value[1]), attribute(13, _HOST_ENDIAN_VALUE)]
    head = _body(family, text(1, table), text(2, name), be32(3, _MAP), *types, be32(10, set_id))
    return message(_SUBSYSTEM | _NEWSET, CREATE, head)


def chain_value(chain: str) -> bytes:
    """Return the value that leads to a chain."""
    return nested(2, nested(2, be32(1, _GOTO), text(2, chain)))


def plain_value(data: bytes) -> bytes:
    """Return the value of a map that is no verdict."""
    return nested(2, attribute(1, data))


def elements_put(table: str, map_: str, elements: Sequence[tuple[bytes, bytes]], *, family: int = nft.IPV4) -> bytes:
    """Put keys with their values (`chain_value`, `plain_value`) into a map."""
    packed = [nested(1, nested(1, attribute(1, key)), value) for key, value in elements]
    return message(_SUBSYSTEM | _NEWSETELEM, CREATE, _body(family, text(1, table), text(2, map_), nested(3, *packed)))


def elements_drop(table: str, map_: str, keys: Sequence[bytes], *, family: int = nft.IPV4) -> bytes:
    """Take keys out of a map (ENOENT when one is not in it)."""
    packed = [nested(1, nested(1, attribute(1, key))) for key in keys]
    return message(_SUBSYSTEM | _DELSETELEM, 0, _body(family, text(1, table), text(2, map_), nested(3, *packed)))


def read_elements(body: bytes) -> list[tuple[bytes, bytes, str]]:
    """Return key, plain value and chain ("" when it is no verdict) of each element in a message (`nftables.GET_ELEMENTS`)."""
    found = []
    for _, element in attribute_list(attributes(body, 4).get(3, b"")):
        parts = attributes(element)
        value = attributes(parts[2])
        chain = string(attributes(value[2])[2]) if 2 in value else ""
        found.append((attributes(parts[1])[1], value.get(1, b""), chain))
    return found


def protocol_and_port(protocol: int, port: int) -> bytes:
    """Return the key of a map by protocol and port."""
    return struct.pack("!BxxxHxx", protocol, port)


def lookup_port(map_: str) -> bytes:
    """Go on where the map leads the packet's protocol and destination port."""
    protocol = _expression("meta", be32(1, 1), be32(2, _META_PROTOCOL))
    port = _expression("payload", be32(1, 9), be32(2, _TRANSPORT_HEADER), be32(3, 2), be32(4, 2))
    return protocol + port + _expression("lookup", text(1, map_), be32(2, 1), be32(3, 0))


def lookup_sender(map_: str) -> bytes:
    """Load the value of the packet's source hardware address; a rule ends here for one that is not in the map."""
    sender = _expression("payload", be32(1, 1), be32(2, _LINK_HEADER), be32(3, 6), be32(4, 6))
    return sender + _expression("lookup", text(1, map_), be32(2, 1), be32(3, 1))


def set_connection_mark() -> bytes:
    """Mark the packet's connection with the value that is loaded."""
    return _expression("ct", be32(2, _CT_MARK), be32(4, 1))


def set_original_zone() -> bytes:
    """Put the packet's connection, as far as its original direction goes, into the zone that is loaded."""
    return _expression("ct", be32(2, _CT_ZONE), u8(3, _ORIGINAL), be32(4, 1))


def load_connection_mark() -> bytes:
    """Load the connection's mark, unless it is 0: then the rule ends."""
    return _expression("ct", be32(1, 1), be32(2, _CT_MARK)) + _compare(b"\0\0\0\0", is_not=True)


def is_reply() -> bytes:
    """Match packets of the connection's reply direction."""
    return _expression("ct", be32(1, 1), be32(2, _CT_DIRECTION)) + _compare(b"\x01")


def set_mark() -> bytes:
    """Mark the packet with the value that is loaded."""
    return _expression("meta", be32(2, _META_MARK), be32(3, 1))


def limit_segments() -> bytes:
    """Let TCP connections agree, as they begin, on segments that fit the route both ways; never on larger ones than asked for."""
    tcp = _expression("meta", be32(1, 1), be32(2, _META_PROTOCOL)) + _compare(b"\x06")
    flags = _expression("payload", be32(1, 1), be32(2, _TRANSPORT_HEADER), be32(3, _TCP_FLAGS), be32(4, 1))
    only = (nested(4, attribute(1, bytes([_SYN | _RST]))), nested(5, attribute(1, b"\0")))
    begins = flags + _expression("bitwise", be32(1, 1), be32(2, 1), be32(3, 1), *only) + _compare(bytes([_SYN]))
    size = _expression("rt", be32(1, 1), be32(2, _RT_SEGMENT_SIZE))
    swapped = _expression("byteorder", be32(1, 1), be32(2, 1), be32(3, _TO_NETWORK), be32(4, 2), be32(5, 2))
    option = (u8(2, _SEGMENT_SIZE_OPTION), be32(3, 2), be32(4, 2), be32(6, _TCP_OPTION), be32(7, 1))
    return tcp + begins + size + swapped + _expression("exthdr", *option)


def send_to_one_of(
    set_id: int, count: int, port: int | None = None, *, is_by_source: bool = False, family: int = nft.IPV4
) -> bytes:
    """Translate the destination to one of the `count` addresses of a `nftables.address_list_add`, and to a port when given.

    One after the other, or always the same for one source address, on every node.
    """
    if is_by_source:
        offset, length = _SOURCE[family]
        source = _expression("payload", be32(1, 2), be32(2, _NETWORK_HEADER), be32(3, offset), be32(4, length))
        seeded = _expression("hash", be32(1, 2), be32(2, 1), be32(3, length), be32(4, count), be32(5, 0), be32(7, 0))
        pick = source + seeded
    else:
        pick = _expression("numgen", be32(1, 1), be32(2, count), be32(3, 0))
    look = _expression("lookup", text(1, "__map%d"), be32(2, 1), be32(3, 1), be32(4, set_id))
    to = [be32(1, 1), be32(2, family), be32(3, 1)]
    if port is None:
        return pick + look + _expression("nat", *to)
    to_port = _expression("immediate", be32(1, 2), nested(2, attribute(1, struct.pack("!H", port))))
    return pick + look + to_port + _expression("nat", *to, be32(5, 2))
