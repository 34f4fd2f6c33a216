"""The real kernel: carries operations out in namespaces, by packed netlink. Each is idempotent: what stands already is no error."""

import contextlib
import errno
import socket
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import assert_never

from pyswarm_common.errors import Conflict, FailedPrecondition
from pyswarm_netplugin import naming
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.egress import subnet_of
from pyswarm_netplugin.kernel import (
    conntrack,
    features,
    ipv6,
    ipv6_forwarding,
    links,
    mesh,
    nftables,
    observe,
    ports,
    rules,
    sandbox_links,
)
from pyswarm_netplugin.kernel.inspector import KernelInspector
from pyswarm_netplugin.kernel.interface import HostNetwork
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.kernel.peers import is_any_ipv6, peer_add, peer_remove
from pyswarm_netplugin.kernel.tunnel_guard import guard_tunnel
from pyswarm_netplugin.overlay_links import SMALLEST_IPV6_MTU_BYTES, ipv6_subnet_of
from pyswarm_netplugin.secure.namespace import SecureNamespace
from pyswarm_netplugin.secure.records import Encryption
from pyswarm_netplugin.state import Egress, State, Tunnel

LARGEST_LOOPBACK_MTU_BYTES = 1500
_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)
_SYSCTL = Path("/proc/sys/net")
_VXLAN = naming.OVERLAY_TUNNEL


