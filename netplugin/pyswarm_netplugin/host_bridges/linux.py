"""Makes the host's ends of its own networks, and their table; idempotent. Blocking; for the thread that is in the host's namespace.

An end goes away with its network's namespace. What stands and is whole is left alone.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from pyswarm_common.errors import Conflict
from pyswarm_netplugin import naming
from pyswarm_netplugin.host_bridges.bridges import HostBridge
from pyswarm_netplugin.host_bridges.rules import batch_of, mark_of, table_name
from pyswarm_netplugin.kernel import conntrack, links, nftables, observe
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.published_ports.records import PublishedPort

_SYSCTL = Path("/proc/sys/net/ipv4")
_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)


class HostBridges:
    """The host's ends of the networks whose namespaces are in this folder."""

    def __init__(self, tag: str, namespace_directory: Path) -> None:
        self._tag = tag
        self._directory = namespace_directory
        self._ports: frozenset[PublishedPort] = frozenset()

    def converge(self, bridges: Sequence[HostBridge]) -> None:
        """Make what stands as these say: all of them. Their networks' namespaces are there. Raises OSError, Conflict."""
        namespaces = Namespaces(self._directory)
        try:
            for bridge in bridges:
                _ensure_end(namespaces, bridge)
        finally:
            namespaces.close()
        if any(not bridge.is_internal for bridge in bridges):
            _write_sysctl(_SYSCTL / "ip_forward")
        for bridge in bridges:
            if bridge.forwards:
                _write_sysctl(_SYSCTL / "conf" / bridge.interface / "route_localnet")
        self._ensure_rules(bridges)

    def _ensure_rules(self, bridges: Sequence[HostBridge]) -> None:
        table = table_name(self._tag)
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            found = [nftables.read_chain(body) for _, body in netlink.dump(nftables.GET_CHAIN, nftables.chains_request())]
            own = {chain for name, chain in found if name == table}
            ports = frozenset(forward.port for bridge in bridges for forward in bridge.forwards)
            if (mark_of(bridges) in own) if bridges else not own:
                self._ports = ports
                return
            netlink.send_whole(batch_of(table, bridges))
            changed, self._ports = self._ports ^ ports, ports
            conntrack.forget_udp_to_ports(netlink, {port.host_port for port in changed if port.protocol == "udp"})


def _ensure_end(namespaces: Namespaces, bridge: HostBridge) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        end = observe.read_links(netlink).get(bridge.interface)
        addresses = observe.read_addresses(netlink).get(end.index, []) if end is not None else []
    name = naming.OVERLAY_PREFIX + bridge.network_id
    with namespaces.inside(name), NetlinkSocket(NETLINK_ROUTE) as netlink:
        inner = observe.read_links(netlink).get(naming.HOST_PORT)
    is_pair = end is not None and end.kind == "veth" and inner is not None and inner.peer == end.index
    if end is not None and not is_pair:
        raise Conflict(f"cannot make the bridge {bridge.interface}: this host has another interface of that name")
    if is_pair and end is not None and end.is_up and addresses == [bridge.address] and end.mtu_bytes == bridge.mtu_bytes:
        return
    _make_end(namespaces, name, bridge)


def _make_end(namespaces: Namespaces, name: str, bridge: HostBridge) -> None:
    mac = naming.mac_of(naming.address_of(bridge.address))
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with namespaces.inside(name), NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send([links.link_remove(naming.HOST_PORT)], tolerated=_GONE)
            master = socket.if_nametoindex(naming.OVERLAY_BRIDGE)
            netlink.send([links.veth_add(naming.HOST_PORT, master, bridge.interface, home, mac, bridge.mtu_bytes)])
            index = socket.if_nametoindex(naming.HOST_PORT)
            netlink.send([links.port_static(naming.HOST_PORT), links.port_address_add(index, mac)])
    finally:
        os.close(home)
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        index = socket.if_nametoindex(bridge.interface)
        netlink.send([links.link_up(bridge.interface), links.address_add(index, bridge.address)])


def _write_sysctl(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() != "1":
            path.write_text("1")


def read_host_routes() -> tuple[str, ...]:
    """Return the destinations of this namespace's routes, but the default's, with prefix lengths. Raises OSError."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        return tuple(sorted({to for to, _, _ in observe.read_routes(netlink) if to != "0.0.0.0/0"}))
