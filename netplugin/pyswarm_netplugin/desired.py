"""What the data plane should be, from network views and the sandboxes that were asked for; pure.

Results for an unchanged view are the same objects as before, so that comparing them costs nothing (`plan`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from pyswarm_common.objects import NetworkAttachment, Record
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.mesh.views import NO_MESH, MeshParts, mesh_parts, returns_of
from pyswarm_netplugin.naming import address_of, balancer_chain
from pyswarm_netplugin.overlay_links import (
    egress_link,
    ipv6_subnet_of,
    mtu_bytes_of,
    overlay_link,
    peers_of,
    twin_with_prefix,
    twins_in,
    wants_ipv6_egress,
    what_links_need,
)
from pyswarm_netplugin.placement import WAY_OUT, Placement, interface_names
from pyswarm_netplugin.published_ports.records import PortForward, PublishedPort
from pyswarm_netplugin.published_ports.rules import ports_mark
from pyswarm_netplugin.state import Egress, Link, Overlay, Sandbox, State, Tunnel


class SandboxRecord(Record, frozen=True, kw_only=True):
    """A sandbox as it is remembered on disk. `egress_address` has its prefix length; "" when there is no way out.

    `ports` lead from the host to the egress address.
    """

    id: str
    hostname: str
    attachments: tuple[NetworkAttachment, ...] = ()
    egress_address: str = ""
    ports: tuple[PublishedPort, ...] = ()
    search: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()
    placement: Placement = Placement()


class Underlay(Record, frozen=True, kw_only=True):
    """What carries the overlays: this host's data path address, the port for views that name none, and the interface's MTU."""

    address: str
    port: int
    mtu_bytes: int


@dataclass(frozen=True, eq=False)
class NetworkParts:
    """What one view comes to on this host."""

    view: NetworkView
    overlay: Overlay
    chains: Mapping[str, str]
    backends: Mapping[str, tuple[str, ...]]
    mesh: MeshParts = NO_MESH


@dataclass
class DesiredBuilder:
    """Builds desired states, keeping what did not change since the last one."""

    underlay: Underlay
    egress: Egress
    _parts: dict[str, NetworkParts] = field(default_factory=dict)
    _views: Mapping[str, NetworkView] = field(default_factory=dict)
    _chains: dict[tuple[str, ...], Mapping[str, str]] = field(default_factory=dict)
    _sandboxes: dict[str, tuple[SandboxRecord, Sandbox]] = field(default_factory=dict)
    _backends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _changed: frozenset[str] = frozenset()
    _is_unchanged: bool = False

    def build(self, views: Mapping[str, NetworkView], sandboxes: Iterable[SandboxRecord]) -> State:
        """Return the desired state. Every network of a sandbox must have a view."""
        self._take(views)
        records = list(sandboxes)
        with_way_out = [record for record in records if record.egress_address]
        forwards = tuple(self._forward(record, port) for record in with_way_out for port in record.ports)
        return State(
            overlays={network_id: parts.overlay for network_id, parts in self._parts.items()},
            sandboxes=self._take_sandboxes(records),
            egress=self._egress(records),
            backends=self._backends,
            mesh_balancers={chain: balancer for parts in self._parts.values() for chain, balancer in parts.mesh.balancers.items()},
            ports_mark=ports_mark(forwards),
            forwards=forwards,
        )

    def _take(self, views: Mapping[str, NetworkView]) -> None:
        self._views = views
        parts = {}
        for network_id, view in views.items():
            known = self._parts.get(network_id)
            parts[network_id] = known if known is not None and known.view is view else self._part(view, known)
        before = self._parts
        self._changed = frozenset(id_ for id_, part in parts.items() if _changes_sandboxes(before.get(id_), part))
        self._is_unchanged = parts == before
        if not self._is_unchanged:
            self._backends = {chain: backends for part in parts.values() for chain, backends in part.backends.items()}
            self._chains = {}
        self._parts = parts

    def _part(self, view: NetworkView, known: NetworkParts | None) -> NetworkParts:
        tunnel = Tunnel(
            vni=view.vni,
            port=view.data_path_port or self.underlay.port,
            local_address=self.underlay.address,
            mtu_bytes=mtu_bytes_of(view, self.underlay.mtu_bytes),
            is_encrypted=view.is_encrypted,
        )
        peers = peers_of(view, self.underlay.address)
        chains, backends = ({}, {}) if view.is_ingress else balancers_of(view)
        mesh = mesh_parts(view, known.mesh if known is not None else NO_MESH, self.underlay.address)
        if known is not None:
            peers = known.overlay.peers if known.overlay.peers == peers else peers
            chains = known.chains if known.chains == chains else chains
        overlay = Overlay(has_bridge=True, tunnel=tunnel if view.vni else None, peers=peers)
        return NetworkParts(view, overlay, chains, backends, mesh)

    def _wants_ipv6(self, record: SandboxRecord) -> bool:
        return bool(record.egress_address) and wants_ipv6_egress(record.attachments, record.ports, self._views, self.egress)

    def _forward(self, record: SandboxRecord, port: PublishedPort) -> PortForward:
        twin = twin_with_prefix(ipv6_subnet_of(self.egress), record.egress_address) if port.is_ipv6 else ""
        return PortForward(port=port, address=address_of(twin or record.egress_address))

    def _egress(self, records: Iterable[SandboxRecord]) -> Egress:
        ports = {part.overlay.tunnel.port for part in self._parts.values() if part.overlay.tunnel is not None}
        wants_ipv6 = bool(self.egress.ipv6_address) and any(self._wants_ipv6(record) for record in records)
        return msgspec.structs.replace(
            self.egress,
            ipv6_address=self.egress.ipv6_address if wants_ipv6 else "",
            closed_ports=tuple(sorted({self.underlay.port, *ports})),
        )

    def _take_sandboxes(self, records: Iterable[SandboxRecord]) -> Mapping[str, Sandbox]:
        before, self._sandboxes = self._sandboxes, {}
        for record in records:
            if self._is_unchanged and record.id in before and before[record.id][0] is record:
                self._sandboxes[record.id] = before[record.id]
                continue
            chains = self._chains_of(tuple(sorted(a.network_id for a in record.attachments)))
            known, sandbox = before.get(record.id, (None, None))
            is_mesh = record.id == MESH_SANDBOX_ID
            is_same = known is record and sandbox is not None and (is_mesh or sandbox.chains is chains)
            if sandbox is None or not is_same or any(a.network_id in self._changed for a in record.attachments):
                made = self._mesh_sandbox(record) if is_mesh else self._sandbox(record, chains)
                sandbox = made if not is_same or made != sandbox else sandbox
            self._sandboxes[record.id] = (record, sandbox)
        return {sandbox_id: sandbox for sandbox_id, (_, sandbox) in self._sandboxes.items()}

    def _sandbox(self, record: SandboxRecord, chains: Mapping[str, str]) -> Sandbox:
        links = self._links(record)
        parts = {attachment.network_id: self._parts[attachment.network_id] for attachment in record.attachments}
        gateways = {network_id: part.mesh.gateways for network_id, part in parts.items() if part.view.is_ingress}
        return Sandbox(links=links, chains=chains, returns=returns_of(links, gateways))

    def _mesh_sandbox(self, record: SandboxRecord) -> Sandbox:
        return Sandbox(links=self._links(record), mesh_ports=self._parts[record.attachments[0].network_id].mesh.ports)

    def _links(self, record: SandboxRecord) -> Mapping[str, Link]:
        networks = [attachment.network_id for attachment in record.attachments]
        names = interface_names([*networks, WAY_OUT], record.placement.interfaces)
        default = record.placement.default_network
        links = {}
        for name, attachment in zip(names, record.attachments, strict=False):
            view = self._parts[attachment.network_id].view
            is_default = attachment.network_id == default
            links[name] = overlay_link(attachment, view, self.underlay.mtu_bytes, is_default=is_default)
        if record.egress_address:
            has_ipv6 = self._wants_ipv6(record)
            links[names[-1]] = egress_link(
                record.egress_address,
                self.egress,
                is_default=default == WAY_OUT,
                has_ipv6=has_ipv6,
                is_ipv6_default=not any(link.ipv6_gateway for link in links.values()),
            )
        return links

    def _chains_of(self, network_ids: tuple[str, ...]) -> Mapping[str, str]:
        if len(network_ids) == 1:
            return self._parts[network_ids[0]].chains
        if network_ids not in self._chains:
            merged: dict[str, str] = {}
            for network_id in network_ids:
                merged.update(self._parts[network_id].chains)
            self._chains[network_ids] = merged
        return self._chains[network_ids]


def _changes_sandboxes(before: NetworkParts | None, part: NetworkParts) -> bool:
    if before is None or before is part:
        return before is None
    return part.view.is_ingress or what_links_need(before.view) != what_links_need(part.view)


def balancers_of(view: NetworkView) -> tuple[Mapping[str, str], Mapping[str, tuple[str, ...]]]:
    """Return the chain of each virtual IP, and the backends of each chain; for its IPv6 twin too where the network has IPv6."""
    twin = twins_in(view.ipv6_subnet)
    chains: dict[str, str] = {}
    backends: dict[str, tuple[str, ...]] = {}
    for service in view.services.values():
        if service.virtual_ip:
            virtual_ip = address_of(service.virtual_ip)
            addresses = tuple(address_of(backend) for backend in service.backends)
            chains[virtual_ip] = chain = balancer_chain(virtual_ip, addresses, service.balancing)
            backends[chain] = addresses
            if view.ipv6_subnet:
                twins = tuple(map(twin, addresses))
                chains[twin(virtual_ip)] = chain = balancer_chain(twin(virtual_ip), twins, service.balancing)
                backends[chain] = twins
    return chains, backends


def has_egress(attachments: Iterable[NetworkAttachment], views: Mapping[str, NetworkView], *, is_published: bool = False) -> bool:
    """Whether a sandbox gets a way out: not when it has networks and all of them are internal.

    One on overlays gets it for its published ports all the same, as they lead there.
    """
    networks = [views[attachment.network_id] for attachment in attachments]
    return not networks or not all(view.internal for view in networks) or (is_published and any(view.vni for view in networks))


def hosts_file(record: SandboxRecord, views: Mapping[str, NetworkView] | None = None) -> str:
    """Return the content of /etc/hosts: Docker's lines for the loopback, then the container's own name on each network.

    Where a network's view says that it has IPv6, that address follows.
    """
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "ff00::0\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    addresses = [address_of(attachment.address) for attachment in record.attachments] or [address_of(record.egress_address)]
    known = views or {}
    subnets = [(a.address, known[a.network_id].ipv6_subnet) for a in record.attachments if a.network_id in known]
    addresses += [address_of(twin_with_prefix(subnet, address)) for address, subnet in subnets]
    lines += [f"{address}\t{record.hostname}" for address in addresses if address and record.hostname]
    return "".join(f"{line}\n" for line in lines)


RESOLV_CONF = "nameserver 127.0.0.11\noptions ndots:0\n"
"""The content of /etc/resolv.conf: the node's own DNS, in the container's namespace."""
