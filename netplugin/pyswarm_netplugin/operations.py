"""What the data plane can do to the kernel: values that say themselves; pure.

Each operation is idempotent: carried out twice, or after half of it was done, it leaves the same. A change of balancing is made of
transactions instead, each virtual IP wholly or not at all; its chains' names say how far it came. `scope` is the part that
suffers when an operation fails, `needs` the parts that must not have failed before it.
"""

from collections.abc import Mapping
from typing import TypeAlias

from pyswarm_common.objects import Record
from pyswarm_netplugin.published_ports.records import PortForward, PublishedPort
from pyswarm_netplugin.state import Egress, Link, Stray, Tunnel

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
        return f"make the egress bridge with {self.egress.address}, MTU {self.egress.mtu_bytes}, masqueraded"


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
        shown = (f"{f.port.host_address}:{f.port.host_port}/{f.port.protocol}" for f in self.forwards)
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

    def describe(self) -> str:
        """Say it in one line."""
        t = self.tunnel
        return f"overlay {self.network_id}: make VXLAN {t.vni} from {t.local_address} port {t.port}, MTU {t.mtu_bytes}"


class RemoveTunnel(OverlayOperation, frozen=True, kw_only=True):
    """Remove the VXLAN device, and its peers with it."""

    def describe(self) -> str:
        """Say it in one line."""
        return f"overlay {self.network_id}: remove VXLAN"


class ChangePeers(OverlayOperation, frozen=True, kw_only=True):
    """Tell the overlay where endpoints are (`add`: address → host), and forget others."""

    add: Mapping[str, str] = {}
    remove: tuple[str, ...] = ()

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


class Disconnect(SandboxOperation, frozen=True, kw_only=True):
    """Take an interface away."""

    interface: str

    def describe(self) -> str:
        """Say it in one line."""
        return f"sandbox {self.sandbox_id}: disconnect {self.interface}"


class Balance(Record, frozen=True, kw_only=True):
    """A change of virtual IPs, the same value for all sandboxes that it concerns, so that it is encoded once.

    `put`: (virtual IP, chain, backends); `drop`: virtual IPs that lead nowhere special any more; `old_chains`: what stood there
    before; `is_first`: make the table first.
    """

    is_first: bool
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


Operation: TypeAlias = (
    RemoveStray
    | MakeEgress
    | RemoveEgress
    | PublishPorts
    | MakeOverlay
    | RemoveOverlay
    | MakeTunnel
    | RemoveTunnel
    | ChangePeers
    | MakeSandbox
    | RemoveSandbox
    | Connect
    | Disconnect
    | ChangeBalancing
)


def needs_of(operation: Operation) -> tuple[str, ...]:
    """Return the scopes that must be sound for this operation to make sense."""
    return (operation.scope, operation.needs) if isinstance(operation, Connect) else (operation.scope,)
