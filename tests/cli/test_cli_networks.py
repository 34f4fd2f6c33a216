"""`pyswarm network …`: what `create` posts, and what the other commands say and do."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import click
import pytest
from click.testing import Result

from pyswarm_cli.network.commands import create
from pyswarm_cli.network.membership import endpoint_settings
from pyswarm_cli.network.network_spec import network_spec
from pyswarm_manager.store.store import Store

Run = Callable[..., Awaitable[Result]]


def spec_of(*arguments: str) -> dict[str, Any]:
    with create.make_context("create", [*arguments, "app"]) as context:
        return network_spec(dict(context.params))


def pools_of(*arguments: str) -> list[dict[str, Any]]:
    pools: list[dict[str, Any]] = spec_of(*arguments)["IPAM"]["Config"]
    return pools


def test_the_smallest_network() -> None:
    assert spec_of() == {
        "Name": "app",
        "CheckDuplicate": True,
        "Driver": "overlay",
        "Scope": "",
        "Attachable": False,
        "Internal": False,
        "Ingress": False,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": {}, "Config": []},
        "Labels": {},
        "Options": {},
    }


def test_a_network_with_everything() -> None:
    line = (
        "-d bridge --scope local --attachable --internal --ingress --ipv6 --label a=b -o encrypted -o x=y --ipam-driver d "
        "--ipam-opt k=v --config-only --config-from base"
    )
    assert spec_of(*line.split()) == {
        "Name": "app",
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Scope": "local",
        "Attachable": True,
        "Internal": True,
        "Ingress": True,
        "EnableIPv6": True,
        "IPAM": {"Driver": "d", "Options": {"k": "v"}, "Config": []},
        "Labels": {"a": "b"},
        "Options": {"encrypted": "", "x": "y"},
        "ConfigOnly": True,
        "ConfigFrom": {"Network": "base"},
    }


def test_what_lies_in_a_subnet_finds_it() -> None:
    line = (
        "--gateway fd00:9::1 --gateway 10.10.0.254 --ip-range 10.9.0.128/25 --subnet 10.9.0.0/24 --subnet 10.10.0.0/24 "
        "--subnet fd00:9::/64 --aux-address router=10.9.0.129 --aux-address printer=10.9.0.130"
    )
    assert pools_of(*line.split()) == [
        {
            "Subnet": "10.9.0.0/24",
            "IPRange": "10.9.0.128/25",
            "AuxiliaryAddresses": {"router": "10.9.0.129", "printer": "10.9.0.130"},
        },
        {"Subnet": "10.10.0.0/24", "Gateway": "10.10.0.254"},
        {"Subnet": "fd00:9::/64", "Gateway": "fd00:9::1"},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--gateway 10.9.0.1", "no matching subnet for gateway 10.9.0.1"),
        ("--subnet 10.9.0.0/24 --ip-range 10.10.0.0/25", "no matching subnet for range 10.10.0.0/25"),
        ("--subnet 10.9.0.0/24 --aux-address x=10.10.0.1", "no matching subnet for aux-address 10.10.0.1"),
        ("--subnet 10.9.0.0/24 --gateway 10.9.0.1 --gateway 10.9.0.2", "cannot configure multiple gateways"),
        ("--subnet 10.9.0.0/24 --ip-range 10.9.0.0/25 --ip-range 10.9.0.128/25", "cannot configure multiple ranges"),
        ("--subnet 10.9.0.0/16 --subnet 10.9.1.0/24", "multiple overlapping subnet configuration"),
        ("--subnet ten", "invalid subnet ten"),
        ("--subnet 10.9.0.0/24 --gateway one", "invalid address one"),
        ("--subnet 10.9.0.0/24 --aux-address 10.9.0.7", "is not NAME=IP"),
    ],
)
def test_what_does_not_fit_is_said(line: str, message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        spec_of(*line.split())


def test_a_connection_says_only_what_was_asked_for() -> None:
    nothing: dict[str, Any] = {"ip": "", "ip6": "", "alias": (), "driver_opt": ()}
    assert endpoint_settings(nothing) == {}
    asked = {"ip": "10.9.0.7", "ip6": "fd00::7", "alias": ("a", "b"), "driver_opt": ("k=v",)}
    assert endpoint_settings(asked) == {
        "IPAMConfig": {"IPv4Address": "10.9.0.7", "IPv6Address": "fd00::7"},
        "Aliases": ["a", "b"],
        "DriverOpts": {"k": "v"},
    }


async def test_links_are_refused(pyswarm: Run) -> None:
    refused = await pyswarm("network", "connect", "--link", "db:db", "app", "web")
    assert (refused.exit_code, "--link is not supported" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", ["connect", "disconnect"])
async def test_what_is_not_there_cannot_be_connected(pyswarm: Run, command: str) -> None:
    assert (await pyswarm("network", "create", "--driver", "bridge", "own")).exit_code == 0
    refused = await pyswarm("network", command, "own", "nosuch")
    assert (refused.exit_code, refused.stderr) == (1, "Error: No such container: nosuch\n")


async def test_a_network_of_one_node_is_none_for_services(pyswarm: Run) -> None:
    assert (await pyswarm("network", "create", "--driver", "bridge", "own")).exit_code == 0
    refused = await pyswarm("service", "create", "-d", "--network", "own", "nginx:1")
    assert (refused.exit_code, "network own not found" in refused.stderr) == (1, True)


async def test_several_are_inspected_and_removed(pyswarm: Run) -> None:
    for name in ("app", "back"):
        assert (await pyswarm("network", "create", name)).exit_code == 0
    inspected = await pyswarm("network", "inspect", "--verbose", "app", "nosuch", "back")
    assert [each["Name"] for each in json.loads(inspected.stdout)] == ["app", "back"]
    assert (inspected.exit_code, inspected.stderr) == (1, "Error: network nosuch not found\n")
    removed = await pyswarm("network", "rm", "app", "nosuch", "back")
    assert (removed.exit_code, removed.stdout, removed.stderr) == (1, "app\nback\n", "Error: network nosuch not found\n")
    forced = await pyswarm("network", "rm", "--force", "nosuch")
    assert (forced.exit_code, forced.stdout, forced.stderr) == (0, "", "")


async def test_the_network_of_the_mesh_is_only_removed_when_one_is_sure(pyswarm: Run, store: Store) -> None:
    asked = await pyswarm("network", "rm", "ingress", input=b"n\n")
    assert "This is the routing-mesh network" in asked.stdout
    assert store.view.networks.named("ingress")
    assert (await pyswarm("network", "rm", "ingress", input=b"y\n")).stdout.endswith("ingress\n")
    assert not store.view.networks.named("ingress")
    created = await pyswarm("network", "create", "--ingress", "--subnet", "10.11.0.0/16", "mesh")
    assert store.view.networks.must_get(created.stdout.strip()).spec.ingress


async def test_those_that_nothing_uses_are_pruned(pyswarm: Run, store: Store) -> None:
    for name, label in (("app", "keep=no"), ("back", "keep=yes")):
        await pyswarm("network", "create", "--label", label, name)
    asked = await pyswarm("network", "prune", input=b"n\n")
    assert "remove all custom networks not used by at least one container" in asked.stdout
    assert {network.name for network in store.view.networks} == {"ingress", "app", "back"}
    pruned = await pyswarm("network", "prune", "--force", "--filter", "label=keep=no")
    assert pruned.stdout == "Deleted Networks:\napp\n\n"
    assert {network.name for network in store.view.networks} == {"ingress", "back"}
    assert (await pyswarm("network", "prune", "-f", "--filter", "label=none")).stdout == ""
    assert (await pyswarm("network", "prune", "-f")).stdout == "Deleted Networks:\nback\n\n"
    assert [network.name for network in store.view.networks] == ["ingress"]


async def test_lists_can_be_formatted(pyswarm: Run) -> None:
    network_id = (await pyswarm("network", "create", "app")).stdout.strip()
    shown = await pyswarm("network", "ls", "--filter", "name=app", "--format", "{{.Name}} {{.Driver}} {{.IPv6}} {{.Internal}}")
    assert shown.stdout == "app overlay false false\n"
    assert (await pyswarm("network", "ls", "-q", "--no-trunc", "-f", "name=app")).stdout.strip() == network_id
