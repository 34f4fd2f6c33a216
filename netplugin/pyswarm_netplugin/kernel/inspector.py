"""What the audit asks of the real kernel: the facts of every namespace of ours, and to put single facts right.

Blocking, on the driver's own thread. A namespace's tables are read only when its generation has moved.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import structlog

from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.facts import CHANGED, LINK, SETTING, TABLE, Difference, Entry, Fact, Facts, Key, LinkFact
from pyswarm_netplugin.audit.ownership import NO_IPV6
from pyswarm_netplugin.audit.yielding import AuditInterrupted
from pyswarm_netplugin.kernel import nftables
from pyswarm_netplugin.kernel.facts import Memo, read_facts, restore_message, settings_message
from pyswarm_netplugin.kernel.links import SANDBOX_LINK_GROUP
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.kernel.tables import generation, read_tables
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.operations import HOST_SCOPE, overlay_scope, sandbox_scope
from pyswarm_netplugin.secure.operations import SECURE_SCOPE

_log = structlog.get_logger()
_SYSCTL = Path("/proc/sys/net")
_MESH_SETTINGS = ["ipv4/ip_forward", "ipv4/conf/all/rp_filter"]
_HOST_SETTINGS = ("ipv4/ip_forward",)
_REMADE_SUFFIX = "_nets"
"""Of the host's table which is made outside of the plan (`host_bridges`), anew whenever it is not there."""
_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.EEXIST)
_FAMILIES = {"inet": 1, "ip": 2, "ip6": 10, "bridge": 7, "netdev": 5, "arp": 3}


class KernelInspector:
    """Reads facts, by scope (`operations.overlay_scope` and its likes), and restores them."""

    def __init__(self, namespaces: Namespaces, tag: str) -> None:
        self._namespaces = namespaces
        self._tag = tag
        self._tables: dict[str, tuple[int, dict[Key, Fact]]] = {}
        self._names: dict[str, str] = {}
        self._written: dict[str, int] = {}
        self._memos: dict[str, Memo] = {}

    def read(self, must_end: Callable[[], bool] = lambda: False) -> dict[str, Facts]:
        """Return the facts of all that stands. Raises OSError, AuditInterrupted once `must_end` says so."""
        found: dict[str, Facts] = {HOST_SCOPE: self._host()}
        self._names = {}
        for name, is_live in self._namespaces.names().items():
            scope = _scope_of(name)
            if not is_live or not scope:
                continue
            if must_end():
                raise AuditInterrupted
            self._names[scope] = name
            with self._namespaces.inside(name):
                found[scope] = self._sandbox(scope) if name.startswith(naming.SANDBOX_PREFIX) else self._overlay(scope)
        self._tables = {scope: known for scope, known in self._tables.items() if scope in found}
        self._memos = {scope: memo for scope, memo in self._memos.items() if scope in found}
        return found

    def note_written(self, scope: str, netfilter: NetlinkSocket) -> None:
        """Remember the generation of a namespace's tables right after they were written by us. Raises OSError."""
        self._written[scope] = generation(netfilter)

    def rewritten(self) -> frozenset[str]:
        """Return the scopes in which others have changed tables since we wrote ours, as far as the last `read` saw; once."""
        written, self._written = self._written, {}
        return frozenset(s for s, number in written.items() if s in self._tables and self._tables[s][0] != number)

    def restore(self, scope: str, differences: tuple[Difference, ...]) -> None:
        """Make these facts as they were sealed, as far as that can be done one by one. Raises OSError."""
        if scope == HOST_SCOPE:
            _restore(differences)
        elif scope in self._names:
            with self._namespaces.inside(self._names[scope]):
                _restore(differences)

    def _host(self) -> Facts:
        bridge, table = naming.egress_bridge(self._tag), naming.host_table(self._tag)
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            facts = read_facts(netlink, lambda name, _: name == bridge or naming.is_egress_port(self._tag, name))
        facts = {key: fact for key, fact in facts.items() if key.device}
        facts |= self._read_tables(HOST_SCOPE, lambda name: name == table or name.startswith(f"{table}_"))
        settings = [*_HOST_SETTINGS, f"ipv4/conf/{bridge}/route_localnet", f"ipv6/conf/{bridge}/disable_ipv6"]
        if Key(TABLE, "", f"ip6 {table}") in facts:  # else it is others' whether the host forwards IPv6
            settings.append("ipv6/conf/all/forwarding")
        return facts | _settings(settings)

    def _overlay(self, scope: str) -> Facts:
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            facts = read_facts(netlink, lambda name, _: name != "lo", self._memos.setdefault(scope, {}))
        return facts | self._read_tables(scope, lambda name: True) | _settings(["bridge/bridge-nf-call-iptables"])

    def _sandbox(self, scope: str) -> Facts:
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            facts = read_facts(netlink, _is_of_sandbox, with_defaults=True, with_neighbours=False)  # none there is ours
        facts |= self._read_tables(scope, lambda name: name.startswith(naming.SANDBOX_TABLE))
        return facts | _settings(_MESH_SETTINGS if scope == sandbox_scope(MESH_SANDBOX_ID) else [NO_IPV6])

    def _read_tables(self, scope: str, is_ours: Callable[[str], bool]) -> dict[Key, Fact]:
        with NetlinkSocket(NETLINK_NETFILTER) as netfilter:
            number = generation(netfilter)
            known = self._tables.get(scope)
            if known is None or known[0] != number:
                known = self._tables[scope] = (number, read_tables(netfilter, is_ours))
        return known[1]


