"""Addresses of the sandboxes' way out, chosen by each node for itself: a subnet, its gateway, one address a sandbox; pure."""

import ipaddress
import os
import socket
from collections.abc import Collection, Iterable

from pyswarm_common.errors import FailedPrecondition, InvalidArgument

_PRIVATE = tuple(ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))


def choose_subnet(pool: str, taken: Iterable[str]) -> str:
    """Return the pool, or the next block of its size in the same private range that overlaps nothing `taken` (the host's routes).

    Raises InvalidArgument for a pool that is no IPv4 network, FailedPrecondition when every block is taken.
    """
    try:
        first = ipaddress.IPv4Network(pool)
    except ValueError as error:
        raise InvalidArgument(f"egress pool {pool!r} is not an IPv4 network: {error}") from error
    used = [ipaddress.IPv4Network(text) for text in taken]
    around = next((range_ for range_ in _PRIVATE if first.subnet_of(range_)), first)
    blocks = [first, *(block for block in around.subnets(new_prefix=first.prefixlen) if block > first)]
    for block in blocks:
        if not any(block.overlaps(other) for other in used):
            return str(block)
    raise FailedPrecondition(f"no free subnet for the containers' way out: {pool} and those after it overlap routes of this host")


def random_ipv6_subnet() -> str:
    """Return a subnet of the private range fd00::/8 (RFC 4193) that nobody else has chosen: 40 random bits."""
    network = b"\xfd" + os.urandom(5) + bytes(10)
    return f"{ipaddress.IPv6Address(network)}/64"


def gateway_of(subnet: str) -> str:
    """Return the gateway with its prefix length: the first host of the subnet."""
    network = ipaddress.IPv4Network(subnet)
    return f"{network.network_address + 1}/{network.prefixlen}"


def subnet_of(address: str) -> str:
    """Return the network of an address with prefix length: `172.19.0.0/16` of `172.19.0.1/16`."""
    return str(ipaddress.IPv4Interface(address).network)


def choose_address(subnet: str, used: Collection[str], last: str = "") -> str:
    """Return a free address of the subnet with its prefix length, the first after `last`, so that none is reused at once.

    `used` and `last` are plain or with prefix. Raises FailedPrecondition when all are in use.
    """
    network = ipaddress.IPv4Network(subnet)
    low, high = int(network.network_address) + 2, int(network.broadcast_address) - 1
    taken = {int.from_bytes(socket.inet_aton(address.partition("/")[0]), "big") for address in used}
    start = int(ipaddress.IPv4Address(last.partition("/")[0])) + 1 if last else low
    start = start if low <= start <= high else low
    size = high - low + 1
    for offset in range(min(size, len(taken) + 1)):
        candidate = low + (start - low + offset) % size
        if candidate not in taken:
            return f"{ipaddress.IPv4Address(candidate)}/{network.prefixlen}"
    raise FailedPrecondition(f"all {size} addresses of {subnet} are in use: give pyswarmd a larger egress pool")
