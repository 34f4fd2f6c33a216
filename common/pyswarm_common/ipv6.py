"""An endpoint's IPv6 address follows from its IPv4 address, on networks that have an IPv6 subnet; pure.

The subnet has at most 96 bits and the IPv4 address is the last 32: `fd12:3456:789a:1::/64` and `10.0.1.5` make
`fd12:3456:789a:1::a00:105`. IPv4 addresses are given once, so these are.
"""

import ipaddress

LONGEST_PREFIX_LENGTH = 96


def ipv6_address_of(subnet: str, address: str) -> str:
    """Return the IPv6 address, without prefix length, of an IPv4 address (with or without). Raises ValueError for other input."""
    network = ipaddress.IPv6Network(subnet)
    if network.prefixlen > LONGEST_PREFIX_LENGTH:
        raise ValueError(f"IPv6 subnet {subnet} is too small: it needs a prefix of at most {LONGEST_PREFIX_LENGTH} bits")
    return str(network.network_address + int(ipaddress.IPv4Address(address.partition("/")[0])))
