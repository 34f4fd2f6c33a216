"""Which subnets a network has, when it needs a further one, and which it gets. Pure.

A network without subnets of its user's own gets one from the cluster's pool, and a further one before that is full. They are
never taken away again while the network lasts.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

import msgspec

from pyswarm_common.ipv6 import LONGEST_PREFIX_LENGTH
from pyswarm_common.network_options import VNI_LIST
from pyswarm_common.objects import Cluster, Network
from pyswarm_common.specs import IPAMPool, NetworkSpec, decode_network_spec
from pyswarm_manager.allocator import ipam

LEAST_FREE = 16
MOST_FREE = 256
MADE_MAC_PREFIX = "02:42:"
"""Endpoints without a MAC address of their own have one made of this and their IPv4 address."""


def ipv4_pools(spec: NetworkSpec) -> list[IPAMPool]:
    """Return the IPv4 pools that a network's user asked for."""
    return [pool for pool in _pools(spec) if ":" not in pool.subnet]


def ipv6_pools(spec: NetworkSpec) -> list[IPAMPool]:
    """Return the IPv6 pools that a network's user asked for."""
    return [pool for pool in _pools(spec) if ":" in pool.subnet]


def is_growing(network: Network) -> bool:
    """Whether the network gets its subnets from the cluster's pool."""
    return not any(pool.subnet for pool in ipv4_pools(network.spec))


def subnets_of(network: Network) -> tuple[ipam.Subnet, ...]:
    """Return an allocated network's subnets with their gateways, ranges and auxiliary addresses. Raises PoolError."""
    return _subnets(network.subnet, network.gateway, network.further_subnets, network.spec_json)


def asked_subnets(spec: NetworkSpec) -> list[ipam.Subnet]:
    """Return the subnets that a network's user asked for. Raises PoolError."""
    return [_make_subnet(pool.subnet, pool) for pool in ipv4_pools(spec) if pool.subnet]


def known_subnets(network: Network) -> tuple[ipam.Subnet, ...]:
    """Return the subnets that a network has or, before it is allocated, is to have; () when only the allocator will know."""
    try:
        return subnets_of(network) if network.subnet else tuple(asked_subnets(network.spec))
    except ipam.PoolError:
        return ()


def mac_refusal(network: Network, mac: str) -> str:
    """Return why a MAC address cannot be chosen on a network; "" when it can: those made of its addresses belong to these."""
    if not mac.startswith(MADE_MAC_PREFIX):
        return ""
    address = int(mac[len(MADE_MAC_PREFIX) :].replace(":", ""), 16)
    if not any(address in subnet for subnet in known_subnets(network)):
        return ""
    return f"MAC address {mac} belongs to the network's address {ipam.address_text(address)}: choose one that begins otherwise"


