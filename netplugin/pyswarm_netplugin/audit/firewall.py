"""Whether other tables of the host would drop what our bridge forwards; pure. Nothing of others is ever changed.

A packet is forwarded only when every table's forward chain lets it pass, ours among them. Others often drop by policy what they
did not make themselves: `iptables -P FORWARD DROP`, firewalld, ufw, another container engine. What a rule asks that is not
understood here counts as not met, so a chain that accepts for such a reason may be reported though it lets packets pass.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

ACCEPT, DROP, JUMP, GOTO, RETURN, NOTHING = "accept", "drop", "jump", "goto", "return", ""
_LONGEST_WAY = 32


class Condition(NamedTuple):
    """One thing that a rule asks. `what`: iif, oif (then `name`, which may be the beginning of one), known (an established
    connection), or other."""

    what: str
    name: str = ""
    is_beginning: bool = False
    is_negated: bool = False


class Rule(NamedTuple):
    """A rule: all conditions, then a verdict; `target` of a jump."""

    conditions: tuple[Condition, ...] = ()
    verdict: str = NOTHING
    target: str = ""


class Chain(NamedTuple):
    """A chain. `policy` of one that the kernel calls for forwarded packets, "" of others."""

    family: str
    table: str
    name: str
    rules: tuple[Rule, ...] = ()
    policy: str = ""


class Packet(NamedTuple):
    """The first packet of a connection that is to be forwarded."""

    iif: str
    oif: str


def blocking(chains: Iterable[Chain], bridge: str, uplink: str, own_tables: Iterable[str]) -> Iterator[str]:
    """Yield a warning, with the command that helps, for each table that drops what goes out of the bridge or into it."""
    others = [chain for chain in chains if chain.table not in set(own_tables)]
    by_table: dict[tuple[str, str], dict[str, Chain]] = {}
    for chain in others:
        by_table.setdefault((chain.family, chain.table), {})[chain.name] = chain
    for chain in others:
        table = by_table[chain.family, chain.table]
        ways = {"out of": Packet(bridge, uplink), "into": Packet(uplink, bridge)}
        stopped = [way for way, packet in ways.items() if chain.policy and _verdict(table, chain, packet) == DROP]
        if stopped:
            yield (
                f"the host's firewall drops what is forwarded {' and '.join(stopped)} {bridge}: chain {chain.name} of table "
                f"{chain.family} {chain.table} (policy {chain.policy}); allow it: {command(chain, table, bridge)}"
            )


def command(chain: Chain, table: Mapping[str, Chain], bridge: str) -> str:
    """Return the command by which the owner of the table lets our bridge pass."""
    if chain.table == "firewalld":
        return f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
    if any(name.startswith("ufw") for name in table):
        return f"ufw route allow in on {bridge} && ufw route allow out on {bridge}"
    if (chain.family, chain.table, chain.name) == ("ip", "filter", "FORWARD"):
        where = "DOCKER-USER" if "DOCKER-USER" in table else "FORWARD"
        return f"iptables -I {where} -i {bridge} -j ACCEPT && iptables -I {where} -o {bridge} -j ACCEPT"
    at = f"insert rule {chain.family} {chain.table} {chain.name}"
    return f"nft '{at} iifname {bridge} accept; {at} oifname {bridge} accept'"


def _verdict(table: Mapping[str, Chain], chain: Chain, packet: Packet) -> str:
    return _walk(table, chain, packet, 0) or chain.policy


def _walk(table: Mapping[str, Chain], chain: Chain, packet: Packet, depth: int) -> str:
    """Return accept or drop, "" when the chain's end is reached."""
    for rule in chain.rules:
        if not all(_is_met(condition, packet) for condition in rule.conditions):
            continue
        if rule.verdict in (ACCEPT, DROP):
            return rule.verdict
        if rule.verdict == RETURN:
            return NOTHING
        if rule.verdict in (JUMP, GOTO) and rule.target in table and depth < _LONGEST_WAY:
            found = _walk(table, table[rule.target], packet, depth + 1)
            if found or rule.verdict == GOTO:
                return found
    return NOTHING


def _is_met(condition: Condition, packet: Packet) -> bool:
    if condition.what not in ("iif", "oif"):
        return False
    name = packet.iif if condition.what == "iif" else packet.oif
    is_same = name.startswith(condition.name) if condition.is_beginning else name == condition.name
    return is_same != condition.is_negated
