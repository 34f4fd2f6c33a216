"""Lists all that one namespace has, as facts (`audit/facts.py`), and makes the messages that put facts right again.

The body of a listed neighbour, address, route or rule, without what the kernel counts in it, is what makes it again; so nothing
needs to be known of what it is for. Left out: what the kernel makes itself with a link (link-local addresses, multicast, the local
table), and what was learned.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from typing import TypeAlias

from pyswarm_netplugin.audit.facts import ADDRESS, LINK, NEIGHBOUR, ROUTE, RULE, Difference, Entry, Fact, Key, LinkFact
from pyswarm_netplugin.kernel import links
from pyswarm_netplugin.kernel.netlink import (
    CREATE,
    REPLACE,
    NetlinkSocket,
    attribute,
    attribute_list,
    attributes,
    message,
    nested,
    string,
    text,
    u32,
)

_RTM_DELROUTE, _RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 25, 32, 33, 34
_SKIP_STATISTICS = attribute(29, struct.pack("=I", 8))
_PORT_SETTINGS = frozenset({4, 5, 6, 7, 8, 9, 10, 27, 28, 30, 32, 33, 39})
"""Hairpin, guard, protect, fast leave, learning, flooding of three kinds, ARP, isolation, lock: what can be set on a port."""
_BRIDGE_SETTINGS = frozenset({4, 5, 7, 9, 22, 23, 36, 37, 38})
"""Ageing, spanning tree, VLANs, forwarding of link-local frames, multicast, and whether iptables sees what is bridged."""
_LINK_SETTINGS_OF = frozenset({"vxlan"})
_ROUTE_PARTS = (1, 2, 5, 6, 7, 8, 15, 18, 20)
_RULE_PARTS = (1, 2, 3, 4, 5, 6, 10, 12, 15, 16, 17, 21, 22, 23, 24)
_NEIGHBOUR_PARTS = (1, 2, 5, 6, 7)
_REACHABLE, _NOARP, _PERMANENT = 0x02, 0x40, 0x80
_CACHE_TIMES = struct.pack("=HH", 20, 3)
_INDEX = struct.Struct("=i")
_LOCAL_TABLE, _UNICAST, _KERNEL, _FROM_ADVERTISEMENTS = 255, 1, 2, 9
_IFF_UP = 1
_ELSEWHERE = "?"
"""Stands for the interface, or none, of a default route that is not on one of ours; no interface is desired under this name."""
_NO_CHANGE = struct.pack("=BxHiII", 0, 0, 0, 0, 0)


Memo: TypeAlias = dict[tuple[str, bytes], tuple[Key, Entry] | None]
"""What a listed neighbour came to the last time; there may be thousands, which seldom change."""


def read_facts(
    netlink: NetlinkSocket,
    is_ours: Callable[[str, int], bool],
    memo: Memo | None = None,
    *,
    with_defaults: bool = False,
    with_neighbours: bool = True,
) -> dict[Key, Fact]:
    """Return what the namespace of the socket has, of the interfaces that `is_ours` (name, group) picks. Raises OSError.

    `memo`: of the last time; it is changed to that of this time. `with_defaults`: default routes of other interfaces, too.
    `with_neighbours`: neighbours at all; to list those of one namespace, the kernel walks over those of all.
    """
    facts: dict[Key, Fact] = {}
    names: dict[int, str] = {}
    found = []
    for _, body in netlink.dump(links.RTM_GETLINK, links.LINK_DUMP + _SKIP_STATISTICS):
        parts = attributes(body, 16)
        index, flags = struct.unpack_from("=iI", body, 4)
        names[index] = name = string(parts[links.IFLA_IFNAME])
        if is_ours(name, _number(parts, links.IFLA_GROUP)):
            found.append((name, index, flags, parts))
    for name, index, flags, parts in found:
        facts[Key(LINK, name)] = _link(index, flags, parts, names)
    ours = {index: name for name, index, _, _ in found}
    for key, entry in (
        *_addresses(netlink, ours),
        *(_neighbours(netlink, ours, memo if memo is not None else {}) if with_neighbours else ()),
        *_routes(netlink, ours, with_defaults=with_defaults),
        *_rules(netlink),
    ):
        facts[key] = entry
    return facts


def _link(index: int, flags: int, parts: dict[int, bytes], names: dict[int, str]) -> LinkFact:
    info = attributes(parts.get(links.IFLA_LINKINFO, b""))
    kind = string(info.get(links.INFO_KIND, b""))
    settings: list[tuple[int, bytes]] = []
    if kind in _LINK_SETTINGS_OF:
        settings += attributes(info.get(links.INFO_DATA, b"")).items()
    elif kind == "bridge":
        settings += ((k, v) for k, v in attributes(info.get(links.INFO_DATA, b"")).items() if k in _BRIDGE_SETTINGS)
    port = attributes(info.get(links.INFO_SLAVE_DATA, b"")) if info.get(links.INFO_SLAVE_KIND) else {}
    settings += ((-k, v) for k, v in port.items() if k in _PORT_SETTINGS)
    master = _number(parts, links.IFLA_MASTER)
    return LinkFact(
        index=index,
        is_up=bool(flags & _IFF_UP),
        mtu_bytes=_number(parts, links.IFLA_MTU),
        mac=parts.get(links.IFLA_ADDRESS, b""),
        master=names.get(master, "") if master else "",
        settings=tuple(sorted(settings)),
    )


def _addresses(netlink: NetlinkSocket, ours: dict[int, str]) -> Iterator[tuple[Key, Entry]]:
    for _, body in netlink.dump(links.RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        family, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
        parts = attributes(body, 8)
        packed = parts.get(links.IFA_LOCAL) or parts.get(1)
        if index not in ours or packed is None or _is_link_local(packed):
            continue
        shown = f"{socket.inet_ntop(family, packed)}/{prefix}"
        plain = struct.pack("=BBBBI", family, prefix, 0, 0, 0) + attribute(links.IFA_LOCAL, packed) + attribute(1, packed)
        yield Key(ADDRESS, ours[index], shown), Entry("", plain)


def _neighbours(netlink: NetlinkSocket, ours: dict[int, str], memo: Memo) -> Iterator[tuple[Key, Entry]]:
    known, found = dict(memo), []
    memo.clear()
    for family in (socket.AF_BRIDGE, socket.AF_INET, socket.AF_INET6):
        for _, body in netlink.dump(links.RTM_GETNEIGH, links.NEIGHBOUR.pack(family, 0, 0, 0, 0)):
            device = ours.get(_INDEX.unpack_from(body, 4)[0])
            if device is None:
                continue
            at = body.find(_CACHE_TIMES, links.NEIGHBOUR.size)
            asked = (device, body if at < 0 else body[:at] + body[at + 20 :])
            entry = memo[asked] = known[asked] if asked in known else _neighbour(family, device, asked[1])
            if entry is not None:
                found.append(entry)
    yield from found


def _neighbour(family: int, device: str, body: bytes) -> tuple[Key, Entry] | None:
    _, _, state, flags, _ = links.NEIGHBOUR.unpack_from(body)
    parts = attributes(body, links.NEIGHBOUR.size)
    mac, host = parts.get(links.NDA_LLADDR, b""), parts.get(links.NDA_DST, b"")
    if family == socket.AF_BRIDGE:
        is_self = flags & links.NTF_SELF
        if not state & (_NOARP | _PERMANENT) or not mac or mac[0] & 1:
            return None
        where = "self" if is_self else "bridge"
        name = f"{mac.hex(':')} {where}" + (f" {_address(host)}" if not any(mac) else "")
        shown = _address(host) if host else ""
        flags = links.NTF_SELF if is_self else links.NTF_MASTER
        state = _NOARP | _REACHABLE if is_self else state & (_NOARP | _PERMANENT)
    else:
        if not state & _PERMANENT:
            return None
        name, shown, flags, state = _address(host), mac.hex(":"), 0, _PERMANENT
    plain = links.NEIGHBOUR.pack(family, 0, state, flags, 0)
    plain += b"".join(attribute(part, parts[part]) for part in _NEIGHBOUR_PARTS if part in parts)
    return Key(NEIGHBOUR, device, name), Entry(shown, plain)


def _routes(netlink: NetlinkSocket, ours: dict[int, str], *, with_defaults: bool) -> Iterator[tuple[Key, Entry]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for _, body in netlink.dump(links.RTM_GETROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, prefix, _, _, table, protocol, _, kind, _ = struct.unpack_from("=BBBBBBBBI", body)
            parts = attributes(body, 12)
            device = ours.get(_number(parts, links.RTA_OIF))
            table = _number(parts, 15) or table
            to = parts.get(links.RTA_DST, b"\0" * (4 if family == socket.AF_INET else 16))
            if device is None and with_defaults and not prefix and table == links.MAIN_TABLE:
                yield Key(ROUTE, _ELSEWHERE, f"{socket.inet_ntop(family, to)}/0 table {table}"), Entry("")
            is_made_by_us = kind == _UNICAST and table != _LOCAL_TABLE and protocol != _FROM_ADVERTISEMENTS
            if device is None or not is_made_by_us or _is_link_local(to):
                continue
            if family == socket.AF_INET6 and protocol == _KERNEL:
                continue  # they come and go with the addresses
            plain = body[:8] + b"\0\0\0\0" + b"".join(attribute(p, parts[p]) for p in _ROUTE_PARTS if p in parts)
            gateway = parts.get(links.RTA_GATEWAY)
            metric = f" metric {_number(parts, 6)}" if 6 in parts else ""
            name = f"{socket.inet_ntop(family, to)}/{prefix} table {table}{metric}"
            yield Key(ROUTE, device, name), Entry(f"via {_address(gateway)}" if gateway else "", plain)


def _rules(netlink: NetlinkSocket) -> Iterator[tuple[Key, Entry]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for _, body in netlink.dump(_RTM_GETRULE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
            parts = attributes(body, 12)
            kept = [(part, value) for part, value in attribute_list(body, 12) if part in _RULE_PARTS]
            plain = body[:12] + b"".join(attribute(part, value) for part, value in kept)
            mark = f" mark {_number(parts, 10)}" if 10 in parts else ""
            name = f"{'ip6' if family == socket.AF_INET6 else 'ip'} {_number(parts, 6)}{mark} table {_number(parts, 15) or body[4]}"
            yield Key(RULE, "", name), Entry("", plain)


def restore_message(difference: Difference, index_of: dict[str, int]) -> bytes | None:
    """Return the message that makes the fact as it was sealed; None when there is none. `index_of`: interfaces by name."""
    key, before, now = difference.key, difference.before, difference.now
    index = index_of.get(key.device, 0)
    if key.kind == LINK:
        if isinstance(before, LinkFact) and isinstance(now, LinkFact):
            return _link_message(key.device, before, index_of)
        return links.link_remove(key.device) if before is None else None
    entry = before or now
    if not isinstance(entry, Entry) or not entry.body or (key.device and not index):
        return None
    body = entry.body
    is_wanted = before is not None
    flags = CREATE | REPLACE if is_wanted else 0
    if key.kind == NEIGHBOUR:
        kind = links.RTM_NEWNEIGH if is_wanted else links.RTM_DELNEIGH
        return message(kind, flags, body[:4] + struct.pack("=i", index) + body[8:])
    if key.kind == ADDRESS:
        return message(links.RTM_NEWADDR if is_wanted else links.RTM_DELADDR, flags, body[:4] + struct.pack("=I", index) + body[8:])
    if key.kind == ROUTE:
        return message(links.RTM_NEWROUTE if is_wanted else _RTM_DELROUTE, flags, body + u32(links.RTA_OIF, index))
    if key.kind == RULE:
        return message(_RTM_NEWRULE if is_wanted else _RTM_DELRULE, CREATE if is_wanted else 0, body)
    return None


def _link_message(name: str, wanted: LinkFact, index_of: dict[str, int]) -> bytes:
    up = _IFF_UP if wanted.is_up else 0
    body = struct.pack("=BxHiII", 0, 0, 0, up, _IFF_UP) + text(links.IFLA_IFNAME, name) + u32(links.IFLA_MTU, wanted.mtu_bytes)
    if wanted.mac:
        body += attribute(links.IFLA_ADDRESS, wanted.mac)
    if wanted.master in index_of or not wanted.master:
        body += u32(links.IFLA_MASTER, index_of.get(wanted.master, 0))
    return message(links.RTM_NEWLINK, 0, body)


def settings_message(name: str, wanted: LinkFact) -> bytes | None:
    """Return the message that sets a bridge, or a bridge's port, as it was sealed; None for what is neither."""
    port = [attribute(-number, value) for number, value in wanted.settings if number < 0]
    bridge = [attribute(number, value) for number, value in wanted.settings if number in _BRIDGE_SETTINGS]
    info = b""
    if port:
        info = text(links.INFO_SLAVE_KIND, "bridge") + nested(links.INFO_SLAVE_DATA, *port)
    elif bridge and not wanted.master:
        info = text(links.INFO_KIND, "bridge") + nested(links.INFO_DATA, *bridge)
    if not info:
        return None
    return message(links.RTM_NEWLINK, 0, _NO_CHANGE + text(links.IFLA_IFNAME, name) + nested(links.IFLA_LINKINFO, info))


def _number(parts: dict[int, bytes], key: int) -> int:
    value = parts.get(key)
    return int(struct.unpack_from("=I", value)[0]) if value and len(value) >= 4 else 0


def _address(packed: bytes) -> str:
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed) if len(packed) in (4, 16) else packed.hex()


def _is_link_local(packed: bytes) -> bool:
    return len(packed) == 16 and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
