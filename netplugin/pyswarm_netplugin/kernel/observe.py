"""Reads back what the kernel has, as a `State`. Only what is whole counts as there; our remains that nothing can use are strays."""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyswarm_netplugin import naming
from pyswarm_netplugin.egress import subnet_of
from pyswarm_netplugin.kernel import links, nftables
from pyswarm_netplugin.kernel.links import MAIN_TABLE, NEIGHBOUR, NTF_SELF, SANDBOX_LINK_GROUP
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket, attributes, string
from pyswarm_netplugin.kernel.rules import SERVICES, host_mark
from pyswarm_netplugin.published_ports.rules import PORTS_MARK_PREFIX
from pyswarm_netplugin.state import Egress, Link, Overlay, Sandbox, State, Stray, Tunnel

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_LOST = "?"
"""The network of an interface whose other end is on no bridge of ours: never what is desired."""


@dataclass(frozen=True)
class LinkSeen:
    """An interface as the kernel lists it. `peer`: the index of a veth's other end; `tunnel`: only of a VXLAN device."""

    index: int
    name: str
    kind: str
    mtu_bytes: int
    master: int
    group: int
    peer: int
    is_up: bool
    tunnel: Tunnel | None = None


@dataclass(frozen=True)
class Ports:
    """Bridge ports: what is at the other end (its index there) of those that are whole, and the names of all."""

    peers: Mapping[str, int] = field(default_factory=dict)
    names: frozenset[str] = frozenset()


@dataclass
class Observation:
    """What was read so far."""

    tag: str
    overlays: dict[str, Overlay] = field(default_factory=dict)
    overlay_ports: dict[str, Ports] = field(default_factory=dict)
    egress_ports: Ports = field(default_factory=Ports)
    egress: Egress | None = None
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    strays: set[Stray] = field(default_factory=set)
    ports_mark: str = ""


def observe(namespaces: Namespaces, tag: str, *, joins: bool = False) -> State:
    """Return what stands. The calling thread must be in the host's namespace. Raises OSError."""
    seen = Observation(tag)
    _host(seen, joins)
    names = namespaces.names()
    seen.strays |= {Stray(kind="file", name=name) for name, is_live in names.items() if not is_live}
    living = [name for name, is_live in names.items() if is_live]
    for name in living:
        if name.startswith(naming.OVERLAY_PREFIX):
            with namespaces.inside(name):
                _overlay(seen, name.removeprefix(naming.OVERLAY_PREFIX))
    for name in living:
        if name.startswith(naming.SANDBOX_PREFIX):
            with namespaces.inside(name):
                _sandbox(seen, name.removeprefix(naming.SANDBOX_PREFIX))
    _lonely_ports(seen)
    return State(
        overlays=seen.overlays,
        sandboxes=seen.sandboxes,
        egress=seen.egress,
        strays=frozenset(seen.strays),
        ports_mark=seen.ports_mark,
    )


def read_links(netlink: NetlinkSocket) -> dict[str, LinkSeen]:
    """Return the namespace's interfaces by name."""
    found = {}
    for _, body in netlink.dump(links.RTM_GETLINK, links.LINK_DUMP):
        link = _read_link(body)
        found[link.name] = link
    return found


def read_addresses(netlink: NetlinkSocket) -> dict[int, list[str]]:
    """Return the IPv4 addresses, with their prefix lengths, by interface index."""
    found: dict[int, list[str]] = {}
    for _, body in netlink.dump(links.RTM_GETADDR, links.ADDRESS_DUMP):
        _, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
        address = attributes(body, 8).get(links.IFA_LOCAL)
        if address is not None:
            found.setdefault(index, []).append(f"{socket.inet_ntoa(address)}/{prefix}")
    return found


