"""Options become specs in the Engine API's JSON, and hold what was asked for alone."""

from typing import Any

import click
import pytest

from pyswarm_cli.service.changed_spec import updated_spec
from pyswarm_cli.service.commands import create, update
from pyswarm_cli.service.mounts import parse_mount
from pyswarm_cli.service.ports import parse_publish
from pyswarm_cli.service.spec import service_spec

ENVIRONMENT = {"HOME": "/root"}


def options_of(command: click.Command, *arguments: str) -> dict[str, Any]:
    """Return the parameters that click makes of a command line."""
    with command.make_context("x", list(arguments)) as context:
        return dict(context.params)


def created(*arguments: str) -> dict[str, Any]:
    options = options_of(create, *arguments)
    return service_spec(options["image"], options["command"], options, ENVIRONMENT)


def test_the_smallest_service() -> None:
    assert created("nginx") == {
        "Name": "",
        "TaskTemplate": {"ContainerSpec": {"Image": "nginx"}},
        "Mode": {"Replicated": {}},
    }


def test_a_service_with_everything() -> None:
    line = (
        "--name web --replicas 3 --network app --network name=back,alias=api,alias=rest --constraint node.role==worker "
        "--placement-pref spread=node.labels.zone --env A=1 -e HOME -e UNSET -e A=2 --label a=b -l flag --container-label c=d "
        "--hostname h --user 1000:1000 --workdir /srv --mount type=bind,src=/data,dst=/data,ro --limit-cpu 0.5 "
        "--limit-memory 64m --limit-pids 9 --reserve-cpu .25 --reserve-memory 32m --restart-condition on-failure "
        "--restart-delay 0 --restart-max-attempts 0 --restart-window 1m --stop-grace-period 0s --stop-signal SIGINT "
        "--endpoint-mode dnsrr --publish published=80,target=8080,mode=host --replicas-max-per-node 2 --tty --read-only "
        "--cap-add net_admin --cap-drop ALL --detach -q --wait-timeout 5s"
    )
    assert created(*line.split(), "--entrypoint", "sh -c 'a b'", "nginx:1", "--flag", "x y") == {
        "Name": "web",
        "Labels": {"a": "b", "flag": ""},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "nginx:1",
                "Labels": {"c": "d"},
                "Command": ["sh", "-c", "a b"],
                "Args": ["--flag", "x y"],
                "Hostname": "h",
                "Env": ["A=2", "HOME=/root"],
                "Dir": "/srv",
                "User": "1000:1000",
                "TTY": True,
                "ReadOnly": True,
                "Mounts": [{"Type": "bind", "Source": "/data", "Target": "/data", "ReadOnly": True}],
                "StopSignal": "SIGINT",
                "CapabilityAdd": ["CAP_NET_ADMIN"],
                "CapabilityDrop": ["ALL"],
                "StopGracePeriod": 0,
            },
            "Resources": {
                "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 9},
                "Reservations": {"NanoCPUs": 250_000_000, "MemoryBytes": 32 << 20},
            },
            "RestartPolicy": {"Condition": "on-failure", "Delay": 0, "MaxAttempts": 0, "Window": 60_000_000_000},
            "Placement": {
                "Constraints": ["node.role==worker"],
                "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
                "MaxReplicas": 2,
            },
            "Networks": [{"Target": "app"}, {"Target": "back", "Aliases": ["api", "rest"]}],
        },
        "Mode": {"Replicated": {"Replicas": 3}},
        "EndpointSpec": {
            "Mode": "dnsrr",
            "Ports": [{"Protocol": "tcp", "PublishMode": "host", "PublishedPort": 80, "TargetPort": 8080}],
        },
    }


