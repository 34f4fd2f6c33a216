"""Our rulesets as nf_tables transactions.

A sandbox (table `pyswarm`, as `nft list ruleset` shows it in the container's namespace):

    map services { type ipv4_addr : verdict; elements = { 10.0.1.2 : goto v10.0.1.2_1f0c5a2b } }
    chain output { type nat hook output priority -100;
        ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5353        (and tcp: the node's DNS, so that port 53 stays free)
        ip daddr vmap @services }
    chain v10.0.1.2_1f0c5a2b { dnat to numgen random mod 2 map { 0 : 10.0.1.5, 1 : 10.0.1.6 } }

A virtual IP without backends refuses. A chain's name says its content, so a change is: new chain, new verdict, old chain gone,
in one transaction. The host (table `pyswarm_TAG`): masquerade what sandboxes send out, let nothing new in, keep them apart.
"""

from collections.abc import Iterator

from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.naming import SANDBOX_TABLE, digest
from pyswarm_netplugin.operations import Balance

DNS_ADDRESS, DNS_PORT, DNS_LISTEN_PORT = "127.0.0.11", 53, 5353
SERVICES = "services"
_TCP, _UDP = 6, 17
_DESTINATION_NAT, _SOURCE_NAT, _FILTER = -100, 100, 0
_RULES_VERSION = "1"
_BATCH_BYTES = 96 * 1024


def balance_batches(balance: Balance) -> list[list[bytes]]:
    """Return the transactions that carry out a change of balancing; each virtual IP changes within one."""
    batches = [nft.batch(_sandbox_base())] if balance.is_first else []
    old = dict(balance.old_chains)
    current: list[bytes] = []
    size = 0
    for step in _steps(balance, old):
        current += step
        size += sum(map(len, step))
        if size > _BATCH_BYTES:
            batches.append(nft.batch(current))
            current, size = [], 0
    if current:
        batches.append(nft.batch(current))
    return batches


def _sandbox_base() -> list[bytes]:
    table = SANDBOX_TABLE
    to_dns = nft.send_to(DNS_ADDRESS, DNS_LISTEN_PORT)
    dns = [
        nft.rule_add(
            table, "output", nft.destination_is(DNS_ADDRESS), nft.protocol_is(protocol), nft.destination_port_is(DNS_PORT), to_dns
        )
        for protocol in (_UDP, _TCP)
    ]
    return [
        nft.table_add(table),
        nft.table_remove(table),
        nft.table_add(table),
        nft.verdict_map_add(table, SERVICES),
        nft.base_chain_add(table, "output", "nat", nft.OUTPUT, _DESTINATION_NAT),
        *dns,
        nft.rule_add(table, "output", nft.lookup_verdict(SERVICES)),
    ]


def _steps(balance: Balance, old: dict[str, str]) -> Iterator[list[bytes]]:
    for number, (virtual_ip, chain, backends) in enumerate(balance.put, 2):
        step = [nft.chain_add(SANDBOX_TABLE, chain), *_balancer(chain, backends, number)]
        if virtual_ip in old:
            step.append(nft.verdict_drop(SANDBOX_TABLE, SERVICES, virtual_ip))
        step.append(nft.verdict_put(SANDBOX_TABLE, SERVICES, virtual_ip, chain))
        if virtual_ip in old:
            step += _chain_gone(old[virtual_ip])
        yield step
    for virtual_ip in balance.drop:
        yield [nft.verdict_drop(SANDBOX_TABLE, SERVICES, virtual_ip), *_chain_gone(old[virtual_ip])]


def _chain_gone(chain: str) -> list[bytes]:
    return [nft.chain_empty(SANDBOX_TABLE, chain), nft.chain_remove(SANDBOX_TABLE, chain)]


def _balancer(chain: str, backends: tuple[str, ...], set_id: int) -> list[bytes]:
    table = SANDBOX_TABLE
    if not backends:
        return [
            nft.rule_add(table, chain, nft.protocol_is(_TCP), nft.refuse_tcp()),
            nft.rule_add(table, chain, nft.refuse()),
        ]
    if len(backends) == 1:
        return [nft.rule_add(table, chain, nft.send_to(backends[0]))]
    choice = nft.rule_add(table, chain, nft.send_to_one_of(set_id, len(backends)))
    return [*nft.address_list_add(table, set_id, backends), choice]


def host_mark(subnet: str, bridge: str, *, joins: bool = False) -> str:
    """Return the name of an empty chain that says which rules the host's table holds."""
    return f"rules_{digest(_RULES_VERSION, subnet, bridge, *(['joined'] if joins else []))}"


def host_batch(table: str, subnet: str, bridge: str, *, joins: bool = False) -> list[bytes]:
    """Return the transaction that replaces the host's table. `joins`: sandboxes may talk to each other over the bridge."""
    out = nft.interface_is(bridge, is_output=True)
    into = nft.interface_is(bridge)
    not_out = nft.interface_is(bridge, is_output=True, is_not=True)
    accept, drop = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
    return nft.batch(
        [
            nft.table_add(table),
            nft.table_remove(table),
            nft.table_add(table),
            nft.chain_add(table, host_mark(subnet, bridge, joins=joins)),
            nft.base_chain_add(table, "postrouting", "nat", nft.POSTROUTING, _SOURCE_NAT),
            nft.rule_add(table, "postrouting", nft.source_within(subnet), not_out, nft.masquerade()),
            nft.base_chain_add(table, "forward", "filter", nft.FORWARD, _FILTER),
            nft.rule_add(table, "forward", into, out, accept if joins else drop),
            nft.rule_add(table, "forward", into, accept),
            nft.rule_add(table, "forward", out, nft.is_known_connection(), accept),
            nft.rule_add(table, "forward", out, nft.is_published(), accept),
            nft.rule_add(table, "forward", out, drop),
        ]
    )
