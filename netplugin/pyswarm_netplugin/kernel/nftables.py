"""nf_tables transactions, packed by hand.

libnftables parses text and reads the kernel's tables back at each command, and its context belongs to one namespace: 0.2 ms for
one change in a namespace with five virtual IPs, 0.4 ms with fifty. The same change as bytes that were encoded once costs 0.03 to
0.06 ms. So the few expressions that our rules need are written here; `nft list ruleset` reads them like any others.

A trap: the kernel lets the close of a netfilter socket wait for what was just deleted (an RCU grace period, 8 to 25 ms). Keep
the socket open. Layout: nfnetlink messages (family, version, resource) between a batch's begin and end; numbers in network byte
order. Source: linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c (nft_rcv_nl_event).
"""

import ipaddress
import socket
import struct
import sys
from collections.abc import Sequence

from pyswarm_netplugin.kernel.netlink import (
    CREATE,
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
_INTEGER, _IPV4_ADDRESS = 4, 7
_VERDICT_TYPE = 0xFFFFFF00
_HOST_ENDIAN_KEY = struct.pack("=BBI", 0, 4, 1)
"""Set user data that tells `nft list` how to print the keys."""
_ELEMENTS_PER_MESSAGE = 1000

ACCEPT, DROP = 1, 0
_GOTO = -4 & 0xFFFFFFFF
PREROUTING, FORWARD, OUTPUT, POSTROUTING = 0, 2, 3, 4
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_EQUAL, _NOT_EQUAL = 0, 1
_FIB_ADDRESS_TYPE, _FIB_DESTINATION = 3, 2
_LOCAL_ADDRESS = struct.pack("=I", 2)


def _body(*parts: bytes) -> bytes:
    return struct.pack("!BBH", socket.AF_INET, 0, 0) + b"".join(parts)


def batch(messages: Sequence[bytes]) -> list[bytes]:
    """Return the messages as one transaction."""
    edge = struct.pack("!BBH", 0, 0, 10)
    return [message(0x10, 0, edge), *messages, message(0x11, 0, edge)]


def table_add(table: str) -> bytes:
    """Make a table of the family ip; fine when there is one."""
    return message(_SUBSYSTEM | _NEWTABLE, CREATE, _body(text(1, table)))


def table_remove(table: str) -> bytes:
    """Remove a table with all in it (ENOENT when there is none)."""
    return message(_SUBSYSTEM | _DELTABLE, 0, _body(text(1, table)))


def chain_add(table: str, chain: str) -> bytes:
    """Make a chain that other rules lead to."""
    return message(_SUBSYSTEM | _NEWCHAIN, CREATE, _body(text(1, table), text(3, chain)))


def base_chain_add(table: str, chain: str, type_: str, hook: int, priority: int) -> bytes:
    """Make a chain that the kernel calls at a hook; it accepts what its rules do not end."""
    at = nested(4, be32(1, hook), be32(2, priority & 0xFFFFFFFF))
    return message(_SUBSYSTEM | _NEWCHAIN, CREATE, _body(text(1, table), text(3, chain), at, be32(5, ACCEPT), text(7, type_)))


def chain_empty(table: str, chain: str) -> bytes:
    """Remove the rules of a chain."""
    return message(_SUBSYSTEM | _DELRULE, 0, _body(text(1, table), text(2, chain)))


def chain_remove(table: str, chain: str) -> bytes:
    """Remove an empty chain to which nothing leads."""
    return message(_SUBSYSTEM | _DELCHAIN, 0, _body(text(1, table), text(3, chain)))


def rule_add(table: str, chain: str, *expressions: bytes) -> bytes:
    """Append a rule."""
    return message(_SUBSYSTEM | _NEWRULE, CREATE | _APPEND, _body(text(1, table), text(2, chain), nested(4, *expressions)))


def verdict_map_add(table: str, name: str) -> bytes:
    """Make a map from IPv4 addresses to chains."""
    return message(
        _SUBSYSTEM | _NEWSET,
        CREATE,
        _body(
            text(1, table), text(2, name), be32(3, _MAP), be32(4, _IPV4_ADDRESS), be32(5, 4), be32(6, _VERDICT_TYPE), be32(10, 1)
        ),
    )


def verdict_put(table: str, map_: str, address: str, chain: str) -> bytes:
    """Lead an address to a chain."""
    verdict = nested(2, nested(2, be32(1, _GOTO), text(2, chain)))
    element = nested(1, nested(1, attribute(1, socket.inet_aton(address))), verdict)
    return message(_SUBSYSTEM | _NEWSETELEM, CREATE, _body(text(1, table), text(2, map_), nested(3, element)))


def verdict_drop(table: str, map_: str, address: str) -> bytes:
    """Lead an address nowhere any more."""
    element = nested(1, nested(1, attribute(1, socket.inet_aton(address))))
    return message(_SUBSYSTEM | _DELSETELEM, 0, _body(text(1, table), text(2, map_), nested(3, element)))


def address_list_add(table: str, set_id: int, addresses: Sequence[str]) -> list[bytes]:
    """Make an anonymous map from 0, 1, 2 … to the addresses, to be named by `set_id` in a rule of the same transaction."""
    head = _body(
        text(1, table),
        text(2, "__map%d"),
        be32(3, _ANONYMOUS | _CONSTANT | _MAP),
        be32(4, _INTEGER),
        be32(5, 4),
        be32(6, _IPV4_ADDRESS),
        be32(7, 4),
        nested(9, be32(1, len(addresses))),
        be32(10, set_id),
        attribute(13, _HOST_ENDIAN_KEY),
    )
    messages = [message(_SUBSYSTEM | _NEWSET, CREATE, head)]
    for start in range(0, len(addresses), _ELEMENTS_PER_MESSAGE):
        elements = [
            nested(
                1, nested(1, attribute(1, number.to_bytes(4, sys.byteorder))), nested(2, attribute(1, socket.inet_aton(address)))
            )
            for number, address in enumerate(addresses[start : start + _ELEMENTS_PER_MESSAGE], start)
        ]
        body = _body(text(1, table), text(2, "__map%d"), nested(3, *elements), be32(4, set_id))
        messages.append(message(_SUBSYSTEM | _NEWSETELEM, CREATE, body))
    return messages


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


def destination_is(address: str) -> bytes:
    """Match packets to an address."""
    return _payload(_NETWORK_HEADER, 16, 4) + _compare(socket.inet_aton(address))


def source_within(subnet: str) -> bytes:
    """Match packets from a subnet."""
    network = ipaddress.IPv4Network(subnet)
    return _payload(_NETWORK_HEADER, 12, 4) + _mask(network.netmask.packed) + _compare(network.network_address.packed)


def destination_within(subnet: str) -> bytes:
    """Match packets to a subnet."""
    network = ipaddress.IPv4Network(subnet)
    return _payload(_NETWORK_HEADER, 16, 4) + _mask(network.netmask.packed) + _compare(network.network_address.packed)


def destination_is_local() -> bytes:
    """Match packets to any address of this host."""
    return _expression("fib", be32(1, 1), be32(2, _FIB_ADDRESS_TYPE), be32(3, _FIB_DESTINATION)) + _compare(_LOCAL_ADDRESS)


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


def masquerade() -> bytes:
    """Let the packet leave with the host's own address."""
    return _expression("masq")


def lookup_verdict(map_: str) -> bytes:
    """Go on where the map leads the packet's destination."""
    return _payload(_NETWORK_HEADER, 16, 4) + _expression("lookup", text(1, map_), be32(2, 1), be32(3, 0))


def _translate(*parts: bytes) -> bytes:
    return _expression("nat", be32(1, 1), be32(2, socket.AF_INET), be32(3, 1), *parts)


def send_to(address: str, port: int | None = None) -> bytes:
    """Translate the destination to one address, and port when given."""
    to_address = _expression("immediate", be32(1, 1), nested(2, attribute(1, socket.inet_aton(address))))
    if port is None:
        return to_address + _translate()
    to_port = _expression("immediate", be32(1, 2), nested(2, attribute(1, struct.pack("!H", port))))
    return to_address + to_port + _translate(be32(5, 2))


def send_to_one_of(set_id: int, count: int) -> bytes:
    """Translate the destination to one of the `count` addresses of an `address_list_add`, at random."""
    pick = _expression("numgen", be32(1, 1), be32(2, count), be32(3, 1))
    look = _expression("lookup", text(1, "__map%d"), be32(2, 1), be32(3, 1), be32(4, set_id))
    return pick + look + _translate()


def refuse_tcp() -> bytes:
    """Answer with a reset, after `protocol_is(6)`."""
    return _expression("reject", be32(1, 1), u8(2, 0))


def refuse() -> bytes:
    """Answer that the port is unreachable."""
    return _expression("reject", be32(1, 0), u8(2, 3))


def elements_request(table: str, map_: str) -> bytes:
    """Return the body of the request for a map's elements (`GET_ELEMENTS`)."""
    return _body(text(1, table), text(2, map_))


def chains_request() -> bytes:
    """Return the body of the request for all chains (`GET_CHAIN`)."""
    return _body()


def read_chain(body: bytes) -> tuple[str, str]:
    """Return the table and name of a chain."""
    found = attributes(body, 4)
    return string(found[1]), string(found[3])


def read_verdicts(body: bytes) -> dict[str, str]:
    """Return the chain to which each address of a verdict map's message leads."""
    verdicts = {}
    for _, element in attribute_list(attributes(body, 4).get(3, b"")):
        parts = attributes(element)
        address = socket.inet_ntoa(attributes(parts[1])[1])
        verdicts[address] = string(attributes(attributes(parts[2])[2])[2])
    return verdicts