class LinuxKernel:
    """The kernel below the calling thread; its network namespace is the host's.

    `joins`: sandboxes reach each other over the egress bridge, which else keeps them apart.
    """

    def __init__(self, tag: str, namespace_directory: Path, *, joins: bool = False) -> None:
        self._tag = tag
        self._joins = joins
        self._namespaces = Namespaces(namespace_directory)
        self._secure = SecureNamespace(tag, self._namespaces)
        self._bridge = naming.egress_bridge(tag)
        self._encoded: tuple[op.Balance, dict[int, list[list[bytes]]]] | None = None
        self._rule_sockets: dict[str, NetlinkSocket] = {}
        self._inspector = KernelInspector(self._namespaces, tag)
        self._undertaker = ThreadPoolExecutor(1, thread_name_prefix="pyswarm-undertaker")

    def close(self) -> None:
        """Let go of the namespaces."""
        for sandbox_id in list(self._rule_sockets):
            self._rule_sockets.pop(sandbox_id).close()
        self._undertaker.shutdown()
        self._namespaces.close()

    def host_network(self, data_path_address: str) -> HostNetwork:
        """Look at the host. Raises FailedPrecondition when no interface has the address."""
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            found = {link.index: link for link in observe.read_links(netlink).values()}
            addresses = observe.read_addresses(netlink)
            routes = observe.read_routes(netlink)
        own = next((link.index for link in found.values() if link.name == self._bridge), 0)
        taken = tuple(sorted({to for to, _, index in routes if index != own and to != "0.0.0.0/0"}))
        for index, on_link in addresses.items():
            if data_path_address in map(naming.address_of, on_link):
                mtu_bytes = found[index].mtu_bytes
                mtu_bytes = min(mtu_bytes, LARGEST_LOOPBACK_MTU_BYTES) if found[index].name == "lo" else mtu_bytes
                has_ipv6 = mtu_bytes >= SMALLEST_IPV6_MTU_BYTES and ports.can_publish_ipv6(self._tag)
                return HostNetwork(mtu_bytes=mtu_bytes, routes=taken, has_ipv6=has_ipv6)
        raise FailedPrecondition(
            f"no interface of this host has the data path address {data_path_address}: start pyswarmd with one that it has"
        )

    def inspector(self) -> KernelInspector:
        """Return what reads single facts for the audit."""
        return self._inspector

    def observe(self) -> State:
        """Return what stands. Raises OSError."""
        return self._secure.added_to(observe.observe(self._namespaces, self._tag, joins=self._joins))

    def encryption(self) -> Encryption:
        """Return whether encrypted overlays are possible."""
        return self._secure.encryption()

    def execute(self, operation: op.Operation) -> None:
        """Carry one operation out. Raises PyswarmError or OSError."""
        try:
            self._execute(operation)
        except OSError as error:
            raise features.explained(error, operation.describe()) from error

    def _execute(self, operation: op.Operation) -> None:
        match operation:
            case op.MakeSandbox() | op.RemoveSandbox() | op.Connect() | op.AdjustLink() | op.Disconnect() | op.ChangeBalancing():
                self._execute_on_sandbox(operation)
            case op.MakeOverlay() | op.RemoveOverlay() | op.MakeTunnel() | op.RemoveTunnel() | op.ResizeTunnel() | op.ChangePeers():
                self._execute_on_overlay(operation)
            case op.MakeEgress():
                self._make_egress(operation.egress)
            case op.RemoveEgress():
                self._remove_egress()
            case op.PublishPorts():
                ports.publish(self._tag, operation)
            case op.ChangeReturns() | op.RemoveReturns() | op.ChangeMeshPorts():
                netlink = self._rules_of(operation.sandbox_id)
                with self._namespaces.inside(naming.SANDBOX_PREFIX + operation.sandbox_id):
                    mesh.execute(netlink, operation)
                self._inspector.note_written(op.sandbox_scope(operation.sandbox_id), netlink)
            case op.MakeSecure() | op.ChangeSecurePeers() | op.RemoveSecure():
                self._secure.execute(operation)
            case op.RemoveStray():
                self._remove_stray(operation)
            case _:
                assert_never(operation)

    def _execute_on_sandbox(
        self, operation: op.MakeSandbox | op.RemoveSandbox | op.Connect | op.AdjustLink | op.Disconnect | op.ChangeBalancing
    ) -> None:
        name = naming.SANDBOX_PREFIX + operation.sandbox_id
        match operation:
            case op.MakeSandbox():
                self._close_rules(operation.sandbox_id)  # of a namespace of that name which was lost
                with self._namespaces.create(name):
                    ipv6.disable_by_default()
                    _send([links.link_up("lo")])
            case op.RemoveSandbox():
                self._remove_sandbox(operation.sandbox_id)
            case op.Connect():
                sandbox_links.connect(self._namespaces, self._tag, operation, joins=self._joins)
            case op.AdjustLink():
                sandbox_links.adjust(self._namespaces, self._tag, operation)
            case op.Disconnect():
                with self._namespaces.inside(name):
                    _send([links.link_remove(operation.interface)], tolerated=_GONE)
            case op.ChangeBalancing():
                self._change_balancing(operation.sandbox_id, operation.balance)

    def _execute_on_overlay(
        self, operation: op.MakeOverlay | op.RemoveOverlay | op.MakeTunnel | op.RemoveTunnel | op.ResizeTunnel | op.ChangePeers
    ) -> None:
        name = naming.OVERLAY_PREFIX + operation.network_id
        match operation:
            case op.MakeOverlay():
                with self._namespaces.create(name):
                    ipv6.disable_by_default()
                    for family in ("", "6"):
                        _write_sysctl(f"bridge/bridge-nf-call-ip{family}tables", "0")
                    mac = b"\x02\x70" + bytes.fromhex(naming.digest(operation.network_id))
                    _send([links.bridge_add(naming.OVERLAY_BRIDGE, 65535, mac)], tolerated=(errno.EEXIST,))
                    _send([links.link_up(naming.OVERLAY_BRIDGE)])
            case op.RemoveOverlay():
                if self._namespaces.is_live(name):
                    with self._namespaces.inside(name):
                        _send([links.link_remove(_VXLAN), links.link_remove(naming.OVERLAY_BRIDGE)], tolerated=_GONE)
                self._namespaces.remove(name)
            case op.MakeTunnel():
                self._make_tunnel(name, operation.network_id, operation.tunnel)
            case op.RemoveTunnel():
                with self._namespaces.inside(name):
                    _send([links.link_remove(_VXLAN)], tolerated=_GONE)
            case op.ResizeTunnel():
                with self._namespaces.inside(name):
                    _send([links.link_mtu(_VXLAN, operation.mtu_bytes)])
            case op.ChangePeers():
                with self._namespaces.inside(name):
                    _change_peers(operation)

    def _make_tunnel(self, name: str, network_id: str, tunnel: Tunnel) -> None:
        with self._namespaces.inside(name):
            _send([links.link_remove(_VXLAN)], tolerated=_GONE)
        with self._namespaces.open(name) as descriptor:
            try:
                with self._secure.inside() if tunnel.is_encrypted else contextlib.nullcontext():
                    _send([links.vxlan_add(_VXLAN, tunnel, descriptor)])
            except OSError as error:
                raise self._tunnel_error(error, network_id, tunnel) from error
        with self._namespaces.inside(name):
            bridge = socket.if_nametoindex(naming.OVERLAY_BRIDGE)
            _send([links.master_set(_VXLAN, bridge), links.port_static(_VXLAN)])

    def _tunnel_error(self, error: OSError, network_id: str, tunnel: Tunnel) -> Conflict:
        what = f"cannot create the VXLAN device of network {network_id}"
        if error.errno != errno.EEXIST:
            return Conflict(f"{what} (VNI {tunnel.vni}, {tunnel.local_address}, UDP port {tunnel.port}): {error.strerror}")
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            holders = [
                link.name
                for link in observe.read_links(netlink).values()
                if link.tunnel and (link.tunnel.vni, link.tunnel.port) == (tunnel.vni, tunnel.port)
            ]
        holder = f"device {holders[0]} of this host" if holders else "a device in another namespace (another engine on this host?)"
        return Conflict(f"{what}: VNI {tunnel.vni} on UDP port {tunnel.port} is already used by {holder}")

    def _remove_sandbox(self, sandbox_id: str) -> None:
        """Let the kernel remove the links with the namespace: it does so for many at once, in its own time (40 ms)."""
        self._close_rules(sandbox_id)
        self._namespaces.remove(naming.SANDBOX_PREFIX + sandbox_id)

    def _close_rules(self, sandbox_id: str) -> None:
        netlink = self._rule_sockets.pop(sandbox_id, None)
        if netlink is not None:
            self._undertaker.submit(netlink.close)

    def _rules_of(self, sandbox_id: str) -> NetlinkSocket:
        if sandbox_id not in self._rule_sockets:
            with self._namespaces.inside(naming.SANDBOX_PREFIX + sandbox_id):
                self._rule_sockets[sandbox_id] = NetlinkSocket(NETLINK_NETFILTER)
        return self._rule_sockets[sandbox_id]

    def _change_balancing(self, sandbox_id: str, balance: op.Balance) -> None:
        if self._encoded is None or self._encoded[0] is not balance:
            self._encoded = (balance, {})
        variants, variant = self._encoded[1], rules.variant_of(sandbox_id)
        if variant not in variants:
            variants[variant] = rules.balance_batches(balance, variant)
        netlink = self._rules_of(sandbox_id)
        for batch in variants[variant]:
            netlink.send_whole(batch)
        changed = dict(balance.old_chains)
        kept = {virtual_ip: backends for virtual_ip, _, backends in balance.put if virtual_ip in changed}
        kept |= dict.fromkeys(balance.drop, ())
        conntrack.forget_udp(netlink, kept)
        self._inspector.note_written(op.sandbox_scope(sandbox_id), netlink)

    def _make_egress(self, egress: Egress) -> None:
        mac = naming.mac_of(naming.address_of(egress.address))
        _send([links.bridge_add(self._bridge, egress.mtu_bytes, mac)], tolerated=(errno.EEXIST,))
        _send([links.link_mtu(self._bridge, egress.mtu_bytes)])
        if egress.ipv6_address:
            ipv6.enable(self._bridge)
        _set_addresses(self._bridge, {address for address in (egress.address, egress.ipv6_address) if address})
        _write_sysctl("ipv4/ip_forward", "1")
        if egress.ipv6_address:
            ipv6_forwarding.start(self._uplinks())
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            table = naming.host_table(self._tag)
            for subnet in filter(None, (subnet_of(egress.address), ipv6_subnet_of(egress))):
                netlink.send_whole(rules.host_batch(table, subnet, self._bridge, egress.closed_ports, joins=self._joins))
            if not egress.ipv6_address:
                _remove_table(netlink, table, nftables.IPV6)
        ipv6_forwarding.stop_unless_needed()

    def _uplinks(self) -> list[str]:
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            found = observe.read_links(netlink).values()
        return [link.name for link in found if link.kind != "bridge" and not link.master and link.name != "lo"]

    def _remove_egress(self) -> None:
        _send([links.link_remove(self._bridge)], tolerated=_GONE)
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            for family in (nftables.IPV4, nftables.IPV6):
                _remove_table(netlink, naming.host_table(self._tag), family)
        ipv6_forwarding.stop_unless_needed()

    def _remove_stray(self, operation: op.RemoveStray) -> None:
        stray = operation.stray
        if stray.kind == "file" and stray.name.startswith(naming.SANDBOX_PREFIX):
            self._remove_sandbox(stray.name.removeprefix(naming.SANDBOX_PREFIX))
        elif stray.kind == "file":
            self._namespaces.remove(stray.name)
        elif stray.kind == "link":
            _send([links.link_remove(stray.name)], tolerated=_GONE)
        else:
            network_id, _, port = stray.name.partition("/")
            with self._namespaces.inside(naming.OVERLAY_PREFIX + network_id):
                _send([links.link_remove(port)], tolerated=_GONE)


