"""Which of the facts that differ are ours to put right, where others may do as they like; pure.

A container may do in its own namespace what its capabilities allow: add addresses, routes, rules and neighbours and take them away
again, lead everything out by an interface of its own, turn IPv6 off. The same goes for the host's administrator. So of what was
sealed there, only what the driver itself has written is restored.
"""

import ipaddress

from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.facts import (
    ADDRESS,
    CHANGED,
    LINK,
    NEIGHBOUR,
    ROUTE,
    RULE,
    SETTING,
    Difference,
    Entry,
    Facts,
    Key,
    LinkFact,
)
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.operations import HOST_SCOPE
from pyswarm_netplugin.state import Egress, Link, Sandbox, State

NO_IPV6 = "ipv6/conf/all/disable_ipv6"
"""The switch by which a container turns IPv6 off on all of its interfaces; the driver never touches it."""
_DEFAULTS = ("0.0.0.0/0", "::/0")
_MAIN = " table 254"
_RETURN_PRIORITIES = ("999", "1000")
_LOOPBACK = Key(ADDRESS, "lo", "127.0.0.1/8")


def is_ours(difference: Difference, scope: str, now: Facts, desired: State, tag: str) -> bool:
    """Whether the driver wrote what is different. `now`: all facts of the scope as they are."""
    key = difference.key
    kind, _, id_ = scope.partition(" ")
    if kind == "overlay":
        return key.device != naming.TRUNK_PORT  # of the two drivers that it joins, another one makes it
    if scope == HOST_SCOPE:
        return _is_ours_in_host(key, desired.egress, naming.egress_bridge(tag))
    sandbox = desired.sandboxes.get(id_) if kind == "sandbox" else None
    if sandbox is None or id_ == MESH_SANDBOX_ID:
        return True
    return _is_ours_in_sandbox(difference, sandbox, now)


def _is_ours_in_host(key: Key, egress: Egress | None, bridge: str) -> bool:
    own = (egress.address, egress.ipv6_address) if egress is not None else ()
    if key.kind == ADDRESS:
        return key.name in own
    if key.kind == ROUTE:
        return key.name in {_connected(address) for address in own if address}
    return key.kind != NEIGHBOUR or key.device != bridge


def _is_ours_in_sandbox(difference: Difference, sandbox: Sandbox, now: Facts) -> bool:
    key, link = difference.key, sandbox.links.get(difference.key.device)
    if key.kind in (NEIGHBOUR, SETTING):
        return False
    if key.kind == LINK:
        return key.device != "lo" or _went_down(difference)
    if key.kind == ADDRESS:
        is_written = key == _LOOPBACK or (link is not None and key.name in (link.address, link.ipv6_address))
        return is_written and not (naming.is_ipv6(key.name) and _has_no_ipv6(now))
    if key.kind == RULE:
        return sandbox.returns is not None and key.name.split()[1] in _RETURN_PRIORITIES
    if key.kind == ROUTE:
        return _is_our_route(difference, sandbox, link, now)
    return True


def _went_down(difference: Difference) -> bool:
    before, after = difference.before, difference.now
    return isinstance(before, LinkFact) and before.is_up and not (isinstance(after, LinkFact) and after.is_up)


def _has_no_ipv6(now: Facts) -> bool:
    return now.get(Key(SETTING, "", NO_IPV6)) == Entry("1")


def _is_our_route(difference: Difference, sandbox: Sandbox, link: Link | None, now: Facts) -> bool:
    key = difference.key
    if _MAIN not in f"{key.name} ":
        gateways = sandbox.returns.gateways if sandbox.returns is not None else ()
        return int(key.name.split()[2]) in {int(ipaddress.ip_address(gateway)) for gateway in gateways}
    if link is None:
        return False
    to = key.name.partition(" ")[0]
    if to in _DEFAULTS:
        is_written = bool(link.ipv6_gateway if naming.is_ipv6(to) else link.gateway)
        return is_written and difference.how != CHANGED and not _leads_elsewhere(key, to, now)
    return key.name in {_connected(link.address), *(f"{route}{_MAIN}" for route in link.routes)}


def _leads_elsewhere(key: Key, to: str, now: Facts) -> bool:
    """Whether the container has a default route of its own instead."""
    others = (other for other in now if other.kind == ROUTE and other != key)
    return any(f"{other.name} ".startswith(f"{to}{_MAIN} ") for other in others) or (naming.is_ipv6(to) and _has_no_ipv6(now))


def _connected(address: str) -> str:
    return f"{ipaddress.ip_interface(address).network}{_MAIN}"
