"""What a node is told of one network, whole or as the change from one version to the next; pure.

Part of the session's vocabulary (`wire.py`, which names all this too). The four maps of a view change often and one by one, so a
delta names their changed entries; all else of a view, which seldom changes, travels as its `frame`. Of a service it names the
backends that came and went: where a thousand tasks start one after the other, all of them each time would be most of what is sent.
"""

from bisect import insort
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Literal, TypeAlias, TypeVar

import msgspec

from pyswarm_common.objects import Record

T = TypeVar("T")


class Endpoint(Record, frozen=True, kw_only=True):
    """One task's place on a network: its address with prefix, the host that carries it, and the task's name.

    `aliases`: further names, of a single container, which it may share with others. `mac`: its hardware address, "" for the one
    that is made of the address (`naming.mac_of`).
    """

    address: str
    data_path_address: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    mac: str = ""


class MeshPort(Record, frozen=True, kw_only=True):
    """A port that every node publishes for a service, and the port of the tasks behind it."""

    protocol: str = "tcp"
    published_port: int
    target_port: int


Balancing: TypeAlias = Literal["round-robin", "source-hash"]


class ServiceEndpoints(Record, frozen=True, kw_only=True):
    """A service's names on a network, its VIP ("" under dnsrr) and the addresses of its running tasks, sorted.

    `ports`: on the ingress network alone, what the routing mesh publishes; there the names mean nothing.
    """

    names: tuple[str, ...]
    virtual_ip: str = ""
    backends: tuple[str, ...] = ()
    balancing: Balancing = "round-robin"
    ports: tuple[MeshPort, ...] = ()


class NodeKey(Record, frozen=True, kw_only=True):
    """A node's end of encrypted overlays: `wireguard_key` and `wireguard_port` of its description."""

    public_key: str
    port: int


class NetworkView(Record, frozen=True, kw_only=True):
    """Everything a node must know of one overlay: `endpoints` by task id, `services` by service id.

    `gateways`, by node id: on the ingress network, the nodes' own addresses, from which the routing mesh reaches tasks, and to
    which their answers return. `node_keys`, by data path address: on an encrypted network, how its nodes are reached by WireGuard.
    """

    network_id: str
    name: str
    version: int
    vni: int
    subnet: str
    gateway: str
    data_path_port: int = 4789
    internal: bool = False
    further_subnets: tuple[str, ...] = ()
    ipv6_subnet: str = ""
    mtu_bytes: int = 0
    """Of the containers' interfaces; 0: what this node's underlay allows."""
    is_ingress: bool = False
    is_encrypted: bool = False
    gateways: dict[str, Endpoint] = {}
    node_keys: dict[str, NodeKey] = {}
    endpoints: dict[str, Endpoint] = {}
    services: dict[str, ServiceEndpoints] = {}


