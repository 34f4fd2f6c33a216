"""Published ports and networks of services on the command line: ranges, changes, what lists show."""

from typing import Any

import click
import pytest

from pyswarm_cli.pretty import member_lines
from pyswarm_cli.service.networks import parse_network
from pyswarm_cli.service.ports import changed_ports, parse_publish, port_lines, ports_text


def port(target: int, published: int | None = None, protocol: str = "tcp", mode: str = "ingress") -> dict[str, Any]:
    made: dict[str, Any] = {"Protocol": protocol, "TargetPort": target, "PublishMode": mode}
    return made if published is None else {**made, "PublishedPort": published}


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("8000-8002:80-82", [port(80, 8000), port(81, 8001), port(82, 8002)]),
        ("8000-8001:53/sctp", [port(53, 8000, "sctp"), port(53, 8001, "sctp")]),
        ("80-81", [port(80), port(81)]),
        ("published=8000-8001,target=80-81,mode=host", [port(80, 8000, mode="host"), port(81, 8001, mode="host")]),
        ("Mode=HOST,target=53,published=5353,protocol=UDP", [port(53, 5353, "udp", "host")]),
    ],
)
def test_ranges(text: str, ports: list[dict[str, Any]]) -> None:
    assert parse_publish(text) == ports


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8000:80-90", "invalid ranges specified for container and host Ports: 80-90 and 8000"),
        ("8000-8005:80-90", "invalid ranges specified"),
        ("8005-8000:80", "is not a port, nor a range"),
        ("127.0.0.1:8080:80", "an address of the host is not supported"),
        ("80/icmp", "the protocol is tcp, udp or sctp"),
        ("published=80,mode=host", "target=PORT is missing"),
        ("target=80,host=1.2.3.4", "there is no 'host'"),
        ("target=80,mode=mesh", "the mode is ingress or host"),
        ("65535-65536:80", "is not a port"),
    ],
)
def test_what_cannot_be_published_is_said(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter, match=message):
        parse_publish(text)


BEFORE = [port(80, 8080), port(53, 5353, "udp", "host"), port(53, 53, "udp"), port(53, 53)]


@pytest.mark.parametrize(
    ("added", "removed", "after"),
    [
        (["8081:80"], [], [*BEFORE, port(80, 8081)]),
        (["8080:80"], [], BEFORE),
        ([], ["80"], BEFORE[1:]),
        ([], ["9999:80/tcp"], BEFORE[1:]),
        ([], ["53/udp"], [BEFORE[0], BEFORE[3]]),
        ([], ["mode=host,target=53,protocol=udp"], [BEFORE[0], *BEFORE[2:]]),
        (["published=80,target=80,mode=host"], ["80", "53"], [*BEFORE[1:3], port(80, 80, mode="host")]),
        (["8080:80"], ["80"], [*BEFORE[1:], BEFORE[0]]),
    ],
)
def test_changes_of_ports(added: list[str], removed: list[str], after: list[dict[str, Any]]) -> None:
    assert changed_ports(BEFORE, added, removed) == after


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([], ""),
        ([port(80)], ""),
        ([port(80, 8080), port(53, 5353, "udp", "host")], "*:8080->80/tcp"),
        ([port(81, 8001), port(80, 8000), port(82, 8002), port(90, 9000)], "*:8000-8002->80-82/tcp, *:9000->90/tcp"),
        ([port(80, 8000), port(80, 8001)], "*:8000-8001->80/tcp"),
        ([port(80, 8000), port(81, 8001), port(81, 8002)], "*:8000-8001->80-81/tcp, *:8002->81/tcp"),
        ([port(53, 53), port(53, 53, "udp")], "*:53->53/tcp, *:53->53/udp"),
    ],
)
def test_lists_show_the_ports_of_the_mesh(ports: list[dict[str, Any]], text: str) -> None:
    assert ports_text(ports) == text


def test_ports_for_people_to_read() -> None:
    assert list(member_lines({"Ports": port_lines([port(80, 8080), port(53, mode="host")]), "None": port_lines([])})) == [
        "Ports:",
        " PublishedPort = 8080",
        "  Protocol = tcp",
        "  TargetPort = 80",
        "  PublishMode = ingress",
        " PublishedPort = 0",
        "  Protocol = tcp",
        "  TargetPort = 53",
        "  PublishMode = host",
    ]


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("app", {"Target": "app"}),
        ("name=app", {"Target": "app"}),
        ("name=app,alias=a,alias=b", {"Target": "app", "Aliases": ["a", "b"]}),
        (
            'name=app,"driver-opt=pyswarm.addresses=10.0.1.5,10.0.1.6",driver-opt=x',
            {"Target": "app", "DriverOpts": {"pyswarm.addresses": "10.0.1.5,10.0.1.6", "x": ""}},
        ),
    ],
)
def test_networks(text: str, network: dict[str, Any]) -> None:
    assert parse_network(text) == network


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alias=a", "name=NETWORK is missing"),
        ("name=", "name=NETWORK is missing"),
        ("name=app,ip=10.0.0.1", "there is no 'ip'"),
        ("name=app,alias", "there is no 'alias'"),
        ("name=app,driver-opt==x", "is not KEY=VALUE"),
    ],
)
def test_bad_networks(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter, match=message):
        parse_network(text)
