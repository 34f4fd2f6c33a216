"""Joins the switch of a cluster's network on this host to that of another driver, whose sandboxes so are on the network too.

A trunk is a veth pair between the two namespaces of the network. It goes away with either. Blocking; idempotent.
"""

import errno
import socket
from collections.abc import Iterable
from pathlib import Path

from pyswarm_netplugin import naming
from pyswarm_netplugin.kernel import links, observe
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_ROUTE, NetlinkSocket

_GONE = (errno.ENODEV, errno.ENOENT)
_MAC_PREFIX = b"\x02\x71"
_MTU_BYTES = 65535


class Trunks:
    """Between the namespaces in the folder of one driver and those in the cluster's."""

    def __init__(self, own_directory: Path, cluster_directory: Path) -> None:
        self._own_directory = own_directory
        self._cluster_directory = cluster_directory

    def converge(self, network_ids: Iterable[str]) -> None:
        """Make the trunks of these networks; those whose namespace is gone at one side have none. Raises OSError."""
        own, clusters = Namespaces(self._own_directory), Namespaces(self._cluster_directory)
        try:
            for network_id in network_ids:
                name = naming.OVERLAY_PREFIX + network_id
                if own.is_live(name) and clusters.is_live(name):
                    _ensure_trunk(own, clusters, name)
        finally:
            own.close()
            clusters.close()


def _ensure_trunk(own: Namespaces, clusters: Namespaces, name: str) -> None:
    with own.inside(name), NetlinkSocket(NETLINK_ROUTE) as netlink:
        here = observe.read_links(netlink).get(naming.TRUNK_PORT)
    with clusters.inside(name), NetlinkSocket(NETLINK_ROUTE) as netlink:
        there = observe.read_links(netlink).get(naming.TRUNK_PORT)
    if here is not None and there is not None and (here.peer, there.peer) == (there.index, here.index):
        is_whole = here.master and there.master and here.is_up and there.is_up
        if is_whole:
            return
    for namespaces in (own, clusters):
        with namespaces.inside(name), NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send([links.link_remove(naming.TRUNK_PORT)], tolerated=_GONE)
    mac = _MAC_PREFIX + bytes.fromhex(naming.digest(name))
    with clusters.open(name) as target, own.inside(name), NetlinkSocket(NETLINK_ROUTE) as netlink:
        master = socket.if_nametoindex(naming.OVERLAY_BRIDGE)
        netlink.send([links.veth_add(naming.TRUNK_PORT, master, naming.TRUNK_PORT, target, mac, _MTU_BYTES)])
    with clusters.inside(name), NetlinkSocket(NETLINK_ROUTE) as netlink:
        netlink.send([links.master_set(naming.TRUNK_PORT, socket.if_nametoindex(naming.OVERLAY_BRIDGE))])
