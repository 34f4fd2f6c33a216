"""The options of healthchecks, on `service create` and `service update`."""

from typing import Any

import click
import pytest
from test_cli_service_spec import created, options_of

from pyswarm_cli.service.changed_spec import updated_spec
from pyswarm_cli.service.commands import update

ALL = (
    "--health-cmd",
    "curl -f localhost",
    *[
        "--health-interval",
        "10s",
        "--health-timeout",
        "2s",
        "--health-start-period",
        "1m",
        "--health-start-interval",
        "1s",
        "--health-retries",
        "5",
    ],
)
CHECK = {
    "Test": ["CMD-SHELL", "curl -f localhost"],
    "Interval": 10_000_000_000,
    "Timeout": 2_000_000_000,
    "StartPeriod": 60_000_000_000,
    "StartInterval": 1_000_000_000,
    "Retries": 5,
}
NONE = {"Test": ["NONE"]}


def healthcheck_of(spec: dict[str, Any]) -> Any:
    return spec["TaskTemplate"]["ContainerSpec"].get("Healthcheck")


def changed(before: dict[str, Any] | None, *arguments: str) -> Any:
    container = {"Image": "x"} if before is None else {"Image": "x", "Healthcheck": before}
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": container}, "Mode": {"Replicated": {"Replicas": 1}}}
    return healthcheck_of(updated_spec(spec, options_of(update, "web", *arguments), {}))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), None), (ALL, CHECK), (("--no-healthcheck",), NONE), (("--health-retries", "2"), {"Retries": 2})],
)
def test_a_new_service(arguments: tuple[str, ...], expected: Any) -> None:
    assert healthcheck_of(created(*arguments, "nginx")) == expected


@pytest.mark.parametrize(
    ("before", "arguments", "expected"),
    [
        (None, (), None),
        (CHECK, (), CHECK),
        (None, ALL, CHECK),
        (CHECK, ("--health-retries", "2"), {**CHECK, "Retries": 2}),
        (CHECK, ("--health-cmd", ""), {name: value for name, value in CHECK.items() if name != "Test"}),
        (CHECK, ("--no-healthcheck",), NONE),
        (NONE, ("--health-cmd", "true"), {"Test": ["CMD-SHELL", "true"]}),
        (NONE, ("--health-interval", "5s"), {"Interval": 5_000_000_000}),
    ],
)
def test_a_service_that_changes(before: dict[str, Any] | None, arguments: tuple[str, ...], expected: Any) -> None:
    assert changed(before, *arguments) == expected


def test_checking_and_not_checking_do_not_go_together() -> None:
    with pytest.raises(click.UsageError, match="--no-healthcheck conflicts with --health"):
        created("--no-healthcheck", "--health-cmd", "x", "nginx")
    with pytest.raises(click.UsageError, match="--no-healthcheck conflicts with --health"):
        changed(None, "--no-healthcheck", "--health-timeout", "1s")
