"""Reads back what the kernel has, as a `State`. Only what is whole counts as there; our remains that nothing can use are strays."""

import ipaddress
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyswarm_netplugin import naming
from pyswarm_netplugin.egress import subnet_of
from pyswarm_netplugin.kernel import links, mesh, nftables
from pyswarm_netplugin.kernel.ipv6 import is_disabled, is_forwarding
from pyswarm_netplugin.kernel.ipv6_forwarding import is_left_over
from pyswarm_netplugin.kernel.links import LINK_ROUTE_PROTOCOL, MAIN_TABLE, SANDBOX_LINK_GROUP
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket, attributes, string
from pyswarm_netplugin.kernel.peers import read_peers
from pyswarm_netplugin.kernel.rules import SERVICES, closed_ports_of, host_mark
from pyswarm_netplugin.published_ports.rules import mark_seen
from pyswarm_netplugin.state import CONTAINERS_OWN, Egress, Link, Overlay, Sandbox, State, Stray, Tunnel

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_GLOBAL = 0
_DEFAULTS = ("0.0.0.0/0", "::/0")
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
    mac: bytes
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


def read_addresses(netlink: NetlinkSocket, family: int = socket.AF_INET) -> dict[int, list[str]]:
    """Return the addresses, with their prefix lengths, by interface index; of IPv6 those that are valid beyond the link."""
    found: dict[int, list[str]] = {}
    for _, body in netlink.dump(links.RTM_GETADDR, links.ADDRESS_DUMP[family]):
        _, prefix, _, scope, index = struct.unpack_from("=BBBBI", body)
        parts = attributes(body, 8)
        address = parts.get(links.IFA_LOCAL) or parts.get(links.IFA_ADDRESS)
        if address is not None and (family == socket.AF_INET or scope == _GLOBAL):
            found.setdefault(index, []).append(f"{socket.inet_ntop(family, address)}/{prefix}")
    return found


def read_routes(netlink: NetlinkSocket, family: int = socket.AF_INET) -> list[tuple[str, str, int]]:
    """Return the main table's routes: destination with prefix length, gateway or "", interface index."""
    return [(route.to, route.gateway, route.index) for route in _routes(netlink, family)]


@dataclass(frozen=True)
class RouteSeen:
    """A route of the main table. `gateway` "": on the link."""

    to: str
    gateway: str
    index: int
    protocol: int


def _routes(netlink: NetlinkSocket, family: int) -> list[RouteSeen]:
    found = []
    nowhere = bytes(4 if family == socket.AF_INET else 16)
    for _, body in netlink.dump(links.RTM_GETROUTE, links.ROUTE_DUMP[family]):
        prefix, table, protocol = body[1], body[4], body[5]
        if table == MAIN_TABLE:
            parts = attributes(body, 12)
            to = f"{socket.inet_ntop(family, parts.get(links.RTA_DST, nowhere))}/{prefix}"
            gateway = parts.get(links.RTA_GATEWAY)
            index = struct.unpack("=I", parts.get(links.RTA_OIF, b"\0\0\0\0"))[0]
            found.append(RouteSeen(to, socket.inet_ntop(family, gateway) if gateway else "", index, protocol))
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
        mac=parts.get(links.IFLA_ADDRESS, b""),
        tunnel=tunnel,
    )


def _number(parts: dict[int, bytes], key: int) -> int:
    value = parts.get(key)
    return int(struct.unpack("=I", value)[0]) if value else 0


def _ports(found: dict[str, LinkSeen], bridge: LinkSeen | None) -> Ports:
    veths = [link for link in found.values() if link.kind == "veth"]
    return Ports(
        {link.name: link.peer for link in veths if bridge is not None and link.master == bridge.index and link.is_up},
        frozenset(link.name for link in veths),
    )


def _host(seen: Observation, joins: bool) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        every = read_links(netlink)
        bridge = every.get(naming.egress_bridge(seen.tag))
        addresses = read_addresses(netlink)
        ipv6_addresses = read_addresses(netlink, socket.AF_INET6)
    found = {name: link for name, link in every.items() if naming.is_egress_port(seen.tag, name)}
    seen.egress_ports = _ports(found, bridge)
    chains, ipv6_chains = _host_chains(nftables.IPV4), _host_chains(nftables.IPV6)
    own, own_ipv6 = (tables.get(naming.host_table(seen.tag), set()) for tables in (chains, ipv6_chains))
    seen.ports_mark = mark_seen(*(tables.get(naming.ports_table(seen.tag), ()) for tables in (chains, ipv6_chains)))
    if bridge is not None:
        address = (addresses.get(bridge.index) or [""])[0]
        ipv6_address = (ipv6_addresses.get(bridge.index) or [""])[0]
        is_whole = _has_host_rules(seen.tag, address, own, joins) and _has_ipv6_rules(seen.tag, ipv6_address, ipv6_chains, joins)
        seen.egress = Egress(
            address=address,
            ipv6_address=ipv6_address,
            mtu_bytes=bridge.mtu_bytes,
            closed_ports=closed_ports_of(own),
            has_rules=is_whole,
        )
    elif own or own_ipv6 or is_left_over(ipv6_chains):
        seen.egress = Egress(address="", mtu_bytes=0, has_rules=False)


def _host_chains(family: int) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        for _, body in netlink.dump(nftables.GET_CHAIN, nftables.chains_request(family=family)):
            table, chain = nftables.read_chain(body)
            found.setdefault(table, set()).add(chain)
    return found


def _has_host_rules(tag: str, address: str, chains: set[str], joins: bool) -> bool:
    is_forwarding = _IP_FORWARD.read_text().strip() == "1"
    if not address or not is_forwarding:
        return False
    return host_mark(subnet_of(address), naming.egress_bridge(tag), closed_ports_of(chains), joins=joins) in chains