def needs_room(size: int, free: int) -> bool:
    """Whether so few of a network's `size` addresses are free that it needs a further subnet.

    A tenth is to be free, at least 16 and at most 256 addresses; of very small networks half of them.
    """
    return free < min(max(LEAST_FREE, size // 10), MOST_FREE, size // 2)


def place(cluster: Cluster, network: Network, others: Iterable[Network]) -> Network:
    """Return a network with its VXLAN id and subnets, among the other networks as they are now. Raises PoolError."""
    others, spec = list(others), network.spec
    vni = ipam.next_vni({n.vni for n in others if n.vni}, (spec.options or {}).get(VNI_LIST, ""))
    first = next(iter(ipv4_pools(spec)), IPAMPool())
    if is_growing(network):
        subnets = [_free_subnet(cluster, others, is_ingress=spec.ingress)]
        if first.gateway or first.ip_range:
            raise ipam.PoolError("a gateway or an address range needs a subnet")
    else:
        subnets = _free_own_subnets(spec, others)
    made = _make_subnet(str(subnets[0]), first)
    return msgspec.structs.replace(
        network,
        vni=vni,
        subnet=str(subnets[0]),
        gateway=ipam.address_text(made.gateway),
        further_subnets=tuple(map(str, subnets[1:])),
        ipv6_subnet=str(_ipv6_subnet(cluster, network, others)) if spec.enable_ipv6 else "",
        allocation_error="",
    )


def grown(cluster: Cluster, network: Network, others: Iterable[Network]) -> Network | None:
    """Return the network with a further subnet from the pool; None when none is left, or its subnets are its user's own."""
    if not is_growing(network):
        return None
    try:
        further = _free_subnet(cluster, [*others, network], is_ingress=network.spec.ingress)
    except ipam.PoolError:
        return None
    return msgspec.structs.replace(network, further_subnets=(*network.further_subnets, str(further)))


def given_subnets(network: Network) -> list[IPv4Network]:
    """Return all IPv4 subnets that an allocated network has; none before."""
    return [ipam.parse_network(text) for text in (network.subnet, *network.further_subnets) if text]


def _pools(spec: NetworkSpec) -> list[IPAMPool]:
    return (spec.ipam.config if spec.ipam else None) or []


@lru_cache(maxsize=4096)
def _subnets(subnet: str, gateway: str, further: tuple[str, ...], spec_json: bytes) -> tuple[ipam.Subnet, ...]:
    pools = {str(ipam.parse_network(p.subnet)): p for p in ipv4_pools(decode_network_spec(spec_json)) if p.subnet}
    pool = pools.get(subnet, IPAMPool())
    first = ipam.make_subnet(subnet, gateway or pool.gateway, pool.ip_range, (pool.auxiliary_addresses or {}).values())
    return first, *(_make_subnet(text, pools.get(text, IPAMPool())) for text in further)


def _make_subnet(text: str, pool: IPAMPool) -> ipam.Subnet:
    return ipam.make_subnet(text, pool.gateway, pool.ip_range, (pool.auxiliary_addresses or {}).values())


def _free_subnet(cluster: Cluster, others: Iterable[Network], *, is_ingress: bool) -> IPv4Network:
    taken = [subnet for other in others for subnet in (given_subnets(other) or _promised(other))]
    pools = cluster.default_address_pool
    free = ipam.next_subnet(pools, cluster.subnet_prefix_length, taken, skip_first=not is_ingress)
    if free is None:
        raise ipam.PoolError(f"no subnet is left in the address pool {pools}")
    return free


def _promised(network: Network) -> list[IPv4Network]:
    """What a network that is not allocated yet was asked to have: nobody else may get it meanwhile."""
    try:
        return [subnet.network for subnet in asked_subnets(network.spec)]
    except ipam.PoolError:
        return []


def _free_own_subnets(spec: NetworkSpec, others: list[Network]) -> list[IPv4Network]:
    subnets: list[IPv4Network] = []
    for own in asked_subnets(spec):
        for other in others:
            overlapped = ipam.find_overlap(own.network, given_subnets(other))
            if overlapped is not None:
                raise ipam.PoolError(f"subnet {own.network} overlaps with {overlapped} of network {other.name}")
        if ipam.find_overlap(own.network, subnets) is not None:
            raise ipam.PoolError(f"subnet {own.network} overlaps with another one of the same network")
        subnets.append(own.network)
    return subnets


def _ipv6_subnet(cluster: Cluster, network: Network, others: list[Network]) -> IPv6Network:
    taken = {other.name: IPv6Network(other.ipv6_subnet) for other in others if other.ipv6_subnet}
    for pool in ipv6_pools(network.spec):
        try:
            own = IPv6Network(pool.subnet, strict=False)
        except ValueError as error:
            raise ipam.PoolError(f"invalid IPv6 subnet {pool.subnet!r}") from error
        if own.prefixlen > LONGEST_PREFIX_LENGTH:
            raise ipam.PoolError(f"IPv6 subnet {own} is too small: its prefix may have {LONGEST_PREFIX_LENGTH} bits at most")
        for name, subnet in taken.items():
            if own.overlaps(subnet):
                raise ipam.PoolError(f"subnet {own} overlaps with {subnet} of network {name}")
        return own
    return ipam.unique_local_subnet(cluster.id, network.id, taken.values())
