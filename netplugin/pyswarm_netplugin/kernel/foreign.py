"""Reads, and only reads, what others have in the host's namespace: chains that forwarded packets go through, and VXLAN devices."""

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pyswarm_netplugin.audit import firewall
from pyswarm_netplugin.audit.firewall import Chain, Condition, Rule
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket, attribute_list, attributes, string
from pyswarm_netplugin.kernel.nftables import FORWARD, GET_CHAIN
from pyswarm_netplugin.kernel.observe import read_links, read_routes
from pyswarm_netplugin.state import Overlay

_GET_RULE = 10 << 8 | 7
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_VERDICTS = {0: firewall.DROP, 1: firewall.ACCEPT, -3: firewall.JUMP, -4: firewall.GOTO, -5: firewall.RETURN}
_INTERFACE_KEYS = {6: "iif", 7: "oif"}
_IGNORED = ("counter", "log", "notrack")


class ForeignTunnel(NamedTuple):
    """A VXLAN device of the host that is not ours."""

    name: str
    vni: int
    port: int


def read_forward_chains() -> list[Chain]:
    """Return all chains of the tables that have a say in forwarding IPv4, ours too. Raises OSError."""
    with NetlinkSocket(NETLINK_NETFILTER) as netfilter:
        bodies = [body for _, body in netfilter.dump(GET_CHAIN, struct.pack("!BBH", 0, 0, 0)) if body[0] in (1, 2)]
        heads = [(body[0], attributes(body, 4)) for body in bodies]
        forwarding = {(family, string(parts[1])) for family, parts in heads if _is_forward(parts)}
        if not forwarding:
            return []
        rules: dict[tuple[int, str, str], list[Rule]] = {}
        for _, body in netfilter.dump(_GET_RULE, struct.pack("!BBH", 0, 0, 0)):
            parts = attributes(body, 4)
            key = (body[0], string(parts[1]), string(parts[2]))
            if key[:2] in forwarding:
                rules.setdefault(key, []).append(_rule(parts.get(4, b"")))
    return [
        Chain(
            family=_FAMILIES[family],
            table=string(parts[1]),
            name=string(parts[3]),
            rules=tuple(rules.get((family, string(parts[1]), string(parts[3])), ())),
            policy=_policy(parts) if _is_forward(parts) else "",
        )
        for family, parts in heads
        if (family, string(parts[1])) in forwarding
    ]


def read_uplink() -> str:
    """Return the interface of the default route, "" without one. Raises OSError."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        index = next((index for to, _, index in read_routes(netlink) if to == "0.0.0.0/0"), 0)
        return next((link.name for link in read_links(netlink).values() if link.index == index), "")


def read_tunnels() -> list[ForeignTunnel]:
    """Return the VXLAN devices of the calling thread's namespace. Raises OSError."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        every = read_links(netlink).values()
    return [ForeignTunnel(link.name, link.tunnel.vni, link.tunnel.port) for link in every if link.tunnel is not None]


def same_tunnels(tunnels: Iterable[ForeignTunnel], overlays: Mapping[str, Overlay]) -> dict[str, str]:
    """Return, by network, what stands in the way of its VNI. Pure."""
    found = {}
    for network_id, overlay in overlays.items():
        for tunnel in tunnels:
            if overlay.tunnel is not None and (tunnel.vni, tunnel.port) == (overlay.tunnel.vni, overlay.tunnel.port):
                found[network_id] = (
                    f"{tunnel.name}, a VXLAN device of this host, not ours, has VNI {tunnel.vni} on UDP port {tunnel.port} too: "
                    f"give it another VNI, or remove it (ip link delete {tunnel.name})"
                )
    return found


def _is_forward(parts: Mapping[int, bytes]) -> bool:
    hook = attributes(parts.get(4, b"")).get(1)
    return hook is not None and struct.unpack("!I", hook)[0] == FORWARD and string(parts.get(7, b"")) == "filter"


def _policy(parts: Mapping[int, bytes]) -> str:
    return firewall.DROP if 5 in parts and struct.unpack("!I", parts[5])[0] == 0 else firewall.ACCEPT


def _rule(data: bytes) -> Rule:
    conditions: list[Condition] = []
    loaded = ""
    for _, expression in attribute_list(data):
        parts = attributes(expression)
        name, inner = string(parts.get(1, b"")), attributes(parts.get(2, b""))
        if name == "meta":
            loaded = _INTERFACE_KEYS.get(_number(inner.get(2)), "other")
        elif name == "cmp":
            conditions.append(_condition(loaded or "other", inner))
        elif name == "immediate":
            verdict = attributes(attributes(inner.get(2, b"")).get(2, b""))
            if verdict:
                code = struct.unpack("!i", verdict[1])[0]
                return Rule(tuple(conditions), _VERDICTS.get(code, firewall.NOTHING), string(verdict.get(2, b"")))
        elif name == "reject":
            return Rule(tuple(conditions), firewall.DROP)
        elif name not in _IGNORED:
            loaded = "other"
            if name in ("match", "lookup", "limit", "target"):
                conditions.append(Condition("other"))
    return Rule(tuple(conditions))


def _condition(what: str, inner: Mapping[int, bytes]) -> Condition:
    data = attributes(inner.get(3, b"")).get(1, b"")
    is_negated = _number(inner.get(2)) == 1
    return Condition(what, string(data), is_beginning=not data.endswith(b"\0"), is_negated=is_negated)


def _number(value: bytes | None) -> int:
    return int(struct.unpack("!I", value)[0]) if value else -1
