"""What the data plane should be, from network views and the sandboxes that were asked for; pure.

Results for an unchanged view are the same objects as before, so that comparing them costs nothing (`plan`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyswarm_common.objects import NetworkAttachment, Record
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.naming import address_of, balancer_chain
from pyswarm_netplugin.published_ports.records import PortForward, PublishedPort
from pyswarm_netplugin.published_ports.rules import ports_mark
from pyswarm_netplugin.state import Egress, Link, Overlay, Sandbox, State, Tunnel

VXLAN_OVERHEAD_BYTES = 50
"""Outer Ethernet, IPv4, UDP and VXLAN headers."""


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


@dataclass
class DesiredBuilder:
    """Builds desired states, keeping what did not change since the last one."""

    underlay: Underlay
    egress: Egress
    _parts: dict[str, NetworkParts] = field(default_factory=dict)
    _chains: dict[tuple[str, ...], Mapping[str, str]] = field(default_factory=dict)
    _sandboxes: dict[str, tuple[SandboxRecord, Sandbox]] = field(default_factory=dict)
    _backends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def build(self, views: Mapping[str, NetworkView], sandboxes: Iterable[SandboxRecord]) -> State:
        """Return the desired state. Every network of a sandbox must have a view."""
        self._take(views)
        records = list(sandboxes)
        forwards = tuple(PortForward(port=p, address=address_of(r.egress_address)) for r in records for p in r.ports)
        return State(
            overlays={network_id: parts.overlay for network_id, parts in self._parts.items()},
            sandboxes=self._take_sandboxes(records),
            egress=self.egress,
            backends=self._backends,
            ports_mark=ports_mark(forwards),
            forwards=forwards,
        )

    def _take(self, views: Mapping[str, NetworkView]) -> None:
        parts = {}
        for network_id, view in views.items():
            known = self._parts.get(network_id)
            parts[network_id] = known if known is not None and known.view is view else self._part(view, known)
        if parts != self._parts:
            self._backends = {chain: backends for part in parts.values() for chain, backends in part.backends.items()}
            self._chains = {}
        self._parts = parts

    def _part(self, view: NetworkView, known: NetworkParts | None) -> NetworkParts:
        tunnel = Tunnel(
            vni=view.vni,
            port=view.data_path_port or self.underlay.port,
            local_address=self.underlay.address,
            mtu_bytes=self.underlay.mtu_bytes - VXLAN_OVERHEAD_BYTES,
        )
        peers = peers_of(view, self.underlay.address)
        chains, backends = balancers_of(view)
        if known is not None:
            peers = known.overlay.peers if known.overlay.peers == peers else peers
            chains = known.chains if known.chains == chains else chains
        return NetworkParts(view, Overlay(has_bridge=True, tunnel=tunnel, peers=peers), chains, backends)

    def _take_sandboxes(self, records: Iterable[SandboxRecord]) -> Mapping[str, Sandbox]:
        before, self._sandboxes = self._sandboxes, {}
        for record in records:
            chains = self._chains_of(tuple(sorted(a.network_id for a in record.attachments)))
            known, sandbox = before.get(record.id, (None, None))
            if known is not record or sandbox is None or sandbox.chains is not chains:
                sandbox = Sandbox(links=self._links(record), chains=chains)
            self._sandboxes[record.id] = (record, sandbox)
        return {sandbox_id: sandbox for sandbox_id, (_, sandbox) in self._sandboxes.items()}

    def _links(self, record: SandboxRecord) -> Mapping[str, Link]:
        links = {}
        for number, attachment in enumerate(record.attachments):
            links[f"eth{number}"] = Link(
                network_id=attachment.network_id,
                address=attachment.address,
                mtu_bytes=self.underlay.mtu_bytes - VXLAN_OVERHEAD_BYTES,
            )
        if record.egress_address:
            gateway = address_of(self.egress.address)
            links[f"eth{len(links)}"] = Link(address=record.egress_address, gateway=gateway, mtu_bytes=self.egress.mtu_bytes)
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


def peers_of(view: NetworkView, own_address: str) -> Mapping[str, str]:
    """Return the host of every endpoint that is not on this one, by the endpoint's address."""
    return {
        address_of(endpoint.address): endpoint.data_path_address
        for endpoint in view.endpoints.values()
        if endpoint.address and endpoint.data_path_address and endpoint.data_path_address != own_address
    }


def balancers_of(view: NetworkView) -> tuple[Mapping[str, str], Mapping[str, tuple[str, ...]]]:
    """Return the chain of each virtual IP, and the backends of each chain."""
    chains: dict[str, str] = {}
    backends: dict[str, tuple[str, ...]] = {}
    for service in view.services.values():
        if service.virtual_ip:
            virtual_ip = address_of(service.virtual_ip)
            addresses = tuple(address_of(backend) for backend in service.backends)
            chains[virtual_ip] = chain = balancer_chain(virtual_ip, addresses)
            backends[chain] = addresses
    return chains, backends


def has_egress(attachments: Iterable[NetworkAttachment], views: Mapping[str, NetworkView]) -> bool:
    """Whether a sandbox gets a way out: not when it has networks and all of them are internal."""
    networks = [views[attachment.network_id] for attachment in attachments]
    return not networks or not all(view.internal for view in networks)


def hosts_file(record: SandboxRecord) -> str:
    """Return the content of /etc/hosts: Docker's lines for the loopback, then the container's own name on each network."""
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "ff00::0\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    addresses = [address_of(attachment.address) for attachment in record.attachments] or [address_of(record.egress_address)]
    lines += [f"{address}\t{record.hostname}" for address in addresses if address and record.hostname]
    return "".join(f"{line}\n" for line in lines)


RESOLV_CONF = "nameserver 127.0.0.11\noptions ndots:0\n"
"""The content of /etc/resolv.conf: the node's own DNS, in the container's namespace."""