def test_no_replicas_and_global() -> None:
    assert created("--replicas", "0", "nginx")["Mode"] == {"Replicated": {"Replicas": 0}}
    assert created("--mode", "global", "nginx")["Mode"] == {"Global": {}}
    with pytest.raises(click.UsageError, match="--replicas does not go with"):
        created("--mode", "global", "--replicas", "2", "nginx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit-memory", "lots"], "not a size such as 64m"),
        (["--restart-delay", "5"], "not a duration such as 10s"),
        (["--limit-cpu", "half"], "not a number of CPUs"),
        (["--placement-pref", "node.labels.zone"], "is not spread=LABEL"),
        (["--network", "alias=x"], "name=NETWORK is missing"),
        (["--env", "=x"], "is not KEY=VALUE"),
        (["--label", "=x"], "is not KEY=VALUE"),
        (["--entrypoint", "'open"], "No closing quotation"),
        (["--mount", "type=bind,target=/x"], "needs source"),
        (["--publish", "http:80"], "is not PUBLISHED:TARGET"),
        (["--replicas", "-1"], "not in the range"),
        (["--restart-condition", "never"], "is not one of"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        created(*arguments, "nginx")


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("target=/data", {"Type": "volume", "Target": "/data"}),
        ("type=volume,source=v,target=/data,readonly=false", {"Type": "volume", "Source": "v", "Target": "/data"}),
        ('"type=bind","source=/a,b",target=/c', {"Type": "bind", "Source": "/a,b", "Target": "/c"}),
        (
            "type=bind,source=/a,target=/c,bind-propagation=rshared",
            {"Type": "bind", "Source": "/a", "Target": "/c", "BindOptions": {"Propagation": "rshared"}},
        ),
        (
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777",
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}},
        ),
    ],
)
def test_mounts(text: str, mount: dict[str, Any]) -> None:
    assert parse_mount(text) == mount


@pytest.mark.parametrize(
    "text",
    [
        "type=nfs,target=/x",
        "type=bind,source=/x",
        "type=tmpfs,source=/x,target=/x",
        "target=/x,colour=red",
        "target=/x,ro=maybe",
        "type=tmpfs,target=/x,tmpfs-size=big",
    ],
)
def test_bad_mounts(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_mount(text)


@pytest.mark.parametrize(
    ("text", "published", "target", "protocol", "mode"),
    [
        ("8080:80", 8080, 80, "tcp", "ingress"),
        ("53:53/UDP", 53, 53, "udp", "ingress"),
        ("80", None, 80, "tcp", "ingress"),
        ("target=80", None, 80, "tcp", "ingress"),
        ("published=8080,target=80,protocol=udp,mode=host", 8080, 80, "udp", "host"),
    ],
)
def test_ports(text: str, published: int | None, target: int, protocol: str, mode: str) -> None:
    (port,) = parse_publish(text)
    assert (port.get("PublishedPort"), port["TargetPort"], port["Protocol"], port["PublishMode"]) == (
        published,
        target,
        protocol,
        mode,
    )


@pytest.mark.parametrize(
    "text", ["", "80:", "0:80", "80:70000", "80:80/icmp", "published=80", "target=80,mode=x", "target=x", "a=b"]
)
def test_bad_ports(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_publish(text)


SPEC: dict[str, Any] = {
    "Name": "web",
    "Labels": {"a": "b"},
    "TaskTemplate": {
        "ContainerSpec": {"Image": "nginx:1", "Env": ["A=1", "B=2"], "Isolation": "default"},
        "Resources": {"Limits": {"MemoryBytes": 1 << 26, "Pids": 9}},
        "Placement": {"Constraints": ["node.role == worker", "node.id==x"]},
        "ForceUpdate": 3,
    },
    "Mode": {"Replicated": {"Replicas": 2}},
}


def updated(*arguments: str) -> dict[str, Any]:
    return updated_spec(SPEC, options_of(update, *arguments, "web"), ENVIRONMENT)


def test_an_update_without_changes_keeps_everything() -> None:
    assert updated() == SPEC


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    line = (
        "--image nginx:2 --replicas 5 --env-add B=3 --env-add C=4 --env-rm A --label-add c=d --label-rm a --force "
        "--constraint-add node.labels.x==y --constraint-rm node.role==worker --limit-cpu 1 --reserve-memory 32m"
    )
    before = str(SPEC)
    assert updated(*line.split()) == {
        "Name": "web",
        "Labels": {"c": "d"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "nginx:2", "Env": ["B=3", "C=4"], "Isolation": "default"},
            "Resources": {
                "Limits": {"MemoryBytes": 1 << 26, "Pids": 9, "NanoCPUs": 1_000_000_000},
                "Reservations": {"MemoryBytes": 32 << 20},
            },
            "Placement": {"Constraints": ["node.id==x", "node.labels.x==y"]},
            "ForceUpdate": 4,
        },
        "Mode": {"Replicated": {"Replicas": 5}},
    }
    assert str(SPEC) == before, "the spec that was read must not change"


def test_a_global_service_has_no_replicas() -> None:
    with pytest.raises(click.ClickException, match="is not replicated"):
        updated_spec({**SPEC, "Mode": {"Global": {}}}, options_of(update, "--replicas", "2", "web"), ENVIRONMENT)