def _has_ipv6_rules(tag: str, address: str, tables: Mapping[str, set[str]], joins: bool) -> bool:
    chains = tables.get(naming.host_table(tag), set())
    if not address:
        return not chains and not is_left_over(tables)
    subnet = str(ipaddress.IPv6Interface(address).network)
    mark = host_mark(subnet, naming.egress_bridge(tag), closed_ports_of(chains), joins=joins)
    return is_forwarding() and mark in chains


def _overlay(seen: Observation, network_id: str) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        found = read_links(netlink)
        bridge, device = found.get(naming.OVERLAY_BRIDGE), found.get(naming.OVERLAY_TUNNEL)
        is_whole = device is not None and device.is_up and bridge is not None and device.master == bridge.index
        tunnel = device.tunnel if device is not None and is_whole else None
        if device is not None and tunnel is None:
            tunnel = Tunnel(vni=0, port=0, local_address="", mtu_bytes=0)
        peers = read_peers(netlink, device.index) if device is not None else {}
    seen.overlays[network_id] = Overlay(has_bridge=bridge is not None and bridge.is_up, tunnel=tunnel, peers=peers)
    seen.overlay_ports[network_id] = _ports(found, bridge)


def _sandbox(seen: Observation, sandbox_id: str) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        found = read_links(netlink)
        told = _Told.read(netlink)
    is_half_made = not any(link.group == SANDBOX_LINK_GROUP for link in found.values())  # else the container set it down
    if is_half_made and not found["lo"].is_up:
        seen.strays.add(Stray(kind="file", name=naming.SANDBOX_PREFIX + sandbox_id))
        return
    networks = _networks_by_interface(seen, sandbox_id)
    parts = {
        link.name: told.link(link, networks.get(link.index, _LOST))
        for link in found.values()
        if link.kind == "veth" and link.group == SANDBOX_LINK_GROUP
    }
    returns, mesh_ports = mesh.observe(sandbox_id, {link.name: link.index for link in found.values()})
    seen.sandboxes[sandbox_id] = Sandbox(links=parts, chains=_chains(), returns=returns, mesh_ports=mesh_ports)


@dataclass(frozen=True)
class _Told:
    """The addresses and routes of a sandbox."""

    addresses: Mapping[int, list[str]]
    ipv6_addresses: Mapping[int, list[str]]
    routes: list[RouteSeen]
    has_no_ipv6: bool = False

    @classmethod
    def read(cls, netlink: NetlinkSocket) -> "_Told":
        return cls(
            read_addresses(netlink),
            read_addresses(netlink, socket.AF_INET6),
            _routes(netlink, socket.AF_INET) + _routes(netlink, socket.AF_INET6),
            is_disabled(),
        )

    def link(self, link: LinkSeen, network_id: str) -> Link:
        address = _own_address(self.addresses.get(link.index, []), link.mac)
        ours = [route for route in self.routes if route.index == link.index and route.protocol == LINK_ROUTE_PROTOCOL]
        on_link = sorted(route.to for route in ours if route.to not in _DEFAULTS)
        twin = _twin_among(self.ipv6_addresses.get(link.index, []), address)
        return Link(
            network_id=network_id,
            address=address,
            gateway=self._gateway("0.0.0.0/0", link.index),
            mtu_bytes=link.mtu_bytes,
            mac=naming.mac_text(link.mac, naming.address_of(address)),
            ipv6_address=CONTAINERS_OWN if self.has_no_ipv6 and not twin else twin,
            ipv6_gateway=CONTAINERS_OWN if self.has_no_ipv6 else self._gateway("::/0", link.index),
            routes=tuple(on_link),
        )

    def _gateway(self, default: str, index: int) -> str:
        routes = [route for route in self.routes if route.to == default]
        ours = [route for route in routes if route.protocol == LINK_ROUTE_PROTOCOL]
        if routes and not ours:
            return CONTAINERS_OWN
        return next((route.gateway for route in ours if route.index == index), "")


def _own_address(addresses: Sequence[str], mac: bytes) -> str:
    """Return the address that the hardware address is made of, else the first: a container may have given itself others."""
    made = (address for address in addresses if naming.mac_of(naming.address_of(address)) == mac)
    return next(made, next(iter(addresses), ""))


def _twin_among(ipv6_addresses: Sequence[str], address: str) -> str:
    """Return the IPv6 address that ends in the IPv4 address: a container may have given itself others."""
    own = socket.inet_aton(naming.address_of(address)) if address else b""
    packed = ((text, socket.inet_pton(socket.AF_INET6, naming.address_of(text))) for text in ipv6_addresses)
    return next((text for text, bytes_ in packed if own and bytes_.endswith(own)), "")


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
        for family in (nftables.IPV4, nftables.IPV6):
            request = nftables.elements_request(naming.SANDBOX_TABLE, SERVICES, family=family)
            try:
                for _, body in netlink.dump(nftables.GET_ELEMENTS, request):
                    found.update(nftables.read_verdicts(body))
            except FileNotFoundError:
                if family == nftables.IPV4:
                    return None
    return found


def _lonely_ports(seen: Observation) -> None:
    sandboxes = seen.sandboxes
    wanted = {naming.egress_port(seen.tag, sandbox_id) for sandbox_id in sandboxes}
    seen.strays |= {Stray(kind="link", name=name) for name in seen.egress_ports.names - wanted}
    for network_id, ports in seen.overlay_ports.items():
        known = {naming.HOST_PORT, naming.TRUNK_PORT, *(naming.overlay_port(sandbox_id, network_id) for sandbox_id in sandboxes)}
        seen.strays |= {Stray(kind="port", name=f"{network_id}/{name}") for name in ports.names - known}
