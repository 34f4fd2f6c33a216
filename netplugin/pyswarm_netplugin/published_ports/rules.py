"""The table of published ports (`pyswarm_TAG_ports`), replaced as a whole by each change; connections that stand go on.

chain guard { type filter hook prerouting priority raw;
    iifname BRIDGE ip daddr 127.0.0.0/8 drop }             (route_localnet would open the host's loopback to containers)
chain prerouting { type nat hook prerouting priority dstnat;
    fib daddr type local tcp dport 8080 dnat to 172.17.0.2:80 }
chain output { … the same, for programs of the host }
chain postrouting { type nat hook postrouting priority srcnat;
    ip saddr 127.0.0.0/8 oifname BRIDGE ct status dnat masquerade      (from the host's loopback)
    ip saddr SUBNET oifname BRIDGE ct status dnat masquerade }         (from a neighbour or itself: answers must come back)

With ports on IPv6 addresses a table `ip6` of the same name has the same, but no guard: the kernel takes nothing for ::1 from
other interfaces. It takes answers for ::1 only where ::1 is local too, hence `local ::1 dev BRIDGE`; and not at all when the host
translates what it bridges (br_netfilter), as then they come in for ::1. Link-local clients (fe80::/10) cannot be led on: their
packets must not leave the link. Where a port is not led on, the reserving socket refuses.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.naming import digest
from pyswarm_netplugin.published_ports.records import ANY_ADDRESS, ANY_IPV6_ADDRESS, PortForward

PORTS_MARK_PREFIX = "ports_"
LOOPBACK = "127.0.0.0/8"
_LINK_LOCAL, _IPV6_LOOPBACK = "fe80::/10", "::1/128"
_IPV6_SUFFIX = "_6"
_RULES_VERSION = "1"
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_RAW, _DESTINATION_NAT, _SOURCE_NAT = -300, -100, 99
"""A little before other source translation, so that a masquerade of the same traffic by others does not come first."""


def ports_mark(forwards: Sequence[PortForward]) -> str:
    """Return the name of an empty chain that says what the tables hold, with IPv6 or without; "" for no table."""
    if not forwards:
        return ""
    words = (f"{f.port.protocol} {f.port.host_address}:{f.port.host_port} {f.address}:{f.port.container_port}" for f in forwards)
    return f"{PORTS_MARK_PREFIX}{digest(_RULES_VERSION, *words)}{_IPV6_SUFFIX if any_ipv6(forwards) else ''}"


def any_ipv6(forwards: Iterable[PortForward]) -> bool:
    """Whether ports are published on IPv6 addresses."""
    return any(forward.port.is_ipv6 for forward in forwards)


def mark_seen(chains: Iterable[str], ipv6_chains: Iterable[str]) -> str:
    """Return the mark of what stands, from the chains of the two tables; one that is never wanted when they do not fit."""
    mark, ipv6_mark = (next((c for c in found if c.startswith(PORTS_MARK_PREFIX)), "") for found in (chains, ipv6_chains))
    return mark if ipv6_mark == (mark if mark.endswith(_IPV6_SUFFIX) else "") else f"{mark}_torn"


def network_of(address: str) -> str:
    """Return the network of an address with prefix length, of either family."""
    return str(ipaddress.ip_interface(address).network)


def ports_batch(
    table: str,
    forwards: Sequence[PortForward],
    subnets: Sequence[str],
    bridge: str,
    *,
    has_ipv6_table: bool = False,
    leads_ipv6_loopback: bool = True,
) -> list[bytes]:
    """Return the transaction that replaces the tables, or removes them when nothing is published.

    `subnets`: the bridge's, of IPv4 and then of IPv6 if it has one. `has_ipv6_table`: the one of IPv6 stands.
    `leads_ipv6_loopback`: ports on ::1 are led on, too.
    """
    messages = [nft.table_add(table), nft.table_remove(table)]
    messages += _ipv4_table(table, forwards, subnets[0], bridge) if forwards else []
    if has_ipv6_table or any_ipv6(forwards):
        messages += [nft.table_add(table, family=nft.IPV6), nft.table_remove(table, family=nft.IPV6)]
    if any_ipv6(forwards):
        sources = (_IPV6_LOOPBACK, *subnets[1:])
        messages += _table(table, forwards, sources, bridge, nft.IPV6, leads_ipv6_loopback=leads_ipv6_loopback)
    return nft.batch(messages)


def _ipv4_table(table: str, forwards: Sequence[PortForward], subnet: str, bridge: str) -> list[bytes]:
    return [
        *_table(table, forwards, (LOOPBACK, subnet), bridge, nft.IPV4),
        nft.base_chain_add(table, "guard", "filter", nft.PREROUTING, _RAW),
        nft.rule_add(table, "guard", nft.interface_is(bridge), nft.destination_within(LOOPBACK), nft.verdict(nft.DROP)),
    ]


def _table(
    table: str,
    forwards: Sequence[PortForward],
    sources: Sequence[str],
    bridge: str,
    family: int,
    *,
    leads_ipv6_loopback: bool = True,
) -> list[bytes]:
    own = [forward for forward in forwards if nft.family_of(forward.address) == family]
    never = [subnet for subnet, is_led in ((_LINK_LOCAL, False), (_IPV6_LOOPBACK, leads_ipv6_loopback)) if not is_led]
    never = never if family == nft.IPV6 else []
    out = nft.interface_is(bridge, is_output=True)
    return [
        nft.table_add(table, family=family),
        nft.chain_add(table, ports_mark(forwards), family=family),
        nft.base_chain_add(table, "prerouting", "nat", nft.PREROUTING, _DESTINATION_NAT, family=family),
        *forwarding(table, "prerouting", own, never),
        nft.base_chain_add(table, "output", "nat", nft.OUTPUT, _DESTINATION_NAT, family=family),
        *forwarding(table, "output", own, never),
        nft.base_chain_add(table, "postrouting", "nat", nft.POSTROUTING, _SOURCE_NAT, family=family),
        *(
            nft.rule_add(table, "postrouting", nft.source_within(source), out, nft.is_published(), nft.masquerade(), family=family)
            for source in sources
        ),
    ]


def forwarding(table: str, chain: str, forwards: Sequence[PortForward], never: Sequence[str] = ()) -> Iterator[bytes]:
    """Return the rules that lead ports of the host to sandboxes, in the table of the addresses' family.

    `never`: subnets of which no address is led on.
    """
    elsewhere = b"".join(nft.destination_within(subnet, is_not=True) for subnet in never)
    for forward in forwards:
        port, family = forward.port, nft.family_of(forward.address)
        is_any = port.host_address in (ANY_ADDRESS, ANY_IPV6_ADDRESS)
        yield nft.rule_add(
            table,
            chain,
            elsewhere,
            nft.destination_is_local() if is_any else nft.destination_is(port.host_address),
            nft.protocol_is(_PROTOCOLS[port.protocol]),
            nft.destination_port_is(port.host_port),
            nft.send_to(forward.address, port.container_port),
            family=family,
        )
