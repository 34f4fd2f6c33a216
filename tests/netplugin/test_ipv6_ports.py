"""Ports on IPv6 addresses, the decisions: which ports a request comes to, what excludes what, what the tables' names say."""

import errno

import pytest

from pyswarm_common.errors import InvalidArgument
from pyswarm_netplugin.desired import DesiredBuilder, SandboxRecord, Underlay
from pyswarm_netplugin.kernel.ipv6_forwarding import is_left_over
from pyswarm_netplugin.placement import Placement
from pyswarm_netplugin.published_ports.allocation import PortUnavailable, allocate
from pyswarm_netplugin.published_ports.records import PortForward, PortRequest, PublishedPort
from pyswarm_netplugin.published_ports.rules import mark_seen, ports_mark
from pyswarm_netplugin.state import Egress


def port(address: str, number: int = 80) -> PublishedPort:
    return PublishedPort(protocol="tcp", container_port=8080, host_address=address, host_port=number)


def request(address: str = "", first: int = 80, last: int = 80) -> PortRequest:
    return PortRequest(container_port=8080, host_address=address, first_host_port=first, last_host_port=last)


@pytest.mark.parametrize(
    ("asked", "problem", "expected"),
    [
        ("", "", ["0.0.0.0:80", "[::]:80"]),
        ("", "this host has no IPv6", ["0.0.0.0:80"]),
        ("0.0.0.0", "", ["0.0.0.0:80"]),
        ("192.0.2.1", "", ["192.0.2.1:80"]),
        ("::", "", ["[::]:80"]),
        ("::1", "", ["[::1]:80"]),
        ("2001:0DB8::0", "", ["[2001:db8::]:80"]),
    ],
)
def test_what_a_request_comes_to(asked: str, problem: str, expected: list[str]) -> None:
    reserved: list[PublishedPort] = []
    given = allocate([request(asked)], (), reserved.append, ipv6_problem=problem)
    assert [each.shown for each in given] == expected
    assert reserved == list(given)


@pytest.mark.parametrize(("asked", "problem"), [("::1", "this host has no IPv6"), ("::g", ""), ("::1%eth0", ""), ("fe80::1", "")])
def test_what_cannot_be_is_refused(asked: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=f"cannot publish on {asked}: "):
        allocate([request(asked)], (), lambda _: None, ipv6_problem=problem)


def test_a_number_that_one_family_lacks_is_passed_over() -> None:
    def reserve(wanted: PublishedPort) -> None:
        if wanted.is_ipv6 and wanted.host_port == 81:
            raise OSError(errno.EADDRINUSE, "in use")

    given = allocate([request(first=80, last=83)], [port("::1", 80)], reserve, ipv6_problem="")
    assert [each.shown for each in given] == ["0.0.0.0:82", "[::]:82"]
    with pytest.raises(PortUnavailable, match=r"listen tcp6 \[::\]:81: bind: address already in use"):
        allocate([request(first=81, last=81)], (), reserve, ipv6_problem="")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0.0.0.0", "::", False),
        ("127.0.0.1", "::", False),
        ("::1", "::", True),
        ("::1", "2001:db8::1", False),
        ("::1", "::1", True),
        ("0.0.0.0", "127.0.0.1", True),
    ],
)
def test_families_do_not_exclude_each_other(one: str, other: str, expected: bool) -> None:
    assert port(one).overlaps(port(other)) is expected
    assert port(other).overlaps(port(one)) is expected


FOUR, SIX = PortForward(port=port("0.0.0.0"), address="172.19.0.2"), PortForward(port=port("::"), address="fd19::ac13:2")


def test_the_marks_of_both_tables_must_fit() -> None:
    plain, both = ports_mark([FOUR]), ports_mark([FOUR, SIX])
    assert mark_seen(["prerouting", plain], []) == plain
    assert mark_seen([both], ["output", both]) == both
    assert mark_seen([], []) == ports_mark([]) == ""
    torn = [mark_seen([both], []), mark_seen([plain], [both]), mark_seen([], [both]), mark_seen([both], [ports_mark([SIX])])]
    assert not {plain, both, ""} & set(torn)


def test_ports_lead_to_the_address_of_their_family_which_is_the_way_out_of_ipv6() -> None:
    egress = Egress(address="172.19.0.1/16", ipv6_address="fd19::ac13:1/64", mtu_bytes=1500)
    builder = DesiredBuilder(Underlay(address="192.0.2.1", port=4789, mtu_bytes=1500), egress)
    ports = (FOUR.port, SIX.port)
    elsewhere = Placement(default_network="other")
    record = SandboxRecord(id="t1", hostname="", egress_address="172.19.0.2/16", ports=ports, placement=elsewhere)
    state = builder.build({}, [record])
    assert state.forwards == (FOUR, SIX)
    assert state.egress is not None
    assert state.egress.ipv6_address == egress.ipv6_address
    link = state.sandboxes["t1"].links["eth0"]
    assert (link.gateway, link.ipv6_address, link.ipv6_gateway) == ("", "fd19::ac13:2/64", "fd19::ac13:1")


def test_ports_alone_do_not_keep_the_host_forwarding() -> None:
    assert is_left_over({"pyswarm_ipv6guard", "pyswarm_a1b2_ports", "others"})
    assert not is_left_over({"pyswarm_ipv6guard", "pyswarm_a1b2_ports", "pyswarm_a1b2"})
    assert not is_left_over({"pyswarm_a1b2_ports"})
