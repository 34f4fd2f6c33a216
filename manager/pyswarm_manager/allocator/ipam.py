"""IPv4 arithmetic: the next free address of a subnet, the next free subnet of a pool, the next free VXLAN id. Pure.

Addresses are integers here, because a busy network asks for thousands of them; text only at the edges.
"""

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network

FIRST_VNI = 4096
LAST_VNI = 2**24 - 1


class PoolError(ValueError):
    """A subnet, gateway, range or VXLAN id that cannot be used; the text says why."""


@dataclass(frozen=True)
class Subnet:
    """A subnet with its gateway and the range in which addresses are given, all as integers, bounds included."""

    network: IPv4Network
    gateway: int
    first: int
    last: int

    @property
    def prefix_length(self) -> int:
        """The number of leading bits that all its addresses share."""
        return self.network.prefixlen

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


def make_subnet(subnet: str, gateway: str = "", ip_range: str = "") -> Subnet:
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
    return Subnet(network, gateway_address, first, last)


def next_address(subnet: Subnet, taken: Container[int], after: int) -> int | None:
    """Return the next free host address after `after`, going round; None when there is none. Never the gateway."""
    size = subnet.last - subnet.first + 1
    start = after + 1 if subnet.first <= after < subnet.last else subnet.first
    for step in range(size):
        address = subnet.first + (start - subnet.first + step) % size
        if address != subnet.gateway and address not in taken:
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
    try:
        candidates = [int(part) for part in wanted.split(",")]
    except ValueError:
        raise PoolError(f"invalid VXLAN id list {wanted!r}") from None
    for vni in candidates:
        if not 0 < vni <= LAST_VNI:
            raise PoolError(f"VXLAN id {vni} is not between 1 and {LAST_VNI}")
        if vni not in taken:
            return vni
    raise PoolError(f"VXLAN id {wanted} is in use by another network")
