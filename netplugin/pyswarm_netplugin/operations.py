"""What the data plane can do to the kernel: values that say themselves; pure.

Each operation is idempotent: carried out twice, or after half of it was done, it leaves the same. A change of balancing is made of
transactions instead, each virtual IP wholly or not at all; its chains' names say how far it came. `scope` is the part that
suffers when an operation fails, `needs` the parts that must not have failed before it.
"""

from collections.abc import Mapping
from typing import TypeAlias

from pyswarm_common.objects import Record
from pyswarm_netplugin.mesh.records import MeshBalancer, ReturnRoutes
from pyswarm_netplugin.published_ports.records import PortForward, PublishedPort
from pyswarm_netplugin.secure.operations import SECURE_SCOPE
from pyswarm_netplugin.secure.operations import ChangeSecurePeers as ChangeSecurePeers
from pyswarm_netplugin.secure.operations import MakeSecure as MakeSecure
from pyswarm_netplugin.secure.operations import RemoveSecure as RemoveSecure
from pyswarm_netplugin.state import Egress, Link, Peer, Stray, Tunnel

HOST_SCOPE = "host"
PORTS_SCOPE = "ports"


def overlay_scope(network_id: str) -> str:
    """Return the scope of a network on this host."""
    return f"overlay {network_id}"


def sandbox_scope(sandbox_id: str) -> str:
    """Return the scope of a sandbox."""
    return f"sandbox {sandbox_id}"


class RemoveStray(Record, frozen=True, kw_only=True):
    """Remove what nothing can use."""

    stray: Stray

    @property
    def scope(self) -> str:
        """Its own: nothing depends on a stray."""
        return f"stray {self.stray.name}"

    def describe(self) -> str:
        """Say it in one line."""
        return f"remove stray {self.stray.kind} {self.stray.name}"


class MakeEgress(Record, frozen=True, kw_only=True):
    """Make the host's egress bridge with its address, forwarding and masquerading."""

    egress: Egress

    @property
    def scope(self) -> str:
        """The host."""
        return HOST_SCOPE

    def describe(self) -> str:
        """Say it in one line."""
        addresses = " and ".join(filter(None, (self.egress.address, self.egress.ipv6_address)))
        return f"make the egress bridge with {addresses}, MTU {self.egress.mtu_bytes}, masqueraded"


class RemoveEgress(Record, frozen=True, kw_only=True):
    """Remove the egress bridge and the rules."""

    @property
    def scope(self) -> str:
        """The host."""
        return HOST_SCOPE

    def describe(self) -> str:
        """Say it in one line."""
        return "remove the egress bridge and its rules"


class PublishPorts(Record, frozen=True, kw_only=True):
    """Replace the rules of published ports, and forget UDP flows to those ports of the host that changed."""

    forwards: tuple[PortForward, ...] = ()
    changed: tuple[PublishedPort, ...] = ()

    @property
    def scope(self) -> str:
        """The ports."""
        return PORTS_SCOPE

    def describe(self) -> str:
        """Say it in one line."""
        shown = (f"{f.port.shown}/{f.port.protocol}" for f in self.forwards)
        return f"publish {', '.join(shown) or 'nothing'}"


class OverlayOperation(Record, frozen=True, kw_only=True):
    """Base of what is done to one overlay."""

    network_id: str

    @property
    def scope(self) -> str:
        """The overlay."""
        return overlay_scope(self.network_id)


class MakeOverlay(OverlayOperation, frozen=True, kw_only=True):
    """Make the overlay's namespace and its bridge."""

    def describe(self) -> str:
        """Say it in one line."""
        return f"overlay {self.network_id}: make namespace and bridge"


class RemoveOverlay(OverlayOperation, frozen=True, kw_only=True):
    """Remove the overlay's devices and its namespace."""

    def describe(self) -> str:
        """Say it in one line."""
        return f"overlay {self.network_id}: remove"


class MakeTunnel(OverlayOperation, frozen=True, kw_only=True):
    """Make the VXLAN device, as a port of the overlay's bridge."""

    tunnel: Tunnel

    @property
    def needs(self) -> str:
        """Encryption, if it is to be."""
        return SECURE_SCOPE if self.tunnel.is_encrypted else self.scope

    def describe(self) -> str:
        """Say it in one line."""
        t = self.tunnel
        kind = "encrypted VXLAN" if t.is_encrypted else "VXLAN"
        return f"overlay {self.network_id}: make {kind} {t.vni} from {t.local_address} port {t.port}, MTU {t.mtu_bytes}"


class RemoveTunnel(OverlayOperation, frozen=True, kw_only=True):
    """Remove the VXLAN device, and its peers with it."""

    def describe(self) -> str:
        """Say it in one line."""
        return f"overlay {self.network_id}: remove VXLAN"


class ResizeTunnel(OverlayOperation, frozen=True, kw_only=True):
    """Give the VXLAN device another MTU."""

    mtu_bytes: int

    def describe(self) -> str:
        """Say it in one line."""
        return f"overlay {self.network_id}: MTU {self.mtu_bytes}"


class ChangePeers(OverlayOperation, frozen=True, kw_only=True):
    """Tell the overlay where endpoints are, by address, after forgetting others: those that left or are another now."""

    add: Mapping[str, Peer] = {}
    remove: Mapping[str, Peer] = {}

    def describe(self) -> str:
        """Say it in one line."""
        return f"overlay {self.network_id}: add {len(self.add)} peers, remove {len(self.remove)}"


class SandboxOperation(Record, frozen=True, kw_only=True):
    """Base of what is done to one sandbox."""

    sandbox_id: str

    @property
    def scope(self) -> str:
        """The sandbox."""
        return sandbox_scope(self.sandbox_id)


