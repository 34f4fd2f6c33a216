"""nf_tables transactions, packed by hand.

libnftables parses text and reads the kernel's tables back at each command, and its context belongs to one namespace: 0.2 ms for
one change in a namespace with five virtual IPs, 0.4 ms with fifty. The same change as bytes that were encoded once costs 0.03 to
0.06 ms. So the few expressions that our rules need are written here; `nft list ruleset` reads them like any others.

A trap: the kernel lets the close of a netfilter socket wait for what was just deleted (an RCU grace period, 8 to 25 ms). Keep
the socket open. Layout: nfnetlink messages (family, version, resource) between a batch's begin and end; numbers in network byte
order. Source: linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c (nft_rcv_nl_event).
"""

import ipaddress
import itertools
import socket
import struct
import sys
from collections.abc import Mapping, Sequence

from pyswarm_netplugin.kernel.netlink import (
    CREATE,
    NESTED,
    attribute,
    attribute_list,
    attributes,
    be32,
    message,
    nested,
    string,
    text,
    u8,
)

_SUBSYSTEM = 10 << 8
_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWSET, _NEWSETELEM, _DELSETELEM = 0, 2, 3, 5, 6, 8, 9, 12, 14
GET_CHAIN, GET_ELEMENTS = _SUBSYSTEM | 4, _SUBSYSTEM | 13
_APPEND = 0x800

_ANONYMOUS, _CONSTANT, _MAP = 1, 2, 8
_INTEGER = 4
IPV4, IPV6, BRIDGE = int(socket.AF_INET), int(socket.AF_INET6), 7
"""The families of tables: what stands in `table ip` sees IPv4 packets alone, `table ip6` IPv6 packets."""
_ADDRESS_TYPE = {IPV4: 7, IPV6: 8}
_ADDRESS_BYTES = {IPV4: 4, IPV6: 16}
_SOURCE_OFFSET = {IPV4: 12, IPV6: 8}
_DESTINATION_OFFSET = {IPV4: 16, IPV6: 24}
_PORT_UNREACHABLE = {IPV4: 3, IPV6: 4}
_VERDICT_TYPE = 0xFFFFFF00
_HOST_ENDIAN_KEY = struct.pack("=BBI", 0, 4, 1)
"""Set user data that tells `nft list` how to print the keys."""
_ELEMENTS_PER_MESSAGE = 1000

ACCEPT, DROP = 1, 0
_GOTO, _JUMP = -4 & 0xFFFFFFFF, -3 & 0xFFFFFFFF
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = 0, 1, 2, 3, 4
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_EQUAL, _NOT_EQUAL = 0, 1
_FIB_ADDRESS_TYPE, _FIB_DESTINATION = 3, 2
_LOCAL_ADDRESS = struct.pack("=I", 2)


def _body(*parts: bytes, family: int = IPV4) -> bytes:
    return struct.pack("!BBH", family, 0, 0) + b"".join(parts)


def family_of(address: str) -> int:
    """Return the family of an address or subnet."""
    return IPV6 if ":" in address else IPV4


def _packed(address: str) -> bytes:
    return socket.inet_pton(family_of(address), address)


def batch(messages: Sequence[bytes]) -> list[bytes]:
    """Return the messages as one transaction."""
    edge = struct.pack("!BBH", 0, 0, 10)
    return [message(0x10, 0, edge), *messages, message(0x11, 0, edge)]


def table_add(table: str, *, family: int = IPV4) -> bytes:
    """Make a table; fine when there is one."""
    return message(_SUBSYSTEM | _NEWTABLE, CREATE, _body(text(1, table), family=family))


def table_remove(table: str, *, family: int = IPV4) -> bytes:
    """Remove a table with all in it (ENOENT when there is none)."""
    return message(_SUBSYSTEM | _DELTABLE, 0, _body(text(1, table), family=family))


def chain_add(table: str, chain: str, *, family: int = IPV4) -> bytes:
    """Make a chain that other rules lead to."""
    return message(_SUBSYSTEM | _NEWCHAIN, CREATE, _body(text(1, table), text(3, chain), family=family))


def base_chain_add(table: str, chain: str, type_: str, hook: int, priority: int, *, family: int = IPV4) -> bytes:
    """Make a chain that the kernel calls at a hook; it accepts what its rules do not end."""
    at = nested(4, be32(1, hook), be32(2, priority & 0xFFFFFFFF))
    body = _body(text(1, table), text(3, chain), at, be32(5, ACCEPT), text(7, type_), family=family)
    return message(_SUBSYSTEM | _NEWCHAIN, CREATE, body)


def chain_empty(table: str, chain: str, *, family: int = IPV4) -> bytes:
    """Remove the rules of a chain."""
    return message(_SUBSYSTEM | _DELRULE, 0, _body(text(1, table), text(2, chain), family=family))


def chain_remove(table: str, chain: str, *, family: int = IPV4) -> bytes:
    """Remove an empty chain to which nothing leads."""
    return message(_SUBSYSTEM | _DELCHAIN, 0, _body(text(1, table), text(3, chain), family=family))


