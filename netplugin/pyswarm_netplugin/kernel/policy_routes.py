"""Messages for routing by mark, packed: each mark has a table of its own number; and reading them back. Nothing is sent here.

Source: linux/fib_rules.h, linux/rtnetlink.h.
"""

import socket
import struct
from collections.abc import Iterable

from pyswarm_netplugin.kernel.links import MAIN_TABLE, RTA_GATEWAY, RTA_OIF, RTM_GETROUTE, RTM_NEWROUTE
from pyswarm_netplugin.kernel.netlink import CREATE, EXCLUSIVE, REPLACE, NetlinkSocket, attribute, attributes, message, u32

RTM_DELROUTE, _RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 25, 32, 33, 34
_RTA_TABLE = 15
_FRA_PRIORITY, _FRA_MARK, _FRA_TABLE, _FRA_MASK = 6, 10, 15, 16
_TO_TABLE = 1
_ONLINK = 4
_BOOT, _UNIVERSE, _UNICAST = 3, 0, 1
_ROUTE = struct.Struct("=BBBBBBBBI")
_RULE = struct.Struct("=BBBBBBBBI")
UNMARKED_PRIORITY, MARKED_PRIORITY = 999, 1000
"""Of the rule that leads packets without a mark past the others, to the main table; and of those of the marks."""


def _rule(kind: int, flags: int, priority: int, mark: int, table: int, family: int) -> bytes:
    body = _RULE.pack(family, 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
    parts = u32(_FRA_PRIORITY, priority) + u32(_FRA_MARK, mark) + u32(_FRA_MASK, 0xFFFFFFFF) + u32(_FRA_TABLE, table)
    return message(kind, flags, body + parts)


def unmarked_rule_add(family: int = socket.AF_INET) -> bytes:
    """Let packets without a mark look into the main table first (EEXIST when they do)."""
    return _rule(_RTM_NEWRULE, CREATE | EXCLUSIVE, UNMARKED_PRIORITY, 0, MAIN_TABLE, family)


def unmarked_rule_remove(family: int = socket.AF_INET) -> bytes:
    """Undo `unmarked_rule_add` (ENOENT when there is none)."""
    return _rule(_RTM_DELRULE, 0, UNMARKED_PRIORITY, 0, MAIN_TABLE, family)


def mark_rule_add(mark: int, family: int = socket.AF_INET) -> bytes:
    """Let packets with the mark look into the table of that number (EEXIST when they do)."""
    return _rule(_RTM_NEWRULE, CREATE | EXCLUSIVE, MARKED_PRIORITY, mark, mark, family)


def mark_rule_remove(mark: int, family: int = socket.AF_INET) -> bytes:
    """Undo `mark_rule_add` (ENOENT when there is none)."""
    return _rule(_RTM_DELRULE, 0, MARKED_PRIORITY, mark, mark, family)


def gateway_route_add(table: int, gateway: str, index: int) -> bytes:
    """Send everything of a table to a gateway on an interface, whatever its own subnets say."""
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    body = _ROUTE.pack(family, 0, 0, 0, 0, _BOOT, _UNIVERSE, _UNICAST, _ONLINK)
    parts = u32(_RTA_TABLE, table) + attribute(RTA_GATEWAY, socket.inet_pton(family, gateway)) + u32(RTA_OIF, index)
    return message(RTM_NEWROUTE, CREATE | REPLACE, body + parts)


def gateway_route_remove(table: int, family: int = socket.AF_INET) -> bytes:
    """Remove a table's default route (ESRCH when there is none)."""
    return message(RTM_DELROUTE, 0, _ROUTE.pack(family, 0, 0, 0, 0, 0, _UNIVERSE, 0, 0) + u32(_RTA_TABLE, table))


def read_marks(netlink: NetlinkSocket, family: int = socket.AF_INET) -> tuple[set[int], bool]:
    """Return the marks that have a rule, and whether packets without one have theirs."""
    marks, is_unmarked_ruled = set(), False
    for _, body in netlink.dump(_RTM_GETRULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        parts = {key: _number(value) for key, value in attributes(body, 12).items() if len(value) == 4}
        if parts.get(_FRA_PRIORITY) == MARKED_PRIORITY and parts.get(_FRA_TABLE) == parts.get(_FRA_MARK):
            marks.add(parts[_FRA_MARK])
        is_unmarked_ruled |= parts.get(_FRA_PRIORITY) == UNMARKED_PRIORITY
    return marks, is_unmarked_ruled


def read_gateway_routes(netlink: NetlinkSocket, family: int = socket.AF_INET) -> dict[int, tuple[str, int]]:
    """Return gateway and interface index of the default route in each table but the main one."""
    found = {}
    for _, body in netlink.dump(RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        parts = attributes(body, 12)
        table = _number(parts.get(_RTA_TABLE, b"\0\0\0\0"))
        if body[1] == 0 and table != MAIN_TABLE and RTA_GATEWAY in parts:
            gateway = socket.inet_ntop(family, parts[RTA_GATEWAY])
            found[table] = (gateway, _number(parts.get(RTA_OIF, b"\0\0\0\0")))
    return found


def marks_of(gateways: Iterable[str]) -> dict[str, int]:
    """Return the mark, and table number, of each gateway: its IPv4 address as a number."""
    return {gateway: int.from_bytes(socket.inet_aton(gateway), "big") for gateway in gateways}


def _number(value: bytes) -> int:
    return int(struct.unpack("=I", value)[0])
