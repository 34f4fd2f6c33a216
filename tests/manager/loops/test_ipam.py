"""Sentences about addresses, subnets and VXLAN ids."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm_manager.allocator import ipam

PREFIXES = st.integers(24, 29)


@st.composite
def subnets(draw: st.DrawFn) -> ipam.Subnet:
    network = IPv4Network((draw(st.integers(0, 2**32 - 1)), draw(PREFIXES)), strict=False)
    hosts = list(network.hosts())
    gateway = str(draw(st.sampled_from(hosts))) if draw(st.booleans()) else ""
    parts = list(network.subnets(prefixlen_diff=1))
    return ipam.make_subnet(str(network), gateway, str(draw(st.sampled_from(parts))) if draw(st.booleans()) else "")


@given(subnets(), st.integers(0, 2**32 - 1))
def test_every_host_address_of_the_range_is_given_once_and_nothing_else(subnet: ipam.Subnet, after: int) -> None:
    taken: set[int] = set()
    while (address := ipam.next_address(subnet, taken, after)) is not None:
        assert address not in taken
        assert address != subnet.gateway
        assert IPv4Address(address) in subnet.network
        assert IPv4Address(address) not in (subnet.network.network_address, subnet.network.broadcast_address)
        taken.add(address)
        after = address
    expected = set(range(subnet.first, subnet.last + 1)) - {subnet.gateway}
    assert taken == expected


@given(subnets(), st.data())
def test_a_freed_address_comes_last(subnet: ipam.Subnet, data: st.DataObject) -> None:
    first = ipam.next_address(subnet, set(), 0)
    assert first is not None
    given_addresses = [first]
    while (address := ipam.next_address(subnet, set(given_addresses[1:]), given_addresses[-1])) not in (None, first):
        given_addresses.append(address)  # type: ignore[arg-type]
    assert len(given_addresses) == subnet.last - subnet.first + 1 - (subnet.first <= subnet.gateway <= subnet.last)


@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(20, 30)), max_size=12), st.integers(22, 28), st.booleans())
def test_a_free_subnet_overlaps_nothing_and_is_the_lowest(
    taken_parts: list[tuple[int, int]], prefix_length: int, skip_first: bool
) -> None:
    base = int(IPv4Address("10.0.0.0"))
    taken = [IPv4Network((base + offset, length), strict=False) for offset, length in taken_parts]
    found = ipam.next_subnet("10.0.0.0/16", prefix_length, taken, skip_first=skip_first)
    candidates = list(IPv4Network("10.0.0.0/16").subnets(new_prefix=prefix_length))[int(skip_first) :]
    assert found == next((c for c in candidates if ipam.find_overlap(c, taken) is None), None)


def test_the_next_pool_is_used_when_the_first_is_full() -> None:
    taken = [IPv4Network("10.1.0.0/24"), IPv4Network("10.1.1.0/24")]
    assert ipam.next_subnet("10.1.0.0/23, 10.2.0.0/23", 24, taken, skip_first=True) == IPv4Network("10.2.0.0/24")


@given(st.sets(st.integers(4090, 4110)))
def test_the_lowest_free_vni_is_taken(taken: set[int]) -> None:
    vni = ipam.next_vni(taken)
    assert vni not in taken
    assert vni >= 4096
    assert all(lower in taken for lower in range(4096, vni))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_addresses_are_written_as_they_are_read(address: int) -> None:
    assert ipam.parse_address(ipam.address_text(address)) == address
    assert ipam.address_text(address) == str(IPv4Address(address))


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "a.b.c.d", "10.0.0.-1", "::1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ipam.PoolError):
        ipam.parse_address(text)


@pytest.mark.parametrize(
    ("subnet", "gateway", "ip_range", "complaint"),
    [
        ("10.0.0.0/33", "", "", "invalid IPv4 subnet"),
        ("fd00::/64", "", "", "invalid IPv4 subnet"),
        ("10.0.0.0/30", "", "", "too small"),
        ("10.0.0.0/24", "10.0.0.255", "", "not a host address"),
        ("10.0.0.0/24", "10.0.1.1", "", "not a host address"),
        ("10.0.0.0/24", "", "10.0.1.0/25", "not part of subnet"),
    ],
)
def test_what_is_no_subnet_is_refused(subnet: str, gateway: str, ip_range: str, complaint: str) -> None:
    with pytest.raises(ipam.PoolError, match=complaint):
        ipam.make_subnet(subnet, gateway, ip_range)


@pytest.mark.parametrize("wanted", ["x", "0", "16777216", "5000"])
def test_what_is_no_free_vni_is_refused(wanted: str) -> None:
    with pytest.raises(ipam.PoolError):
        ipam.next_vni({5000}, wanted)
