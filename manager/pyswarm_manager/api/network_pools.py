"""The address pools of a posted network: subnets, gateways, ranges, auxiliary addresses; refused in Docker's words."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from pyswarm_common.errors import InvalidArgument, Unimplemented
from pyswarm_common.ipv6 import LONGEST_PREFIX_LENGTH, ipv6_address_of
from pyswarm_common.specs import IPAMPool, NetworkSpec
from pyswarm_manager.allocator.subnets import ipv4_pools, ipv6_pools

IPNetwork: TypeAlias = IPv4Network | IPv6Network
_LONGEST_IPV4_PREFIX_LENGTH = 29


def check_pools(spec: NetworkSpec) -> None:
    """Check the pools that a network's user asks for. Raises InvalidArgument (all that is wrong at once) and Unimplemented."""
    pools = (spec.ipam.config if spec.ipam else None) or []
    problems = [problem for pool in pools for problem in _problems(pool)]
    problems = problems or list(_overlaps([_network(pool) for pool in pools])) or list(_ipv6_problems(spec))
    if problems:
        raise InvalidArgument("invalid network config:\n" + "\n".join(problems))
    if len(ipv6_pools(spec)) > 1:
        raise Unimplemented("more than one IPv6 subnet in a network is not supported: each address' IPv6 twin is in the only one")


def subnets_of(spec: NetworkSpec) -> list[IPNetwork]:
    """Return the subnets that a checked spec asks for."""
    return [_network(pool) for pool in (spec.ipam.config if spec.ipam else None) or [] if pool.subnet]


def _network(pool: IPAMPool) -> IPNetwork:
    return ip_network(pool.subnet, strict=False)


def _problems(pool: IPAMPool) -> Iterator[str]:
    if not pool.subnet:
        yield "an address pool needs a subnet"
        return
    try:
        subnet = _network(pool)
    except ValueError:
        yield f"invalid subnet {pool.subnet}: invalid CIDR block notation"
        return
    if subnet.network_address != _address_part(pool.subnet):
        yield f"invalid subnet {pool.subnet}: it should be {subnet}"
    if subnet.version == 4 and subnet.prefixlen > _LONGEST_IPV4_PREFIX_LENGTH:
        yield f"invalid subnet {subnet}: it is too small, it needs at least 8 addresses"
    yield from _range_problems(pool.ip_range, subnet)
    named = [(f"gateway {pool.gateway}", pool.gateway)] if pool.gateway else []
    named += [(f"auxiliary address {name}", address) for name, address in (pool.auxiliary_addresses or {}).items()]
    for name, text in named:
        reason = _address_problem(text, subnet)
        if reason:
            yield f"invalid {name}: {reason}"


def _address_part(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text.partition("/")[0])


def _range_problems(text: str, subnet: IPNetwork) -> Iterator[str]:
    if not text:
        return
    try:
        part = ip_network(text, strict=False)
    except ValueError:
        yield f"invalid ip-range {text}: invalid CIDR block notation"
        return
    if part.version != subnet.version:
        yield f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block"
        return
    if part.prefixlen < subnet.prefixlen:
        yield f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
    if part.network_address != _address_part(text):
        yield f"invalid ip-range {text}: it should be {part}"
    if not part.overlaps(subnet):
        yield f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"
    elif part.version == 6:
        yield f"invalid ip-range {text}: IPv6 addresses follow from IPv4 addresses, so give the range of those"


def _address_problem(text: str, subnet: IPNetwork) -> str:
    """Why this cannot be the address of a host in the subnet; "" when it can."""
    try:
        address = ip_address(text)
    except ValueError:
        return "invalid address"
    if address.version != subnet.version:
        return f"parent subnet is an IPv{subnet.version} block"
    if address not in subnet:
        return f"parent subnet {subnet} doesn't contain this address"
    if subnet.version == 4 and address in (subnet.network_address, subnet.broadcast_address):
        return f"it is no host's address in subnet {subnet}"
    return ""


def _overlaps(subnets: list[IPNetwork]) -> Iterator[str]:
    for number, subnet in enumerate(subnets):
        for other in subnets[:number]:
            if subnet.version == other.version and subnet.overlaps(other):
                yield f"subnet {subnet} overlaps with {other}: Pool overlaps with other one on this address space"


def _ipv6_problems(spec: NetworkSpec) -> Iterator[str]:
    for pool in ipv6_pools(spec):
        subnet = IPv6Network(pool.subnet, strict=False)
        if not spec.enable_ipv6:
            yield f"subnet {subnet} is an IPv6 block, and the network has no IPv6: enable it (--ipv6)"
        if subnet.prefixlen > LONGEST_PREFIX_LENGTH:
            yield f"invalid subnet {subnet}: an IPv6 subnet has a prefix of at most {LONGEST_PREFIX_LENGTH} bits"
        elif pool.gateway:
            gateway = _ipv6_gateway(spec, subnet)
            if not gateway:
                yield f"invalid gateway {pool.gateway}: it follows from the IPv4 gateway, so leave it out"
            elif ip_address(pool.gateway) != ip_address(gateway):
                yield f"invalid gateway {pool.gateway}: it follows from the IPv4 gateway, so it should be {gateway}"
        if pool.auxiliary_addresses:
            yield f"subnet {subnet} can have no auxiliary addresses: IPv6 addresses follow from IPv4 addresses, so keep those free"


def _ipv6_gateway(spec: NetworkSpec, subnet: IPv6Network) -> str:
    """The address that the gateway has; "" when only the allocator will know."""
    for pool in ipv4_pools(spec):
        return ipv6_address_of(str(subnet), pool.gateway or str(IPv4Network(pool.subnet, strict=False).network_address + 1))
    return ""