def _send(messages: Sequence[bytes], tolerated: Sequence[int] = ()) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        netlink.send(messages, tolerated)


def _set_addresses(interface: str, wanted: AbstractSet[str]) -> None:
    index = socket.if_nametoindex(interface)
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        every = [observe.read_addresses(netlink, family).get(index, []) for family in (socket.AF_INET, socket.AF_INET6)]
        stale = [address for addresses in every for address in addresses if address not in wanted]
        netlink.send([links.address_remove(index, address) for address in stale], tolerated=_GONE)
        netlink.send([links.link_up(interface)])
        netlink.send([links.address_add(index, address) for address in wanted], tolerated=(errno.EEXIST,))


def _remove_table(netlink: NetlinkSocket, table: str, family: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        netlink.send_whole(nftables.batch([nftables.table_remove(table, family=family)]))


def _change_peers(operation: op.ChangePeers) -> None:
    device = socket.if_nametoindex(_VXLAN)
    removals = [message for address, peer in operation.remove.items() for message in peer_remove(device, address, peer)]
    additions = [message for address, peer in operation.add.items() for message in peer_add(device, address, peer)]
    if is_any_ipv6(operation.add):
        ipv6.enable(_VXLAN, has_link_local=False)
        guard_tunnel(_VXLAN)
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        netlink.send(removals, tolerated=_GONE)
        netlink.send(additions)


def _write_sysctl(name: str, value: str) -> None:
    path = _SYSCTL / name
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() != value:
            path.write_text(value)