def _is_of_sandbox(name: str, group: int) -> bool:
    return name == "lo" or group == SANDBOX_LINK_GROUP


def _scope_of(name: str) -> str:
    if name.startswith(naming.OVERLAY_PREFIX):
        return overlay_scope(name.removeprefix(naming.OVERLAY_PREFIX))
    if name == naming.SECURE_NAMESPACE:
        return SECURE_SCOPE
    return sandbox_scope(name.removeprefix(naming.SANDBOX_PREFIX)) if name.startswith(naming.SANDBOX_PREFIX) else ""


def _settings(names: list[str]) -> dict[Key, Fact]:
    found: dict[Key, Fact] = {}
    for name in names:
        try:
            found[Key(SETTING, "", name)] = Entry((_SYSCTL / name).read_text().strip())
        except OSError:
            continue
    return found


def _restore(differences: tuple[Difference, ...]) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        index_of = {
            key.device: fact.index
            for key, fact in read_facts(netlink, lambda name, _: True).items()
            if key.kind == LINK and isinstance(fact, LinkFact)
        }
        for difference in sorted(differences, key=lambda each: each.key.kind != LINK):
            try:
                _restore_one(netlink, difference, index_of)
            except OSError as error:  # what comes after it is put right all the same
                _log.debug("network.fact_not_restored", fact=difference.describe(), error=str(error))


def _restore_one(netlink: NetlinkSocket, difference: Difference, index_of: dict[str, int]) -> None:
    key, before = difference.key, difference.before
    if key.kind == SETTING and isinstance(before, Entry):
        (_SYSCTL / key.name).write_text(before.shown)
    if key.kind == TABLE and (before is None or (difference.how == CHANGED and key.name.endswith(_REMADE_SUFFIX))):
        _remove_table(key.name)
    restoring = restore_message(difference, index_of)
    if restoring is not None:
        netlink.send([restoring], tolerated=_GONE)
    if key.kind == LINK and isinstance(before, LinkFact) and difference.how == CHANGED:
        settings = settings_message(key.device, before)
        if settings is not None:
            netlink.send([settings])


def _remove_table(name: str) -> None:
    family, _, table = name.partition(" ")
    with NetlinkSocket(NETLINK_NETFILTER) as netfilter:
        netfilter.send_whole(nftables.batch([nftables.table_remove(table, family=_FAMILIES[family])]))