def rule_add(table: str, chain: str, *expressions: bytes, family: int = IPV4) -> bytes:
    """Append a rule."""
    body = _body(text(1, table), text(2, chain), nested(4, *expressions), family=family)
    return message(_SUBSYSTEM | _NEWRULE, CREATE | _APPEND, body)


def verdict_map_add(table: str, name: str, *, family: int = IPV4) -> bytes:
    """Make a map from addresses to chains."""
    key = be32(4, _ADDRESS_TYPE[family]) + be32(5, _ADDRESS_BYTES[family])
    body = _body(text(1, table), text(2, name), be32(3, _MAP), key, be32(6, _VERDICT_TYPE), be32(10, 1), family=family)
    return message(_SUBSYSTEM | _NEWSET, CREATE, body)


def verdict_put(table: str, map_: str, address: str, chain: str) -> bytes:
    """Lead an address to a chain; its family is that of the table."""
    verdict = nested(2, nested(2, be32(1, _GOTO), text(2, chain)))
    element = nested(1, nested(1, attribute(1, _packed(address))), verdict)
    body = _body(text(1, table), text(2, map_), nested(3, element), family=family_of(address))
    return message(_SUBSYSTEM | _NEWSETELEM, CREATE, body)


def verdict_drop(table: str, map_: str, address: str) -> bytes:
    """Lead an address nowhere any more."""
    element = nested(1, nested(1, attribute(1, _packed(address))))
    body = _body(text(1, table), text(2, map_), nested(3, element), family=family_of(address))
    return message(_SUBSYSTEM | _DELSETELEM, 0, body)


def address_list_add(table: str, set_id: int, addresses: Sequence[str]) -> list[bytes]:
    """Make an anonymous map from 0, 1, 2 … to the addresses, to be named by `set_id` in a rule of the same transaction.

    The addresses, at least one, are of the table's family.
    """
    family = family_of(addresses[0])
    head = _body(
        text(1, table),
        text(2, "__map%d"),
        be32(3, _ANONYMOUS | _CONSTANT | _MAP),
        be32(4, _INTEGER),
        be32(5, 4),
        be32(6, _ADDRESS_TYPE[family]),
        be32(7, _ADDRESS_BYTES[family]),
        nested(9, be32(1, len(addresses))),
        be32(10, set_id),
        attribute(13, _HOST_ENDIAN_KEY),
        family=family,
    )
    messages = [message(_SUBSYSTEM | _NEWSET, CREATE, head)]
    for start in range(0, len(addresses), _ELEMENTS_PER_MESSAGE):
        elements = _numbered(addresses[start : start + _ELEMENTS_PER_MESSAGE], start, family)
        body = _body(text(1, table), text(2, "__map%d"), nested(3, elements), be32(4, set_id), family=family)
        messages.append(message(_SUBSYSTEM | _NEWSETELEM, CREATE, body))
    return messages


def _numbered(addresses: Sequence[str], first: int, family: int) -> bytes:
    """Return elements that lead numbers from `first` on to the addresses; packed at once, as there may be thousands."""
    size = _ADDRESS_BYTES[family]
    element = struct.Struct(f"=HHHHHHIHHHH{size}s")
    key, value = (24 + size, 1 | NESTED, 12, 1 | NESTED, 8, 1), (8 + size, 2 | NESTED, 4 + size, 1)
    packed = map(socket.inet_pton, itertools.repeat(family), addresses)
    return b"".join(element.pack(*key, number, *value, address) for number, address in enumerate(packed, first))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *parts))


def _compare(data: bytes, operator: int = _EQUAL) -> bytes:
    return _expression("cmp", be32(1, 1), be32(2, operator), nested(3, attribute(1, data)))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", be32(1, 1), be32(2, base), be32(3, offset), be32(4, length))


def _mask(mask: bytes) -> bytes:
    zero = b"\0" * len(mask)
    return _expression(
        "bitwise", be32(1, 1), be32(2, 1), be32(3, len(mask)), nested(4, attribute(1, mask)), nested(5, attribute(1, zero))
    )


def _address(offsets: Mapping[int, int], family: int) -> bytes:
    return _payload(_NETWORK_HEADER, offsets[family], _ADDRESS_BYTES[family])


def _within(offsets: Mapping[int, int], subnet: str, operator: int = _EQUAL) -> bytes:
    network = ipaddress.ip_network(subnet)
    address = _address(offsets, IPV6 if network.version == 6 else IPV4)
    return address + _mask(network.netmask.packed) + _compare(network.network_address.packed, operator)


def destination_is(address: str) -> bytes:
    """Match packets to an address."""
    return _address(_DESTINATION_OFFSET, family_of(address)) + _compare(_packed(address))


def source_within(subnet: str) -> bytes:
    """Match packets from a subnet."""
    return _within(_SOURCE_OFFSET, subnet)


