"""Reads what nf_tables tables hold, to see whether it is still what was written: a digest of everything that matters.

Left out: handles, counters, how often a chain is used, the order of a set's elements, and elements of sets that packets fill.
"""

import hashlib
import socket
import struct
from collections.abc import Callable

from pyswarm_netplugin.audit.facts import TABLE, Entry, Fact, Key
from pyswarm_netplugin.kernel.netlink import NetlinkSocket, attribute_list, attributes, message, string, text

_SUBSYSTEM = 10 << 8
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS, _GET_GENERATION = (_SUBSYSTEM | n for n in (1, 4, 7, 10, 13, 16))
_CHAIN_PARTS, _SET_PARTS = (3, 4, 5, 7), (2, 3, 4, 5, 6, 7, 15)
_EVALUATED, _WITH_TIMEOUT = 0x20, 0x10
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def generation(netfilter: NetlinkSocket) -> int:
    """Return the number that changes with every change of any table of the socket's namespace."""
    answer = netfilter.ask(message(_GET_GENERATION, 0, struct.pack("!BBH", 0, 0, 0)))
    return int(struct.unpack("!I", attributes(answer, 4)[1])[0])


def read_tables(netfilter: NetlinkSocket, is_ours: Callable[[str], bool]) -> dict[Key, Fact]:
    """Return the tables that `is_ours` picks by name, each with a digest of its content. Raises OSError."""
    found: dict[Key, Fact] = {}
    for family, name in _tables(netfilter):
        if is_ours(name):
            content = hashlib.blake2s(digest_size=8)
            for line in (*_chains(netfilter, family, name), *_sets(netfilter, family, name)):
                content.update(line)
            found[Key(TABLE, "", f"{_FAMILIES.get(family, str(family))} {name}")] = Entry(content.hexdigest())
    return found


def _tables(netfilter: NetlinkSocket) -> list[tuple[int, str]]:
    bodies = [body for _, body in netfilter.dump(_GET_TABLE, struct.pack("!BBH", socket.AF_UNSPEC, 0, 0))]
    return [(body[0], string(attributes(body, 4)[1])) for body in bodies]


def _of_table(netfilter: NetlinkSocket, request: int, family: int, table: str) -> list[bytes]:
    bodies = [body for _, body in netfilter.dump(request, struct.pack("!BBH", family, 0, 0) + text(1, table))]
    return [body for body in bodies if body[0] == family and string(attributes(body, 4)[1]) == table]


def _chains(netfilter: NetlinkSocket, family: int, table: str) -> list[bytes]:
    lines = []
    for body in _of_table(netfilter, _GET_CHAIN, family, table):
        parts = attributes(body, 4)
        lines.append(b"chain" + b"".join(parts.get(part, b"-") for part in _CHAIN_PARTS))
    for body in _of_table(netfilter, _GET_RULE, family, table):
        parts = attributes(body, 4)
        lines.append(b"rule" + parts[2] + _expressions(parts.get(4, b"")))
    chains = sorted(line for line in lines if line.startswith(b"chain"))
    return chains + [line for line in lines if not line.startswith(b"chain")]


def _expressions(data: bytes) -> bytes:
    """The expressions of a rule without what counters have counted."""
    pieces = []
    for _, expression in attribute_list(data):
        parts = attributes(expression)
        name = parts.get(1, b"")
        pieces.append(name + (b"" if name.startswith(b"counter\0") else parts.get(2, b"")))
    return b"|".join(pieces)


def _sets(netfilter: NetlinkSocket, family: int, table: str) -> list[bytes]:
    lines = []
    for body in _of_table(netfilter, _GET_SET, family, table):
        parts = attributes(body, 4)
        lines.append(b"set" + b"".join(parts.get(part, b"-") for part in _SET_PARTS))
        flags = int(struct.unpack("!I", parts[3])[0]) if 3 in parts else 0
        if flags & (_EVALUATED | _WITH_TIMEOUT):
            continue
        request = struct.pack("!BBH", family, 0, 0) + text(1, table) + text(2, string(parts[2]))
        elements = []
        for _, answer in netfilter.dump(_GET_ELEMENTS, request):
            for _, element in attribute_list(attributes(answer, 4).get(3, b"")):
                inside = attributes(element)
                elements.append(b"".join(inside.get(part, b"-") for part in (1, 2, 3)))
        lines += sorted(elements)
    return lines
