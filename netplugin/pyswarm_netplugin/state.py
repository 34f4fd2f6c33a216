"""The data plane of one node as values: the same types say what should be and what the kernel has; pure.

A state is read by `plan.plan(desired, observed)`. Where the kernel has only a part of a thing (a daemon was killed in the
middle), the observed value says so: no bridge, no tunnel, no rules (None).
"""

from collections.abc import Mapping

import msgspec

from pyswarm_common.objects import Record
from pyswarm_netplugin.mesh.records import MeshBalancer, ReturnRoutes
from pyswarm_netplugin.published_ports.records import PortForward
from pyswarm_netplugin.secure.records import SecureKeys, SecureNetwork

CONTAINERS_OWN = "*"
"""Observed of a link where the container has a default route of its own instead of ours, or has turned IPv6 off."""


class Tunnel(Record, frozen=True, kw_only=True):
    """An overlay's VXLAN device: it sends from `local_address` to UDP `port` of the peers' hosts.

    `is_encrypted`: it sends in the secure namespace, which WireGuard alone leads out of, instead of the host's.
    """

    vni: int
    port: int
    local_address: str
    mtu_bytes: int
    is_encrypted: bool = False


class Peer(Record, frozen=True, kw_only=True):
    """An endpoint elsewhere: the data path address of its host, its hardware address ("": made of the address), its IPv6 twin."""

    host: str
    mac: str = ""
    ipv6_address: str = ""


class Overlay(Record, frozen=True, kw_only=True):
    """One network's namespace on this host. `peers`: the endpoints elsewhere, by IPv4 address."""

    has_bridge: bool = False
    tunnel: Tunnel | None = None
    peers: Mapping[str, Peer] = {}


class Link(Record, frozen=True, kw_only=True):
    """One interface of a sandbox: on an overlay (`network_id`), or the way out ("", then with a `gateway`).

    `address` and `ipv6_address` have their prefix lengths; `mac` "": made of the address; `routes`: further subnets on this link.
    """

    network_id: str = ""
    address: str
    gateway: str = ""
    mtu_bytes: int
    mac: str = ""
    ipv6_address: str = ""
    ipv6_gateway: str = ""
    routes: tuple[str, ...] = ()

    def as_wanted(self, wanted: "Link") -> "Link":
        """Return this observed link with what the container decides for itself as it is wanted."""
        own = (self.gateway, self.ipv6_address, self.ipv6_gateway)
        if CONTAINERS_OWN not in own:
            return self
        names = ("gateway", "ipv6_address", "ipv6_gateway")
        decided = {name: getattr(wanted, name) for name, value in zip(names, own, strict=True) if value == CONTAINERS_OWN}
        return msgspec.structs.replace(self, **decided)

    def can_become(self, other: "Link") -> bool:
        """Whether this link can be changed into the other while it carries traffic."""
        return (self.network_id, self.address, self.gateway, self.mac) == (
            other.network_id,
            other.address,
            other.gateway,
            other.mac,
        )


class Sandbox(Record, frozen=True, kw_only=True):
    """A container's namespace. `links` by interface name; `chains`: the balancer chain of each virtual IP, None without rules.

    `returns`: its ways back to the routing mesh, None when it is not on the ingress network. `mesh_ports`: the chain of each port
    (`tcp/8080`) that has tasks, in the mesh sandbox alone.
    """

    links: Mapping[str, Link] = {}
    chains: Mapping[str, str] | None = None
    returns: ReturnRoutes | None = None
    mesh_ports: Mapping[str, str] | None = None


class Egress(Record, frozen=True, kw_only=True):
    """The host's way out for sandboxes: the bridge with its addresses (with prefix), and whether the masquerading rules stand.

    `ipv6_address`: only while a sandbox needs it. `closed_ports`: UDP ports of tunnels, to which no sandbox may send.
    """

    address: str
    ipv6_address: str = ""
    mtu_bytes: int
    closed_ports: tuple[int, ...] = ()
    has_rules: bool = True


class Stray(Record, frozen=True, kw_only=True):
    """Something of ours that nothing can use.

    A `file` without a namespace behind it, a `link` of the host, or a `port` (`network id/interface`) without its sandbox.
    """

    kind: str
    name: str


class State(Record, frozen=True, kw_only=True):
    """Everything of one node. `strays` are only ever observed, `backends`, `mesh_balancers` (by chain) and `forwards` only desired.

    `ports_mark` stands for the rules of the published ports, "" for none.
    """

    overlays: Mapping[str, Overlay] = {}
    sandboxes: Mapping[str, Sandbox] = {}
    egress: Egress | None = None
    strays: frozenset[Stray] = frozenset()
    backends: Mapping[str, tuple[str, ...]] = {}
    mesh_balancers: Mapping[str, MeshBalancer] = {}
    ports_mark: str = ""
    forwards: tuple[PortForward, ...] = ()
    secure: SecureNetwork | None = None
    secure_keys: SecureKeys = SecureKeys()
    """Only ever desired."""


def same(a: Mapping[str, object] | None, b: Mapping[str, object] | None) -> bool:
    """Whether two mappings are equal; at once when they are one object, which they mostly are."""
    return a is b or a == b