def read_routes(netlink: NetlinkSocket) -> list[tuple[str, str, int]]:
    """Return the main table's IPv4 routes: destination with prefix length, gateway or "", interface index."""
    found = []
    for _, body in netlink.dump(links.RTM_GETROUTE, links.ROUTE_DUMP):
        prefix, table = body[1], body[4]
        if table == MAIN_TABLE:
            parts = attributes(body, 12)
            destination = socket.inet_ntoa(parts.get(links.RTA_DST, b"\0\0\0\0"))
            gateway = parts.get(links.RTA_GATEWAY)
            index = struct.unpack("=I", parts.get(links.RTA_OIF, b"\0\0\0\0"))[0]
            found.append((f"{destination}/{prefix}", socket.inet_ntoa(gateway) if gateway else "", index))
    return found


def _read_link(body: bytes) -> LinkSeen:
    index, flags = struct.unpack_from("=iI", body, 4)
    parts = attributes(body, 16)
    info = attributes(parts.get(links.IFLA_LINKINFO, b""))
    kind = string(info.get(links.INFO_KIND, b""))
    mtu_bytes = _number(parts, links.IFLA_MTU)
    tunnel = None
    if kind == "vxlan":
        data = attributes(info[links.INFO_DATA])
        tunnel = Tunnel(
            vni=_number(data, links.VXLAN_ID),
            port=struct.unpack("!H", data[links.VXLAN_PORT])[0],
            local_address=socket.inet_ntoa(data.get(links.VXLAN_LOCAL, b"\0\0\0\0")),
            mtu_bytes=mtu_bytes,
        )
    return LinkSeen(
        index=index,
        name=string(parts[links.IFLA_IFNAME]),
        kind=kind,
        mtu_bytes=mtu_bytes,
        master=_number(parts, links.IFLA_MASTER),
        group=_number(parts, links.IFLA_GROUP),
        peer=_number(parts, links.IFLA_LINK) or index,
        is_up=bool(flags & 1),
        tunnel=tunnel,
    )


def _number(parts: dict[int, bytes], key: int) -> int:
    value = parts.get(key)
    return int(struct.unpack("=I", value)[0]) if value else 0


def _ports(found: dict[str, LinkSeen], bridge: LinkSeen | None) -> Ports:
    veths = [link for link in found.values() if link.kind == "veth"]
    return Ports(
        {link.name: link.peer for link in veths if bridge is not None and link.master == bridge.index},
        frozenset(link.name for link in veths),
    )


def _host(seen: Observation, joins: bool) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        every = read_links(netlink)
        addresses = read_addresses(netlink)
    found = {name: link for name, link in every.items() if naming.is_egress_port(seen.tag, name)}
    bridge = every.get(naming.egress_bridge(seen.tag))
    seen.egress_ports = _ports(found, bridge)
    chains = _host_chains()
    own = chains.get(naming.host_table(seen.tag), set())
    seen.ports_mark = next((c for c in chains.get(naming.ports_table(seen.tag), ()) if c.startswith(PORTS_MARK_PREFIX)), "")
    if bridge is not None:
        address = (addresses.get(bridge.index) or [""])[0]
        seen.egress = Egress(address=address, mtu_bytes=bridge.mtu_bytes, has_rules=_has_host_rules(seen.tag, address, own, joins))
    elif own:
        seen.egress = Egress(address="", mtu_bytes=0, has_rules=False)


def _host_chains() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        for _, body in netlink.dump(nftables.GET_CHAIN, nftables.chains_request()):
            table, chain = nftables.read_chain(body)
            found.setdefault(table, set()).add(chain)
    return found


def _has_host_rules(tag: str, address: str, chains: set[str], joins: bool) -> bool:
    is_forwarding = _IP_FORWARD.read_text().strip() == "1"
    return bool(address) and is_forwarding and host_mark(subnet_of(address), naming.egress_bridge(tag), joins=joins) in chains