class MakeSandbox(SandboxOperation, frozen=True, kw_only=True):
    """Make the sandbox's namespace with its loopback up."""

    def describe(self) -> str:
        """Say it in one line."""
        return f"sandbox {self.sandbox_id}: make namespace"


class RemoveSandbox(SandboxOperation, frozen=True, kw_only=True):
    """Remove the sandbox's links and its namespace."""

    def describe(self) -> str:
        """Say it in one line."""
        return f"sandbox {self.sandbox_id}: remove"


class Connect(SandboxOperation, frozen=True, kw_only=True):
    """Give the sandbox an interface on an overlay or, without a network, on the egress bridge."""

    interface: str
    link: Link

    @property
    def needs(self) -> str:
        """The overlay, or the host's egress."""
        return overlay_scope(self.link.network_id) if self.link.network_id else HOST_SCOPE

    def describe(self) -> str:
        """Say it in one line."""
        where = f"overlay {self.link.network_id}" if self.link.network_id else f"egress via {self.link.gateway}"
        return f"sandbox {self.sandbox_id}: connect {self.interface} {self.link.address} to {where}"


class AdjustLink(SandboxOperation, frozen=True, kw_only=True):
    """Change MTU, routes or IPv6 addresses of an interface that carries traffic."""

    interface: str
    before: Link
    link: Link

    @property
    def needs(self) -> str:
        """The overlay, or the host's egress."""
        return overlay_scope(self.link.network_id) if self.link.network_id else HOST_SCOPE

    def describe(self) -> str:
        """Say it in one line."""
        link = self.link
        parts = (f"MTU {link.mtu_bytes}", link.ipv6_address, link.ipv6_gateway and f"via {link.ipv6_gateway}", *link.routes)
        return f"sandbox {self.sandbox_id}: adjust {self.interface} {link.address}: {', '.join(filter(None, parts))}"


class Disconnect(SandboxOperation, frozen=True, kw_only=True):
    """Take an interface away."""

    interface: str

    def describe(self) -> str:
        """Say it in one line."""
        return f"sandbox {self.sandbox_id}: disconnect {self.interface}"


class Balance(Record, frozen=True, kw_only=True):
    """A change of virtual IPs, the same value for all sandboxes that it concerns, so that it is encoded once.

    `put`: (virtual IP, chain, backends); `drop`: virtual IPs that lead nowhere special any more; `old_chains`: what stood there
    before; `is_first`: make the table first, `is_first_ipv6`: make that of IPv6 first.
    """

    is_first: bool
    is_first_ipv6: bool = False
    put: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    drop: tuple[str, ...] = ()
    old_chains: tuple[tuple[str, str], ...] = ()


class ChangeBalancing(SandboxOperation, frozen=True, kw_only=True):
    """Change where connections to virtual IPs go, each virtual IP at once, and forget UDP flows to backends that left."""

    balance: Balance

    def describe(self) -> str:
        """Say it in one line."""
        b = self.balance
        first = "load rules; " if b.is_first else ""
        return (
            f"sandbox {self.sandbox_id}: {first}balance {', '.join(v for v, _, _ in b.put) or '-'}, drop {', '.join(b.drop) or '-'}"
        )


class ChangeReturns(SandboxOperation, frozen=True, kw_only=True):
    """Let answers return through the mesh's gateways as `returns` says: `add` lack something so far, `remove` are none any more.

    `is_first`: make the table first.
    """

    is_first: bool
    returns: ReturnRoutes
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say it in one line."""
        first = "load rules; " if self.is_first else ""
        changes = f"{', '.join(self.add) or '-'}, drop {', '.join(self.remove) or '-'}"
        return f"sandbox {self.sandbox_id}: {first}answer by {self.returns.interface} to gateways {changes}"


class RemoveReturns(SandboxOperation, frozen=True, kw_only=True):
    """Remove the ways back to these gateways, and their rules."""

    gateways: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say it in one line."""
        return f"sandbox {self.sandbox_id}: remove the ways back to gateways"


class MeshChange(Record, frozen=True, kw_only=True):
    """A change of the mesh sandbox's ports. `put`: chains with their contents; `drop`, `old_chains`: by `protocol/port`."""

    is_first: bool
    put: tuple[tuple[str, MeshBalancer], ...] = ()
    drop: tuple[str, ...] = ()
    old_chains: tuple[tuple[str, str], ...] = ()


class ChangeMeshPorts(SandboxOperation, frozen=True, kw_only=True):
    """Change where connections to the mesh's published ports go, each at once, and forget UDP flows to backends that left."""

    change: MeshChange

    def describe(self) -> str:
        """Say it in one line."""
        first = "load rules; " if self.change.is_first else ""
        put = ", ".join(balancer.key for _, balancer in self.change.put)
        return f"sandbox {self.sandbox_id}: {first}publish in the mesh {put or '-'}, drop {', '.join(self.change.drop) or '-'}"


Operation: TypeAlias = (
    RemoveStray
    | MakeEgress
    | RemoveEgress
    | PublishPorts
    | MakeOverlay
    | RemoveOverlay
    | MakeTunnel
    | RemoveTunnel
    | ResizeTunnel
    | ChangePeers
    | MakeSandbox
    | RemoveSandbox
    | Connect
    | AdjustLink
    | Disconnect
    | ChangeBalancing
    | ChangeReturns
    | RemoveReturns
    | ChangeMeshPorts
    | MakeSecure
    | ChangeSecurePeers
    | RemoveSecure
)


def needs_of(operation: Operation) -> tuple[str, ...]:
    """Return the scopes that must be sound for this operation to make sense."""
    return (operation.scope, operation.needs) if isinstance(operation, Connect | AdjustLink | MakeTunnel) else (operation.scope,)
