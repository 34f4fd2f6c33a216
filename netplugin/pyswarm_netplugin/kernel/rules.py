"""Our rulesets as nf_tables transactions.

A sandbox (table `pyswarm`, as `nft list ruleset` shows it in the container's namespace):

    map services { type ipv4_addr : verdict; elements = { 10.0.1.2 : goto t10.0.1.2_1f0c5a2b } }
    chain output { type nat hook output priority -100;
        ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5353        (and tcp: the node's DNS, so that port 53 stays free)
        ip daddr vmap @services }
    chain t10.0.1.2_1f0c5a2b { dnat to numgen inc mod 2 map { 0 : 10.0.1.5, 1 : 10.0.1.6 } }
    chain h10.0.1.3_9b1d3c0e { dnat to jhash ip saddr mod 2 seed 0x0 map { 0 : 10.0.1.5, 1 : 10.0.1.6 } }   (by source hash)

On a network with IPv6 a table `ip6` of the same name has the same for the virtual IPs' twins. A virtual IP without backends
refuses: TCP with a reset; UDP by leading it to a port where nobody listens, as what is rejected on its way out fails with EPERM.
A chain's name says its content, so a change is: new chain, new verdict, old chain gone, in one transaction.

The host (table `pyswarm_TAG`): masquerade what sandboxes send out, let nothing new in, keep them apart.
"""

import itertools
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

from pyswarm_netplugin.kernel import flow_expressions as flow
from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.naming import SANDBOX_TABLE, SOURCE_HASH_PREFIX, digest
from pyswarm_netplugin.operations import Balance

DNS_ADDRESS, DNS_PORT, DNS_LISTEN_PORT = "127.0.0.11", 53, 5353
SERVICES = "services"
_TCP, _UDP = 6, 17
_DESTINATION_NAT, _SOURCE_NAT, _FILTER = -100, 100, 0
_RULES_VERSION = "3"
_HOST_MARK_PREFIX = "rules_"
_BATCH_BYTES = 96 * 1024


VARIANTS = 8
"""Sandboxes take turns beginning with different backends, in so many ways."""
_REFUSING = {nft.IPV4: DNS_ADDRESS, nft.IPV6: "::1"}
_REFUSING_PORT = 1
"""Where nothing listens, so that the kernel refuses."""
_KEPT_BACKENDS = 32
"""How many backends a balancer may have whose packed form is kept."""
_set_ids = itertools.count(2)
"""Of anonymous maps: what is kept may meet anything else in one transaction, which tells them apart by these."""


def variant_of(sandbox_id: str) -> int:
    """Return which of the variants of `balance_batches` a sandbox has."""
    return zlib.crc32(sandbox_id.encode()) % VARIANTS


def balance_batches(balance: Balance, variant: int = 0) -> list[list[bytes]]:
    """Return the transactions that carry out a change of balancing; each virtual IP changes within one.

    `variant`: with which part of the backends balancing in turn begins.
    """
    batches = [nft.batch(_sandbox_base())] if balance.is_first else []
    if balance.is_first_ipv6:
        batches.append(nft.batch(_services_base(nft.IPV6)))
    old = dict(balance.old_chains)
    current: list[bytes] = []
    size = 0
    for step in _steps(balance, old, variant):
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
    return _services_base(nft.IPV4, *dns)


def _services_base(family: int, *first_rules: bytes) -> list[bytes]:
    table = SANDBOX_TABLE
    return [
        nft.table_add(table, family=family),
        nft.table_remove(table, family=family),
        nft.table_add(table, family=family),
        nft.verdict_map_add(table, SERVICES, family=family),
        nft.base_chain_add(table, "output", "nat", nft.OUTPUT, _DESTINATION_NAT, family=family),
        *first_rules,
        nft.rule_add(table, "output", nft.lookup_verdict(SERVICES, family=family), family=family),
    ]


def _steps(balance: Balance, old: dict[str, str], variant: int) -> Iterator[list[bytes]]:
    for virtual_ip, chain, backends in balance.put:
        first = 0 if chain.startswith(SOURCE_HASH_PREFIX) else len(backends) * variant // VARIANTS
        in_order = (*backends[first:], *backends[:first])
        put = _put if len(backends) <= _KEPT_BACKENDS else _put.__wrapped__
        yield [put(virtual_ip, chain, in_order, old.get(virtual_ip, ""))]
    for virtual_ip in balance.drop:
        yield [nft.verdict_drop(SANDBOX_TABLE, SERVICES, virtual_ip), *_chain_gone(old[virtual_ip], nft.family_of(virtual_ip))]