class BackendsChange(Record, frozen=True, kw_only=True):
    """Which backends of a service came and went; all else of it stayed."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class NetworkViewDelta(Record, frozen=True, kw_only=True):
    """The change from one version of a view to a later one. `frame`: the later view without its maps, when that differs."""

    network_id: str
    from_version: int
    to_version: int
    frame: NetworkView | None = None
    endpoints: dict[str, Endpoint] = {}
    removed_endpoints: tuple[str, ...] = ()
    services: dict[str, ServiceEndpoints] = {}
    backends: dict[str, BackendsChange] = {}
    """By id, of services that are not among `services`."""
    removed_services: tuple[str, ...] = ()
    gateways: dict[str, Endpoint] = {}
    removed_gateways: tuple[str, ...] = ()
    node_keys: dict[str, NodeKey] = {}
    removed_node_keys: tuple[str, ...] = ()


def apply_view_delta(view: NetworkView, delta: NetworkViewDelta) -> NetworkView:
    """Return the view after the delta. Raises ValueError when it starts from another version, KeyError when it does not fit."""
    if view.version != delta.from_version:
        raise ValueError(f"network {view.network_id}: delta from {delta.from_version} does not fit version {view.version}")
    rebalanced = {service_id: _rebalanced(view.services[service_id], change) for service_id, change in delta.backends.items()}
    return msgspec.structs.replace(
        delta.frame or view,
        version=delta.to_version,
        endpoints=_followed(view.endpoints, delta.endpoints, delta.removed_endpoints),
        services=_followed(view.services, {**delta.services, **rebalanced}, delta.removed_services),
        gateways=_followed(view.gateways, delta.gateways, delta.removed_gateways),
        node_keys=_followed(view.node_keys, delta.node_keys, delta.removed_node_keys),
    )


def view_delta(
    before: NetworkView,
    after: NetworkView,
    *,
    task_ids: Collection[str] | None = None,
    service_ids: Collection[str] | None = None,
) -> NetworkViewDelta:
    """Return the change that makes `after` of `before`. `task_ids`, `service_ids`: no others may differ (None: look at all)."""
    frame = _frame(after, after.version)
    services = _changed(before.services, after.services, service_ids)
    backends = {s: change for s, now in services.items() if (change := _backends_change(before.services.get(s), now)) is not None}
    return NetworkViewDelta(
        network_id=after.network_id,
        from_version=before.version,
        to_version=after.version,
        frame=frame if frame != _frame(before, after.version) else None,
        endpoints=_changed(before.endpoints, after.endpoints, task_ids),
        removed_endpoints=_removed(before.endpoints, after.endpoints, task_ids),
        services={service_id: now for service_id, now in services.items() if service_id not in backends},
        backends=backends,
        removed_services=_removed(before.services, after.services, service_ids),
        gateways=_changed(before.gateways, after.gateways),
        removed_gateways=_removed(before.gateways, after.gateways),
        node_keys=_changed(before.node_keys, after.node_keys),
        removed_node_keys=_removed(before.node_keys, after.node_keys),
    )


def _frame(view: NetworkView, version: int) -> NetworkView:
    """All of a view but the maps whose entries a delta names: a field that is new travels so without being named here."""
    return msgspec.structs.replace(view, version=version, endpoints={}, services={}, gateways={}, node_keys={})


def _followed(entries: dict[str, T], changed: Mapping[str, T], removed: tuple[str, ...]) -> dict[str, T]:
    if not changed and not removed:
        return entries
    followed = {**entries, **changed}
    for key in removed:
        followed.pop(key, None)
    return followed


def _changed(before: dict[str, T], after: dict[str, T], among: Collection[str] | None = None) -> dict[str, T]:
    if before is after:
        return {}
    keys: Iterable[str] = after if among is None else (key for key in among if key in after)
    return {key: after[key] for key in keys if before.get(key) != after[key]}


def _removed(before: dict[str, T], after: dict[str, T], among: Collection[str] | None = None) -> tuple[str, ...]:
    if before is after:
        return ()
    return tuple(key for key in (before if among is None else among) if key in before and key not in after)


def _backends_change(before: ServiceEndpoints | None, after: ServiceEndpoints) -> BackendsChange | None:
    """Return what to say instead of the whole service; None when that is not less."""
    if before is None or msgspec.structs.replace(before, backends=after.backends) != after:
        return None
    was, now = frozenset(before.backends), frozenset(after.backends)
    change = BackendsChange(added=tuple(sorted(now - was)), removed=tuple(sorted(was - now)))
    return change if len(change.added) + len(change.removed) < len(now) else None


def _rebalanced(service: ServiceEndpoints, change: BackendsChange) -> ServiceEndpoints:
    removed = frozenset(change.removed)
    backends = [address for address in service.backends if address not in removed]
    for address in change.added:
        insort(backends, address, key=order_of_address)
    return msgspec.structs.replace(service, backends=tuple(backends))


@lru_cache(maxsize=65_536)
def order_of_address(address: str) -> tuple[int, ...]:
    """Return by what a service's backends are sorted: the numbers of an IPv4 address."""
    return tuple(int(part) for part in address.split("."))
