"""IPv6 addresses that follow from IPv4 addresses."""

import ipaddress

import pytest

from pyswarm_common.ipv6 import ipv6_address_of


@pytest.mark.parametrize(
    ("subnet", "address", "expected"),
    [
        ("fd12:3456:789a:1::/64", "10.0.1.5/24", "fd12:3456:789a:1::a00:105"),
        ("fd00::/96", "255.255.255.254", "fd00::ffff:fffe"),
    ],
)
def test_the_ipv4_address_ends_the_ipv6_address(subnet: str, address: str, expected: str) -> None:
    made = ipv6_address_of(subnet, address)
    assert made == expected
    assert ipaddress.IPv6Address(made) in ipaddress.IPv6Network(subnet)


def test_a_subnet_without_room_for_an_ipv4_address_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 96 bits"):
        ipv6_address_of("fd00::/97", "10.0.0.1")
