"""Address arithmetic: the next free address of a network, the next free subnet of a pool, the next free VXLAN id. Pure.

IPv4 addresses are integers here, because a busy network asks for thousands of them; text only at the edges.
"""

import hashlib
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

FIRST_VNI = 4096
LAST_VNI = 2**24 - 1
_UNIQUE_LOCAL = 0xFD << 120


class PoolError(ValueError):
    """A subnet, gateway, range or VXLAN id that cannot be used; the text says why."""


@dataclass(frozen=True)
class Subnet:
    """A subnet with its gateway and the range in which addresses are given, all as integers, bounds included.

    `auxiliary` addresses are used by something else and given to nobody.
    """

    network: IPv4Network
    gateway: int
    first: int
    last: int
    auxiliary: frozenset[int] = frozenset()

    @property
    def prefix_length(self) -> int:
        """The number of leading bits that all its addresses share."""
        return self.network.prefixlen

    def __contains__(self, address: int) -> bool:
        """Whether it is a host's address in this subnet, in the range or not."""
        return int(self.network.network_address) < address < int(self.network.broadcast_address)

    def with_prefix(self, address: int) -> str:
        """Return the address as tasks and services carry it: `10.0.1.2/24`."""
        return f"{address_text(address)}/{self.network.prefixlen}"


@lru_cache(maxsize=65_536)
def parse_address(text: str) -> int:
    """Return an address, with or without a prefix length, as an integer. Raises PoolError."""
    try:
        a, b, c, d = (int(part) for part in text.partition("/")[0].split("."))
    except ValueError:
        raise PoolError(f"invalid IPv4 address {text!r}") from None
    if not all(0 <= part <= 255 for part in (a, b, c, d)):
        raise PoolError(f"invalid IPv4 address {text!r}")
    return a << 24 | b << 16 | c << 8 | d


def address_text(address: int) -> str:
    """Return an address in dotted form."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def parse_network(text: str) -> IPv4Network:
    """Return a subnet; host bits are ignored, as Docker does. Raises PoolError."""
    try:
        return IPv4Network(text, strict=False)
    except ValueError:
        raise PoolError(f"invalid IPv4 subnet {text!r}") from None


def make_subnet(subnet: str, gateway: str = "", ip_range: str = "", auxiliary: Iterable[str] = ()) -> Subnet:
    """Return the subnet with its gateway (the first address when none is given) and range. Raises PoolError."""
    network = parse_network(subnet)
    lowest, highest = int(network.network_address), int(network.broadcast_address)
    if network.prefixlen > 29:
        raise PoolError(f"subnet {network} is too small for a network of containers")
    gateway_address = parse_address(gateway) if gateway else lowest + 1
    if not lowest < gateway_address < highest:
        raise PoolError(f"gateway {gateway} is not a host address of subnet {network}")
    first, last = lowest + 1, highest - 1
    if ip_range:
        part = parse_network(ip_range)
        if not part.subnet_of(network):
            raise PoolError(f"IP range {ip_range} is not part of subnet {network}")
        first, last = max(first, int(part.network_address)), min(last, int(part.broadcast_address))
    return Subnet(network, gateway_address, first, last, frozenset(map(parse_address, auxiliary)))


def next_address(subnet: Subnet, taken: Container[int], after: int) -> int | None:
    """Return the next free host address after `after`, going round; None when there is none. Never the gateway."""
    return next_of_subnets([subnet], taken, after)


def next_of_subnets(subnets: Sequence[Subnet], taken: Container[int], after: int) -> int | None:
    """Return the next free host address after `after`, going round all subnets in their order; None when there is none.

    Never a gateway or an auxiliary address.
    """
    here = next((n for n, subnet in enumerate(subnets) if subnet.first <= after < subnet.last), None)
    spans = [(subnet, subnet.first, subnet.last) for subnet in subnets]
    if here is None:  # the last address of a subnet leads on to the next subnet
        ended = next((n for n, subnet in enumerate(subnets) if subnet.last == after), -1) + 1
        spans = [*spans[ended:], *spans[:ended]]
    else:
        subnet = subnets[here]
        spans = [(subnet, after + 1, subnet.last), *spans[here + 1 :], *spans[:here], (subnet, subnet.first, after)]
    for subnet, first, last in spans:
        for address in range(first, last + 1):
            if address not in taken and address != subnet.gateway and address not in subnet.auxiliary:
                return address
    return None


def next_subnet(pools: str, prefix_length: int, taken: Iterable[IPv4Network], *, skip_first: bool) -> IPv4Network | None:
    """Return the lowest subnet of that size, in pools separated by commas, that overlaps none of `taken`; None when all do.

    `skip_first` leaves the first subnet of the first pool out (the ingress network's). Raises PoolError.
    """
    spans = sorted((int(n.network_address), int(n.broadcast_address)) for n in taken)
    size = 1 << (32 - prefix_length)
    for number, pool_text in enumerate(part.strip() for part in pools.split(",")):
        pool = parse_network(pool_text)
        if pool.prefixlen > prefix_length:
            raise PoolError(f"address pool {pool} holds no subnet of /{prefix_length}")
        start = int(pool.network_address) + (size if skip_first and number == 0 else 0)
        for low, high in spans:
            if low < start + size and high >= start:
                start += ((high - start) // size + 1) * size
        if start + size - 1 <= int(pool.broadcast_address):
            return IPv4Network((start, prefix_length))
    return None


def find_overlap(network: IPv4Network, others: Iterable[IPv4Network]) -> IPv4Network | None:
    """Return the first of `others` that shares an address with `network`."""
    return next((other for other in others if network.overlaps(other)), None)


def unique_local_subnet(cluster_id: str, network_id: str, taken: Iterable[IPv6Network]) -> IPv6Network:
    """Return an IPv6 /64 for a network: the prefix (RFC 4193) follows from the cluster's id, the rest from the network's.

    Where another network has that one already, the next free one. Raises PoolError when there is none.
    """
    prefix = _UNIQUE_LOCAL | int.from_bytes(hashlib.sha256(cluster_id.encode()).digest()[:5], "big") << 80
    start = int.from_bytes(hashlib.sha256(network_id.encode()).digest()[:2], "big")
    others = [network for network in taken if int(network.broadcast_address) >= prefix]
    for step in range(1 << 16):
        found = IPv6Network((prefix | (start + step) % (1 << 16) << 64, 64))
        if not any(found.overlaps(other) for other in others):
            return found
    raise PoolError("no IPv6 subnet is left")


def next_vni(taken: Collection[int], wanted: str = "") -> int:
    """Return the lowest free VXLAN id; `wanted`: the ids to choose from, separated by commas. Raises PoolError."""
    if not wanted:
        vni = FIRST_VNI
        used = set(taken)
        while vni in used:
            vni += 1
        if vni > LAST_VNI:
            raise PoolError("no VXLAN id is left")
        return vni
    candidates = parse_vnis(wanted)
    for vni in candidates:
        if vni not in taken:
            return vni
    raise PoolError(f"VXLAN id {wanted} is in use by another network")


def parse_vnis(wanted: str) -> list[int]:
    """Return the VXLAN ids of a list separated by commas. Raises PoolError."""
    try:
        candidates = [int(part) for part in wanted.split(",")]
    except ValueError:
        raise PoolError(f"invalid VXLAN id list {wanted!r}") from None
    for vni in candidates:
        if not 0 < vni <= LAST_VNI:
            raise PoolError(f"VXLAN id {vni} is not between 1 and {LAST_VNI}")
    return candidates