def _overlay(seen: Observation, network_id: str) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        found = read_links(netlink)
        bridge, device = found.get(naming.OVERLAY_BRIDGE), found.get(naming.OVERLAY_TUNNEL)
        tunnel = device.tunnel if device is not None and bridge is not None and device.master == bridge.index else None
        if device is not None and tunnel is None:
            tunnel = Tunnel(vni=0, port=0, local_address="", mtu_bytes=0)
        peers = _peers(netlink, device.index) if device is not None else {}
    seen.overlays[network_id] = Overlay(has_bridge=bridge is not None, tunnel=tunnel, peers=peers)
    seen.overlay_ports[network_id] = _ports(found, bridge)


def _peers(netlink: NetlinkSocket, device: int) -> dict[str, str]:
    hosts: dict[str, str] = {}
    bridged: set[str] = set()
    answered: set[str] = set()
    for _, body in netlink.dump(links.RTM_GETNEIGH, links.FDB_DUMP):
        _, index, _, flags, _ = NEIGHBOUR.unpack_from(body)
        parts = attributes(body, NEIGHBOUR.size)
        address = naming.address_of_mac(parts.get(links.NDA_LLADDR, b"")) if index == device else None
        if address is not None and flags & NTF_SELF and links.NDA_DST in parts:
            hosts[address] = socket.inet_ntoa(parts[links.NDA_DST])
        elif address is not None and links.NDA_MASTER in parts:
            bridged.add(address)
    for _, body in netlink.dump(links.RTM_GETNEIGH, links.NEIGHBOUR_DUMP):
        _, index, _, _, _ = NEIGHBOUR.unpack_from(body)
        parts = attributes(body, NEIGHBOUR.size)
        if index == device and links.NDA_LLADDR in parts:
            answered.add(socket.inet_ntoa(parts[links.NDA_DST]))
    whole = bridged & answered
    return {address: hosts.get(address, "") if address in whole else "" for address in {*hosts, *bridged, *answered}}


def _sandbox(seen: Observation, sandbox_id: str) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        found = read_links(netlink)
        addresses = read_addresses(netlink)
        gateways = {index: gateway for to, gateway, index in read_routes(netlink) if to == "0.0.0.0/0"}
    if not found["lo"].is_up:
        seen.strays.add(Stray(kind="file", name=naming.SANDBOX_PREFIX + sandbox_id))
        return
    networks = _networks_by_interface(seen, sandbox_id)
    parts = {}
    for link in found.values():
        if link.kind == "veth" and link.group == SANDBOX_LINK_GROUP:
            parts[link.name] = Link(
                network_id=networks.get(link.index, _LOST),
                address=(addresses.get(link.index) or [""])[0],
                gateway=gateways.get(link.index, ""),
                mtu_bytes=link.mtu_bytes,
            )
    seen.sandboxes[sandbox_id] = Sandbox(links=parts, chains=_chains())


def _networks_by_interface(seen: Observation, sandbox_id: str) -> dict[int, str]:
    networks = {}
    for network_id, ports in seen.overlay_ports.items():
        index = ports.peers.get(naming.overlay_port(sandbox_id, network_id))
        if index is not None:
            networks[index] = network_id
    index = seen.egress_ports.peers.get(naming.egress_port(seen.tag, sandbox_id))
    if index is not None:
        networks[index] = ""
    return networks


def _chains() -> dict[str, str] | None:
    found: dict[str, str] = {}
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        try:
            for _, body in netlink.dump(nftables.GET_ELEMENTS, nftables.elements_request(naming.SANDBOX_TABLE, SERVICES)):
                found.update(nftables.read_verdicts(body))
        except FileNotFoundError:
            return None
    return found


def _lonely_ports(seen: Observation) -> None:
    sandboxes = seen.sandboxes
    wanted = {naming.egress_port(seen.tag, sandbox_id) for sandbox_id in sandboxes}
    seen.strays |= {Stray(kind="link", name=name) for name in seen.egress_ports.names - wanted}
    for network_id, ports in seen.overlay_ports.items():
        known = {naming.overlay_port(sandbox_id, network_id) for sandbox_id in sandboxes}
        seen.strays |= {Stray(kind="port", name=f"{network_id}/{name}") for name in ports.names - known}
