"""The host's table of its own networks (`pyswarm_TAG_nets`), replaced as a whole by each change; connections that stand go on.

chain guard { type filter hook prerouting priority raw;
    iifname BR ip daddr 127.0.0.0/8 drop }                  (route_localnet would open the host's loopback to containers)
chain prerouting { type nat hook prerouting priority dstnat;
    fib daddr type local tcp dport 8080 dnat to 172.18.0.2:80 }
chain output { … the same, for programs of the host }
chain postrouting { type nat hook postrouting priority srcnat;
    ip saddr 127.0.0.0/8 oifname BR ct status dnat masquerade
    ip saddr SUBNET oifname BR ct status dnat masquerade    (from a neighbour or itself: answers must come back)
    ip saddr SUBNET oifname != BR masquerade }
chain input { type filter hook input priority 0;
    iifname BR udp dport 4789 drop }                         (a tunnel's port, to which no container may send)
chain forward { type filter hook forward priority 0;
    iifname BR oifname != BR udp dport 4789 drop
    iifname BR oifname BR accept                             (of an internal network, all else is dropped)
    oifname BR ct state established,related accept
    oifname BR ct status dnat accept
    oifname BR drop }                                        (so networks are apart, and closed to the outside)
"""

from collections.abc import Iterator, Sequence

from pyswarm_netplugin.egress import subnet_of
from pyswarm_netplugin.host_bridges.bridges import HostBridge
from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.naming import digest
from pyswarm_netplugin.published_ports.rules import LOOPBACK, forwarding

_RULES_VERSION = "1"
_UDP = 17
_RAW, _DESTINATION_NAT, _SOURCE_NAT, _FILTER = -300, -100, 99, 0


def table_name(tag: str) -> str:
    """Return the name of this instance's table."""
    return f"pyswarm_{tag}_nets"


def mark_of(bridges: Sequence[HostBridge]) -> str:
    """Return the name of an empty chain that says what the table holds; "" for no table."""
    return f"nets_{digest(_RULES_VERSION, *map(repr, bridges))}" if bridges else ""


def batch_of(table: str, bridges: Sequence[HostBridge]) -> list[bytes]:
    """Return the transaction that replaces the table, or removes it when there is no such network."""
    start = [nft.table_add(table), nft.table_remove(table)]
    if not bridges:
        return nft.batch(start)
    return nft.batch(
        [
            *start,
            nft.table_add(table),
            nft.chain_add(table, mark_of(bridges)),
            nft.base_chain_add(table, "guard", "filter", nft.PREROUTING, _RAW),
            nft.base_chain_add(table, "prerouting", "nat", nft.PREROUTING, _DESTINATION_NAT),
            nft.base_chain_add(table, "output", "nat", nft.OUTPUT, _DESTINATION_NAT),
            nft.base_chain_add(table, "postrouting", "nat", nft.POSTROUTING, _SOURCE_NAT),
            nft.base_chain_add(table, "input", "filter", nft.INPUT, _FILTER),
            nft.base_chain_add(table, "forward", "filter", nft.FORWARD, _FILTER),
            *(rule for bridge in bridges for rule in _rules(table, bridge)),
        ]
    )


def _rules(table: str, bridge: HostBridge) -> Iterator[bytes]:
    subnet = subnet_of(bridge.address)
    into, out = nft.interface_is(bridge.interface), nft.interface_is(bridge.interface, is_output=True)
    not_out = nft.interface_is(bridge.interface, is_output=True, is_not=True)
    not_into = nft.interface_is(bridge.interface, is_not=True)
    accept, drop = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
    yield nft.rule_add(table, "guard", into, nft.destination_within(LOOPBACK), drop)
    for chain in ("prerouting", "output"):
        yield from forwarding(table, chain, bridge.forwards)
    for source in (LOOPBACK, subnet):
        yield nft.rule_add(table, "postrouting", nft.source_within(source), out, nft.is_published(), nft.masquerade())
    if bridge.masquerades and not bridge.is_internal:
        yield nft.rule_add(table, "postrouting", nft.source_within(subnet), not_out, nft.masquerade())
    for port in bridge.closed_ports:
        to_tunnel = nft.protocol_is(_UDP) + nft.destination_port_is(port)
        yield nft.rule_add(table, "input", into, to_tunnel, drop)
        yield nft.rule_add(table, "forward", into, not_out, to_tunnel, drop)
    yield nft.rule_add(table, "forward", into, out, accept)
    if bridge.is_internal:
        yield nft.rule_add(table, "forward", into, not_out, drop)
        yield nft.rule_add(table, "forward", not_into, out, drop)
        return
    yield nft.rule_add(table, "forward", out, nft.is_known_connection(), accept)
    yield nft.rule_add(table, "forward", out, nft.is_published(), accept)
    yield nft.rule_add(table, "forward", out, drop)