def destination_within(subnet: str, *, is_not: bool = False) -> bytes:
    """Match packets to a subnet, or to anything else."""
    return _within(_DESTINATION_OFFSET, subnet, _NOT_EQUAL if is_not else _EQUAL)


def destination_is_local() -> bytes:
    """Match packets to any address of this host."""
    return _expression("fib", be32(1, 1), be32(2, _FIB_ADDRESS_TYPE), be32(3, _FIB_DESTINATION)) + _compare(_LOCAL_ADDRESS)


def transport_byte_is(offset: int, value: int) -> bytes:
    """Match a byte of the transport header, after `protocol_is`."""
    return _payload(_TRANSPORT_HEADER, offset, 1) + _compare(bytes([value]))


def first_ipv6_header_is_not(protocol: int) -> bytes:
    """Match IPv6 packets in which something else follows the IPv6 header."""
    return _payload(_NETWORK_HEADER, 6, 1) + _compare(bytes([protocol]), _NOT_EQUAL)


def protocol_is(protocol: int) -> bytes:
    """Match the transport protocol."""
    return _expression("meta", be32(1, 1), be32(2, 16)) + _compare(bytes([protocol]))


def destination_port_is(port: int) -> bytes:
    """Match the destination port, after `protocol_is`."""
    return _payload(_TRANSPORT_HEADER, 2, 2) + _compare(struct.pack("!H", port))


def interface_is(name: str, *, is_output: bool = False, is_not: bool = False) -> bytes:
    """Match the interface that a packet comes in by or goes out by."""
    data = name.encode().ljust(16, b"\0")
    return _expression("meta", be32(1, 1), be32(2, 7 if is_output else 6)) + _compare(data, _NOT_EQUAL if is_not else _EQUAL)


def _connection_has(key: int, bits: int) -> bytes:
    mask = bits.to_bytes(4, sys.byteorder)
    return _expression("ct", be32(1, 1), be32(2, key)) + _mask(mask) + _compare(b"\0\0\0\0", _NOT_EQUAL)


def is_known_connection() -> bytes:
    """Match packets of established connections and what belongs to them."""
    return _connection_has(0, 2 | 4)


def is_published() -> bytes:
    """Match connections whose destination was translated."""
    return _connection_has(2, 1 << 5)


def verdict(code: int) -> bytes:
    """End with ACCEPT or DROP."""
    return _expression("immediate", be32(1, 0), nested(2, nested(2, be32(1, code))))


def jump(chain: str) -> bytes:
    """Go through the rules of a chain, and come back when none of them ends it."""
    return _expression("immediate", be32(1, 0), nested(2, nested(2, be32(1, _JUMP), text(2, chain))))


def masquerade() -> bytes:
    """Let the packet leave with the host's own address."""
    return _expression("masq")


def lookup_verdict(map_: str, *, family: int = IPV4) -> bytes:
    """Go on where the map leads the packet's destination."""
    return _address(_DESTINATION_OFFSET, family) + _expression("lookup", text(1, map_), be32(2, 1), be32(3, 0))


def _translate(*parts: bytes, family: int = IPV4) -> bytes:
    return _expression("nat", be32(1, 1), be32(2, family), be32(3, 1), *parts)


def send_to(address: str, port: int | None = None) -> bytes:
    """Translate the destination to one address, and port when given."""
    to_address = _expression("immediate", be32(1, 1), nested(2, attribute(1, _packed(address))))
    if port is None:
        return to_address + _translate(family=family_of(address))
    to_port = _expression("immediate", be32(1, 2), nested(2, attribute(1, struct.pack("!H", port))))
    return to_address + to_port + _translate(be32(5, 2), family=family_of(address))


def refuse_tcp() -> bytes:
    """Answer with a reset, after `protocol_is(6)`."""
    return _expression("reject", be32(1, 1), u8(2, 0))


def refuse(*, family: int = IPV4) -> bytes:
    """Answer that the port is unreachable."""
    return _expression("reject", be32(1, 0), u8(2, _PORT_UNREACHABLE[family]))


def elements_request(table: str, map_: str, *, family: int = IPV4) -> bytes:
    """Return the body of the request for a map's elements (`GET_ELEMENTS`)."""
    return _body(text(1, table), text(2, map_), family=family)


def chains_request(*, family: int = IPV4) -> bytes:
    """Return the body of the request for all chains of a family (`GET_CHAIN`)."""
    return _body(family=family)


def read_chain(body: bytes) -> tuple[str, str]:
    """Return the table and name of a chain."""
    found = attributes(body, 4)
    return string(found[1]), string(found[3])


def read_verdicts(body: bytes) -> dict[str, str]:
    """Return the chain to which each address of a verdict map's message leads."""
    verdicts = {}
    for _, element in attribute_list(attributes(body, 4).get(3, b"")):
        parts = attributes(element)
        key = attributes(parts[1])[1]
        address = socket.inet_ntop(IPV4 if len(key) == 4 else IPV6, key)
        verdicts[address] = string(attributes(attributes(parts[2])[2])[2])
    return verdicts
