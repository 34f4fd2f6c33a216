"""From views to peers, links and sizes."""

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common.ipv6 import ipv6_address_of
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin.desired import DesiredBuilder, SandboxRecord, Underlay, balancers_of, hosts_file
from pyswarm_netplugin.egress import random_ipv6_subnet
from pyswarm_netplugin.overlay_links import mtu_bytes_of, overlay_link, peers_of, twin_with_prefix, twins_in
from pyswarm_netplugin.published_ports.records import PublishedPort
from pyswarm_netplugin.state import Egress, Peer

OWN, ELSEWHERE = "192.0.2.1", "192.0.2.2"
SUBNET = "fd12:3456:789a:1::/64"
EGRESS = Egress(address="172.19.0.1/16", ipv6_address="fd19::ac13:1/64", mtu_bytes=1500)
PLAIN = NetworkView(network_id="net-a", name="a", version=1, vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1")
SIX = msgspec.structs.replace(PLAIN, ipv6_subnet=SUBNET)
ATTACHMENT = NetworkAttachment(network_id="net-a", address="10.0.1.5/24")


@given(st.ip_addresses(v=4).map(str), st.integers(8, 96), st.ip_addresses(v=6, network="fd00::/8"))
def test_twins_are_the_same_addresses_as_everywhere(address: str, length: int, inside: ipaddress.IPv6Address) -> None:
    subnet = str(ipaddress.IPv6Network((inside, length), strict=False))
    assert twins_in(subnet)(address) == ipv6_address_of(subnet, address)
    assert twin_with_prefix(subnet, f"{address}/24") == f"{ipv6_address_of(subnet, address)}/{length}"


def test_without_a_subnet_there_are_no_twins() -> None:
    assert twins_in("")("10.0.1.5") == ""
    assert twin_with_prefix("", "10.0.1.5/24") == ""


def test_endpoints_and_gateways_elsewhere_are_peers() -> None:
    view = msgspec.structs.replace(
        SIX,
        endpoints={
            "here": Endpoint(address="10.0.1.5/24", data_path_address=OWN),
            "there": Endpoint(address="10.0.1.6/24", data_path_address=ELSEWHERE, mac="02:AA:00:00:00:01"),
            "nowhere": Endpoint(address="10.0.1.7/24", data_path_address=""),
        },
        gateways={
            "own": Endpoint(address="10.0.1.250/24", data_path_address=OWN),
            "other": Endpoint(address="10.0.1.251/24", data_path_address=ELSEWHERE),
        },
    )
    assert peers_of(view, OWN) == {
        "10.0.1.6": Peer(host=ELSEWHERE, mac="02:aa:00:00:00:01", ipv6_address="fd12:3456:789a:1::a00:106"),
        "10.0.1.251": Peer(host=ELSEWHERE, ipv6_address="fd12:3456:789a:1::a00:1fb"),
    }


@pytest.mark.parametrize(
    ("changes", "underlay_mtu_bytes", "expected"),
    [
        ({}, 1500, 1450),
        ({}, 9000, 8950),
        ({"is_encrypted": True}, 1500, 1370),
        ({"mtu_bytes": 1230}, 1500, 1230),
        ({"mtu_bytes": 1230, "ipv6_subnet": SUBNET}, 1500, 1280),
        ({"ipv6_subnet": SUBNET}, 1280, 1280),
        ({"ipv6_subnet": SUBNET}, 1500, 1450),
    ],
)
def test_sizes(changes: dict[str, object], underlay_mtu_bytes: int, expected: int) -> None:
    assert mtu_bytes_of(msgspec.structs.replace(PLAIN, **changes), underlay_mtu_bytes) == expected


def test_other_subnets_of_the_network_are_on_the_link() -> None:
    view = msgspec.structs.replace(PLAIN, further_subnets=("10.0.9.0/24", "10.0.8.0/24"))
    assert overlay_link(ATTACHMENT, view, 1500).routes == ("10.0.8.0/24", "10.0.9.0/24")
    inner = msgspec.structs.replace(ATTACHMENT, address="10.0.9.5/24")
    assert overlay_link(inner, view, 1500).routes == ("10.0.1.0/24", "10.0.8.0/24")


def test_a_virtual_ip_has_a_twin_with_the_backends_twins() -> None:
    service = ServiceEndpoints(names=("web",), virtual_ip="10.0.1.2/24", backends=("10.0.1.5/24",))
    chains, backends = balancers_of(msgspec.structs.replace(SIX, services={"s1": service}))
    assert list(chains) == ["10.0.1.2", "fd12:3456:789a:1::a00:102"]
    assert [backends[chain] for chain in chains.values()] == [("10.0.1.5",), ("fd12:3456:789a:1::a00:105",)]


@pytest.mark.parametrize(
    ("view", "ports", "expected"),
    [
        (PLAIN, (), ""),
        (SIX, (), "fd19::ac13:2/64"),
        (PLAIN, (PublishedPort(protocol="tcp", container_port=80, host_address="::1", host_port=80),), "fd19::ac13:2/64"),
        (PLAIN, (PublishedPort(protocol="tcp", container_port=80, host_port=80),), ""),
    ],
)
def test_only_who_needs_it_gets_out_by_ipv6(view: NetworkView, ports: tuple[PublishedPort, ...], expected: str) -> None:
    record = SandboxRecord(id="t1", hostname="box", attachments=(ATTACHMENT,), egress_address="172.19.0.2/16", ports=ports)
    state = DesiredBuilder(Underlay(address=OWN, port=4789, mtu_bytes=1500), EGRESS).build({"net-a": view}, [record])
    way_out = state.sandboxes["t1"].links["eth1"]
    assert (way_out.ipv6_address, way_out.ipv6_gateway) == (expected, "fd19::ac13:1" if expected else "")
    assert state.egress == msgspec.structs.replace(
        EGRESS, ipv6_address=EGRESS.ipv6_address if expected else "", closed_ports=(4789,)
    )


def test_a_change_of_size_or_subnets_reaches_the_links_and_others_do_not() -> None:
    builder = DesiredBuilder(Underlay(address=OWN, port=4789, mtu_bytes=1500), EGRESS)
    record = SandboxRecord(id="t1", hostname="box", attachments=(ATTACHMENT,), egress_address="172.19.0.2/16")
    first = builder.build({"net-a": PLAIN}, [record]).sandboxes["t1"]
    second = builder.build({"net-a": msgspec.structs.replace(PLAIN, version=2)}, [record]).sandboxes["t1"]
    assert second is first
    third = builder.build({"net-a": msgspec.structs.replace(PLAIN, version=3, mtu_bytes=1400)}, [record]).sandboxes["t1"]
    assert third.links["eth0"] == msgspec.structs.replace(first.links["eth0"], mtu_bytes=1400)
    assert first.links["eth0"].can_become(third.links["eth0"])


def test_no_ipv6_leads_out_of_a_bridge_that_is_too_small_for_it() -> None:
    record = SandboxRecord(id="t1", hostname="box", attachments=(ATTACHMENT,), egress_address="172.19.0.2/16")
    small = msgspec.structs.replace(EGRESS, mtu_bytes=1279)
    state = DesiredBuilder(Underlay(address=OWN, port=4789, mtu_bytes=1279), small).build({"net-a": SIX}, [record])
    assert state.sandboxes["t1"].links["eth1"].ipv6_address == ""
    assert state.sandboxes["t1"].links["eth0"].ipv6_address != ""


def test_hosts_names_the_container_by_ipv6_too() -> None:
    record = SandboxRecord(id="t1", hostname="box", attachments=(ATTACHMENT,))
    assert hosts_file(record, {"net-a": SIX}).splitlines()[-2:] == ["10.0.1.5\tbox", "fd12:3456:789a:1::a00:105\tbox"]
    assert hosts_file(record, {"net-a": PLAIN}).splitlines()[-1] == "10.0.1.5\tbox"


def test_private_subnets_differ() -> None:
    networks = {ipaddress.IPv6Network(random_ipv6_subnet()) for _ in range(20)}
    assert len(networks) == 20
    assert all(network.prefixlen == 64 and network.subnet_of(ipaddress.IPv6Network("fd00::/8")) for network in networks)