@lru_cache(maxsize=512)
def _put(virtual_ip: str, chain: str, backends: tuple[str, ...], old_chain: str) -> bytes:
    """Return what leads a virtual IP to a chain of these backends. Kept: each new sandbox needs those of all services."""
    family = nft.family_of(virtual_ip)
    step = [nft.chain_add(SANDBOX_TABLE, chain, family=family), *_balancer(chain, backends, family)]
    if old_chain:
        step.append(nft.verdict_drop(SANDBOX_TABLE, SERVICES, virtual_ip))
    step.append(nft.verdict_put(SANDBOX_TABLE, SERVICES, virtual_ip, chain))
    if old_chain:
        step += _chain_gone(old_chain, family)
    return b"".join(step)


def _chain_gone(chain: str, family: int) -> list[bytes]:
    return [nft.chain_empty(SANDBOX_TABLE, chain, family=family), nft.chain_remove(SANDBOX_TABLE, chain, family=family)]


def _balancer(chain: str, backends: tuple[str, ...], family: int) -> list[bytes]:
    table = SANDBOX_TABLE
    if not backends:
        return [
            nft.rule_add(table, chain, nft.protocol_is(_TCP), nft.refuse_tcp(), family=family),
            nft.rule_add(table, chain, nft.protocol_is(_UDP), nft.send_to(_REFUSING[family], _REFUSING_PORT), family=family),
            nft.rule_add(table, chain, nft.refuse(family=family), family=family),
        ]
    if len(backends) == 1:
        return [nft.rule_add(table, chain, nft.send_to(backends[0]), family=family)]
    set_id = next(_set_ids) & 0xFFFFFFFF
    is_by_source = chain.startswith(SOURCE_HASH_PREFIX)
    to_one = flow.send_to_one_of(set_id, len(backends), is_by_source=is_by_source, family=family)
    return [*nft.address_list_add(table, set_id, backends), nft.rule_add(table, chain, to_one, family=family)]


def host_mark(subnet: str, bridge: str, closed_ports: tuple[int, ...] = (), *, joins: bool = False) -> str:
    """Return the name of an empty chain that says which rules the host's table holds, and ends in the closed ports."""
    name = f"{_HOST_MARK_PREFIX}{digest(_RULES_VERSION, subnet, bridge, *(['joined'] if joins else []))}"
    return "_".join((name, *map(str, closed_ports)))


def closed_ports_of(chains: Iterable[str]) -> tuple[int, ...]:
    """Return the closed ports that the mark among a table's chains tells."""
    mark = next((chain for chain in chains if chain.startswith(_HOST_MARK_PREFIX)), "")
    return tuple(int(word) for word in mark.split("_")[2:] if word.isdigit())


def host_batch(table: str, subnet: str, bridge: str, closed_ports: tuple[int, ...] = (), *, joins: bool = False) -> list[bytes]:
    """Return the transaction that replaces the host's table, of the subnet's family.

    `joins`: sandboxes may talk to each other over the bridge, else only through ports that this host publishes. `closed_ports`:
    what comes by a tunnel's UDP port is taken for an overlay's, whoever sent it, so sandboxes send nothing there, neither to this
    host nor to others.
    """
    family = nft.family_of(subnet)
    out = nft.interface_is(bridge, is_output=True)
    into = nft.interface_is(bridge)
    not_out = nft.interface_is(bridge, is_output=True, is_not=True)
    accept, drop = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
    return nft.batch(
        [
            nft.table_add(table, family=family),
            nft.table_remove(table, family=family),
            nft.table_add(table, family=family),
            nft.chain_add(table, host_mark(subnet, bridge, closed_ports, joins=joins), family=family),
            nft.base_chain_add(table, "postrouting", "nat", nft.POSTROUTING, _SOURCE_NAT, family=family),
            nft.rule_add(table, "postrouting", nft.source_within(subnet), not_out, nft.masquerade(), family=family),
            nft.base_chain_add(table, "input", "filter", nft.INPUT, _FILTER, family=family),
            nft.base_chain_add(table, "forward", "filter", nft.FORWARD, _FILTER, family=family),
            *(
                nft.rule_add(table, chain, into, nft.protocol_is(_UDP), nft.destination_port_is(port), drop, family=family)
                for chain in ("input", "forward")
                for port in closed_ports
            ),
            nft.rule_add(table, "forward", into, out, nft.is_published(), accept, family=family),
            nft.rule_add(table, "forward", into, out, accept if joins else drop, family=family),
            nft.rule_add(table, "forward", into, accept, family=family),
            nft.rule_add(table, "forward", out, nft.is_known_connection(), accept, family=family),
            nft.rule_add(table, "forward", out, nft.is_published(), accept, family=family),
            nft.rule_add(table, "forward", out, drop, family=family),
        ]
    )
