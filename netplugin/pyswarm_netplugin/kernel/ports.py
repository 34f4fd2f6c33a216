"""Published ports, carried out: the rules, and what lets the host's own loopback addresses be led to sandboxes too. Blocking."""

import contextlib
import socket
from pathlib import Path

import structlog

from pyswarm_netplugin import naming
from pyswarm_netplugin.kernel import conntrack, ipv6, links, nftables, observe
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.operations import PublishPorts
from pyswarm_netplugin.published_ports.records import ANY_IPV6_ADDRESS, PortForward, PublishedPort
from pyswarm_netplugin.published_ports.rules import LOOPBACK, any_ipv6, network_of, ports_batch

_ROUTE_LOCALNET = "/proc/sys/net/ipv4/conf/{}/route_localnet"
_BRIDGE_CALLS = Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables")
_log = structlog.get_logger()


def publish(tag: str, operation: PublishPorts) -> None:
    """Replace the rules, and forget UDP flows to the ports that changed; in the host's namespace. Raises OSError."""
    bridge, table, forwards = naming.egress_bridge(tag), naming.ports_table(tag), operation.forwards
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        link = observe.read_links(netlink).get(bridge)
        addresses = observe.read_addresses(netlink).get(link.index, []) if link is not None else []
        ipv6_addresses = observe.read_addresses(netlink, socket.AF_INET6).get(link.index, []) if link is not None else []
        if forwards:
            _write(Path(_ROUTE_LOCALNET.format(bridge)))
        leads = not _translates_what_is_bridged() and _lead_loopback(netlink, link, wants=any_ipv6(forwards))
    subnets = [network_of(addresses[0]) if addresses else LOOPBACK, *map(network_of, ipv6_addresses[:1])]
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        chains = netlink.dump(nftables.GET_CHAIN, nftables.chains_request(family=nftables.IPV6))
        has_ipv6_table = any(nftables.read_chain(body)[0] == table for _, body in chains)
        batch = ports_batch(table, forwards, subnets, bridge, has_ipv6_table=has_ipv6_table, leads_ipv6_loopback=leads)
        netlink.send_whole(batch)
        conntrack.forget_udp_to_ports(netlink, {p.host_port for p in operation.changed if p.protocol == "udp"})


def _lead_loopback(netlink: NetlinkSocket, bridge: observe.LinkSeen | None, *, wants: bool) -> bool:
    """Let answers for ::1 in by the bridge, or no more; return whether they get in."""
    if bridge is None:
        return False
    message = links.loopback_route_add(bridge.index) if wants else links.loopback_route_remove(bridge.index)
    try:
        netlink.send([message])
    except OSError:  # there is none to remove, or somebody turned IPv6 off on the bridge
        return False
    return wants


def can_publish_ipv6(tag: str) -> bool:
    """Whether the host has IPv6 and its kernel what the rules need: tried with a table that is gone in the same transaction."""
    if not ipv6.is_enabled():
        return False
    port = PublishedPort(protocol="tcp", container_port=1, host_address=ANY_IPV6_ADDRESS, host_port=1)
    table, forwards = f"{naming.host_table(tag)}_trial", [PortForward(port=port, address="::1")]
    *made, end = ports_batch(table, forwards, [LOOPBACK], "none")
    removals = [nftables.table_remove(table), nftables.table_remove(table, family=nftables.IPV6)]
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        try:
            netlink.send_whole([*made, *removals, end])
        except OSError as error:
            _log.info("network.no_ipv6_ports", error=str(error))
            return False
    return True


def _translates_what_is_bridged() -> bool:
    with contextlib.suppress(FileNotFoundError):
        return _BRIDGE_CALLS.read_text().strip() != "0"
    return False


def _write(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() != "1":
            path.write_text("1")
