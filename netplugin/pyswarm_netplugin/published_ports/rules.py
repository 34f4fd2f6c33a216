"""The table of published ports (`pyswarm_TAG_ports`), replaced as a whole by each change; connections that stand go on.

chain guard { type filter hook prerouting priority raw;
    iifname BRIDGE ip daddr 127.0.0.0/8 drop }             (route_localnet would open the host's loopback to containers)
chain prerouting { type nat hook prerouting priority dstnat;
    fib daddr type local tcp dport 8080 dnat to 172.17.0.2:80 }
chain output { … the same, for programs of the host }
chain postrouting { type nat hook postrouting priority srcnat;
    ip saddr 127.0.0.0/8 oifname BRIDGE ct status dnat masquerade      (from the host's loopback)
    ip saddr SUBNET oifname BRIDGE ct status dnat masquerade }         (from a neighbour or itself: answers must come back)
"""

from collections.abc import Iterator, Sequence

from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.naming import digest
from pyswarm_netplugin.published_ports.records import ANY_ADDRESS, PortForward

PORTS_MARK_PREFIX = "ports_"
LOOPBACK = "127.0.0.0/8"
_RULES_VERSION = "1"
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_RAW, _DESTINATION_NAT, _SOURCE_NAT = -300, -100, 99
"""A little before other source translation, so that a masquerade of the same traffic by others does not come first."""


def ports_mark(forwards: Sequence[PortForward]) -> str:
    """Return the name of an empty chain that says what the table holds; "" for no table."""
    if not forwards:
        return ""
    words = (f"{f.port.protocol} {f.port.host_address}:{f.port.host_port} {f.address}:{f.port.container_port}" for f in forwards)
    return f"{PORTS_MARK_PREFIX}{digest(_RULES_VERSION, *words)}"


def ports_batch(table: str, forwards: Sequence[PortForward], subnet: str, bridge: str) -> list[bytes]:
    """Return the transaction that replaces the table, or removes it when nothing is published."""
    start = [nft.table_add(table), nft.table_remove(table)]
    if not forwards:
        return nft.batch(start)
    into, out = nft.interface_is(bridge), nft.interface_is(bridge, is_output=True)
    return nft.batch(
        [
            *start,
            nft.table_add(table),
            nft.chain_add(table, ports_mark(forwards)),
            nft.base_chain_add(table, "guard", "filter", nft.PREROUTING, _RAW),
            nft.rule_add(table, "guard", into, nft.destination_within(LOOPBACK), nft.verdict(nft.DROP)),
            nft.base_chain_add(table, "prerouting", "nat", nft.PREROUTING, _DESTINATION_NAT),
            *forwarding(table, "prerouting", forwards),
            nft.base_chain_add(table, "output", "nat", nft.OUTPUT, _DESTINATION_NAT),
            *forwarding(table, "output", forwards),
            nft.base_chain_add(table, "postrouting", "nat", nft.POSTROUTING, _SOURCE_NAT),
            nft.rule_add(table, "postrouting", nft.source_within(LOOPBACK), out, nft.is_published(), nft.masquerade()),
            nft.rule_add(table, "postrouting", nft.source_within(subnet), out, nft.is_published(), nft.masquerade()),
        ]
    )


def forwarding(table: str, chain: str, forwards: Sequence[PortForward]) -> Iterator[bytes]:
    """Return the rules that lead ports of the host to sandboxes."""
    for forward in forwards:
        port = forward.port
        is_any = port.host_address == ANY_ADDRESS
        yield nft.rule_add(
            table,
            chain,
            nft.destination_is_local() if is_any else nft.destination_is(port.host_address),
            nft.protocol_is(_PROTOCOLS[port.protocol]),
            nft.destination_port_is(port.host_port),
            nft.send_to(forward.address, port.container_port),
        )
