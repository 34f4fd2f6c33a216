"""The data plane of one node as values: the same types say what should be and what the kernel has; pure.

A state is read by `plan.plan(desired, observed)`. Where the kernel has only a part of a thing (a daemon was killed in the
middle), the observed value says so: no bridge, no tunnel, no rules (None).
"""

from collections.abc import Mapping

from pyswarm_common.objects import Record
from pyswarm_netplugin.published_ports.records import PortForward


class Tunnel(Record, frozen=True, kw_only=True):
    """An overlay's VXLAN device: it sends from `local_address` to UDP `port` of the peers' hosts."""

    vni: int
    port: int
    local_address: str
    mtu_bytes: int


class Overlay(Record, frozen=True, kw_only=True):
    """One network's namespace on this host. `peers`: the host (data path address) of each endpoint elsewhere, by its address."""

    has_bridge: bool = False
    tunnel: Tunnel | None = None
    peers: Mapping[str, str] = {}


class Link(Record, frozen=True, kw_only=True):
    """One interface of a sandbox: on an overlay (`network_id`), or the way out ("", then with a `gateway`).

    `address` has its prefix length.
    """

    network_id: str = ""
    address: str
    gateway: str = ""
    mtu_bytes: int


class Sandbox(Record, frozen=True, kw_only=True):
    """A container's namespace. `links` by interface name; `chains`: the balancer chain of each virtual IP, None without rules."""

    links: Mapping[str, Link] = {}
    chains: Mapping[str, str] | None = None


class Egress(Record, frozen=True, kw_only=True):
    """The host's way out for sandboxes: the bridge with its address (with prefix), and whether the masquerading rules stand."""

    address: str
    mtu_bytes: int
    has_rules: bool = True


class Stray(Record, frozen=True, kw_only=True):
    """Something of ours that nothing can use.

    A `file` without a namespace behind it, a `link` of the host, or a `port` (`network id/interface`) without its sandbox.
    """

    kind: str
    name: str


class State(Record, frozen=True, kw_only=True):
    """Everything of one node. `strays` are only ever observed; `backends` (by chain) and `forwards` are only ever desired.

    `ports_mark` stands for the rules of the published ports, "" for none.
    """

    overlays: Mapping[str, Overlay] = {}
    sandboxes: Mapping[str, Sandbox] = {}
    egress: Egress | None = None
    strays: frozenset[Stray] = frozenset()
    backends: Mapping[str, tuple[str, ...]] = {}
    ports_mark: str = ""
    forwards: tuple[PortForward, ...] = ()


def same(a: Mapping[str, object] | None, b: Mapping[str, object] | None) -> bool:
    """Whether two mappings are equal; at once when they are one object, which they mostly are."""
    return a is b or a == b
