"""Options for modes, updates, placement and schedules become what docker's CLI makes of them, and our labels."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.service.changed_spec import updated_spec, with_replicas
from pyswarm_cli.service.commands import create, update
from pyswarm_cli.service.spec import service_spec

SECOND_NS = 1_000_000_000
Spec = dict[str, Any]


def options_of(command: click.Command, *arguments: str) -> dict[str, Any]:
    with command.make_context("x", list(arguments)) as context:
        return dict(context.params)


def created(line: str, *more: str) -> Spec:
    options = options_of(create, *line.split(), *more, "nginx")
    return service_spec(options["image"], options["command"], options, {})


def updated(spec: Spec, line: str, *more: str, networks: dict[str, str] | None = None) -> Spec:
    return updated_spec(spec, options_of(update, *line.split(), *more, "web"), {}, networks)


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("", {"Replicated": {}}),
        ("--replicas 0", {"Replicated": {"Replicas": 0}}),
        ("--mode global", {"Global": {}}),
        ("--mode replicated-job", {"ReplicatedJob": {}}),
        ("--mode replicated-job --replicas 5", {"ReplicatedJob": {"MaxConcurrent": 5, "TotalCompletions": 5}}),
        ("--mode replicated-job --replicas 5 --max-concurrent 2", {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}}),
        ("--mode global-job", {"GlobalJob": {}}),
    ],
)
def test_modes(line: str, mode: Spec) -> None:
    assert created(line)["Mode"] == mode


def test_an_update_configuration_holds_what_was_said_and_dockers_parallelism() -> None:
    assert "UpdateConfig" not in created("")
    assert created("--update-delay 10s")["UpdateConfig"] == {"Parallelism": 1, "Delay": 10 * SECOND_NS}
    line = (
        "--update-parallelism 0 --update-delay 1m --update-order start-first --update-monitor 0s --update-max-failure-ratio .2 "
        "--update-failure-action rollback --rollback-parallelism 3 --rollback-order stop-first --rollback-failure-action continue"
    )
    spec = created(line)
    assert spec["UpdateConfig"] == {
        "Parallelism": 0,
        "Delay": 60 * SECOND_NS,
        "FailureAction": "rollback",
        "Monitor": 0,
        "MaxFailureRatio": 0.2,
        "Order": "start-first",
    }
    assert spec["RollbackConfig"] == {"Parallelism": 3, "FailureAction": "continue", "Order": "stop-first"}


def test_what_docker_has_no_fields_for_becomes_labels() -> None:
    line = "--mode replicated-job --schedule-timezone Europe/Berlin --schedule-overlap queue --schedule-history 9 -l a=b"
    assert created(line, "--schedule", "*/5 * * * *")["Labels"] == {
        "a": "b",
        "pyswarm.schedule": "*/5 * * * *",
        "pyswarm.schedule.timezone": "Europe/Berlin",
        "pyswarm.schedule.overlap": "queue",
        "pyswarm.schedule.history": "9",
    }
    assert created("--depends-on db --depends-on cache --depends-on db --rebalance --placement-strategy binpack")["Labels"] == {
        "pyswarm.depends_on": "db,cache",
        "pyswarm.rebalance": "true",
        "pyswarm.placement.strategy": "binpack",
    }
    assert "Labels" not in created("--no-rebalance")


def test_generic_resources_are_reserved() -> None:
    assert created("--generic-resource gpu=2 --generic-resource ssd=1")["TaskTemplate"]["Resources"] == {
        "Reservations": {
            "GenericResources": [
                {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}},
                {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 1}},
            ]
        }
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--mode global --replicas 2", "--replicas does not go with --mode global"),
        ("--mode global-job --replicas-max-per-node 2", "--replicas-max-per-node does not go with --mode global-job"),
        ("--max-concurrent 2", "only goes with --mode replicated-job"),
        ("--mode replicated-job --update-delay 1s", "not supported for jobs"),
        ("--mode global-job --rollback-parallelism 1", "not supported for jobs"),
        ("--mode replicated-job --restart-condition any", "--restart-condition any does not go with it"),
        ("--schedule @daily", "--schedule goes with a job"),
        ("--mode replicated-job --schedule-overlap skip", "--schedule is missing"),
        ("--generic-resource gpu", "is not KIND=NUMBER"),
        ("--generic-resource gpu=0", "is not KIND=NUMBER"),
        ("--update-failure-action stop", "is not one of"),
        ("--rollback-failure-action rollback", "is not one of"),
        ("--update-max-failure-ratio 2", "not in the range"),
        ("--mode daemon", "is not one of"),
    ],
)
def test_what_does_not_go_together_is_named(line: str, message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        created(line)


BEFORE: Spec = {
    "Name": "web",
    "Labels": {"pyswarm.schedule": "@daily", "pyswarm.schedule.overlap": "skip", "pyswarm.depends_on": "db, cache"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "nginx:1",
            "Labels": {"x": "1"},
            "Mounts": [{"Type": "volume", "Source": "v", "Target": "/data"}, {"Type": "tmpfs", "Target": "/tmp"}],
        },
        "Resources": {"Reservations": {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}]}},
        "RestartPolicy": {"Condition": "any", "Delay": 1},
        "Placement": {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]},
        "Networks": [{"Target": "id-of-app"}, {"Target": "id-of-back"}],
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "UpdateConfig": {"Parallelism": 2, "Order": "stop-first"},
    "EndpointSpec": {
        "Mode": "vip",
        "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}],
    },
}


def test_an_update_that_names_nothing_changes_nothing() -> None:
    assert updated(BEFORE, "") == BEFORE


def test_an_update_keeps_what_it_does_not_name_of_a_configuration() -> None:
    spec = updated(BEFORE, "--update-order start-first --rollback-monitor 1s --restart-max-attempts 3 --limit-pids 0")
    assert spec["UpdateConfig"] == {"Parallelism": 2, "Order": "start-first"}
    assert spec["RollbackConfig"] == {"Parallelism": 1, "Monitor": SECOND_NS}
    assert spec["TaskTemplate"]["RestartPolicy"] == {"Condition": "any", "Delay": 1, "MaxAttempts": 3}
    assert spec["TaskTemplate"]["Resources"]["Limits"] == {"Pids": 0}


def test_an_update_adds_replaces_and_removes() -> None:
    line = (
        "--mount-add type=bind,source=/srv,target=/data --mount-rm /tmp --container-label-add y=2 --container-label-rm x "
        "--generic-resource-add gpu=4 --generic-resource-add ssd=1 --placement-pref-add spread=node.labels.rack "
        "--placement-pref-rm spread=node.labels.zone --replicas-max-per-node 3 --publish-add 8443:443 --publish-rm 80 "
        "--network-add name=new,alias=n --network-rm back --user 7 --workdir /srv --stop-grace-period 1s --endpoint-mode dnsrr"
    )
    spec = updated(BEFORE, line, networks={"new": "id-of-new", "back": "id-of-back"})
    template = spec["TaskTemplate"]
    assert template["ContainerSpec"] == {
        "Image": "nginx:1",
        "Labels": {"y": "2"},
        "Mounts": [{"Type": "bind", "Source": "/srv", "Target": "/data"}],
        "Dir": "/srv",
        "User": "7",
        "StopGracePeriod": SECOND_NS,
    }
    assert template["Resources"]["Reservations"]["GenericResources"] == [
        {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 4}},
        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 1}},
    ]
    assert template["Placement"] == {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}], "MaxReplicas": 3}
    assert template["Networks"] == [{"Target": "id-of-app"}, {"Target": "id-of-new", "Aliases": ["n"]}]
    assert spec["EndpointSpec"] == {
        "Mode": "dnsrr",
        "Ports": [{"Protocol": "tcp", "PublishMode": "ingress", "PublishedPort": 8443, "TargetPort": 443}],
    }
    assert updated(BEFORE, "--generic-resource-rm gpu")["TaskTemplate"]["Resources"] == {"Reservations": {"GenericResources": []}}


def test_the_last_constraint_and_the_last_port_can_go() -> None:
    spec = updated(BEFORE, "--publish-rm 8080:80 --placement-pref-rm spread=node.labels.zone")
    assert spec["EndpointSpec"]["Ports"] == []
    assert spec["TaskTemplate"]["Placement"]["Preferences"] == []


def test_labels_of_ours_change_with_an_update() -> None:
    labels = updated(BEFORE, "--schedule-overlap replace --depends-on-add queue --depends-on-rm db --rebalance")["Labels"]
    assert labels == {
        "pyswarm.schedule": "@daily",
        "pyswarm.schedule.overlap": "replace",
        "pyswarm.depends_on": "cache,queue",
        "pyswarm.rebalance": "true",
    }
    plain = updated({**BEFORE, "Labels": labels}, "--no-schedule --no-rebalance --depends-on-rm cache --depends-on-rm queue")
    assert plain["Labels"] == {}


def test_a_job_changes_its_counts() -> None:
    job = {**BEFORE, "Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 4}}}
    assert updated(job, "--replicas 9 --max-concurrent 3")["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 3, "TotalCompletions": 9}}
    assert with_replicas(job, 2)["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 2}}
    for mode in ("Global", "GlobalJob"):
        with pytest.raises(click.ClickException, match="is not replicated"):
            with_replicas({**BEFORE, "Mode": {mode: {}}}, 2)
    with pytest.raises(click.ClickException, match="is no replicated job"):
        updated(BEFORE, "--max-concurrent 3")


def test_a_rollback_goes_with_no_other_change() -> None:
    result = CliRunner().invoke(update, ["--rollback", "--image", "nginx:2", "web"], obj=EngineClient())
    assert result.exit_code == 2
    assert "--rollback does not go with other changes (--image)" in result.output


def test_help_teaches_with_examples_and_update_shows_no_defaults() -> None:
    texts = {command.name: CliRunner().invoke(command, ["--help"], terminal_width=120).output for command in (create, update)}
    for flag in ("--mode", "--max-concurrent", "--update-order", "--rollback-monitor", "--schedule", "--depends-on", "--dry-run"):
        assert flag in texts["create"]
    assert "Examples:" in texts["create"]
    assert "Examples:" in texts["update"]
    assert "[default: stop-first]" in texts["create"]
    assert "[default: never]" in texts["update"].replace("\n", " ")
    assert texts["update"].count("[default:") == 1


def docker_flags(command: str) -> set[str]:
    """Return docker's flags of modes, updates, placement and restarts that ours shall have too."""
    rolls = [f"{kind}-{what}" for kind in ("update", "rollback") for what in ("parallelism", "delay", "order", "monitor")]
    rolls += [f"{kind}-{what}" for kind in ("update", "rollback") for what in ("max-failure-ratio", "failure-action")]
    restarts = [f"restart-{what}" for what in ("condition", "delay", "max-attempts", "window")]
    both = [
        "replicas",
        "max-concurrent",
        "replicas-max-per-node",
        "limit-pids",
        "reserve-memory",
        "endpoint-mode",
        *rolls,
        *restarts,
    ]
    lists = ["constraint", "placement-pref", "env", "label", "container-label", "network", "publish", "mount", "generic-resource"]
    if command == "create":
        return {*both, *lists, "mode", "name"}
    return {*both, *(f"{name}-{end}" for name in lists for end in ("add", "rm")), "image", "args", "force", "rollback"}


@pytest.mark.parametrize("command", [create, update])
def test_dockers_flags_are_there(command: click.Command) -> None:
    ours = {option.removeprefix("--") for parameter in command.params for option in parameter.opts}
    assert docker_flags(str(command.name)) <= ours
