"""The options that say how containers' health is checked, with docker's names, and what they make of a healthcheck. Pure."""

from collections.abc import Mapping
from typing import Any

import click

from pyswarm_cli.key_values import parsed
from pyswarm_cli.output import with_options
from pyswarm_cli.service.rule_options import Options, help_text
from pyswarm_cli.service.rules import Options as Values
from pyswarm_cli.units import parse_duration_ns

_duration = parsed(parse_duration_ns)
_MEMBERS = {
    "health_interval": "Interval",
    "health_timeout": "Timeout",
    "health_start_period": "StartPeriod",
    "health_start_interval": "StartInterval",
    "health_retries": "Retries",
}


def health_options(*, is_new: bool) -> Options:
    """Return the options of `create` (`is_new`) or `update`."""

    def said(text: str, default: str) -> str:
        return help_text(text, default, is_new=is_new)

    def duration(name: str, text: str, default: str) -> Any:
        return click.option(name, callback=_duration, metavar="DURATION", help=said(text, default))

    return with_options(
        click.option(
            "--health-cmd",
            metavar="COMMAND",
            help='Healthy while this succeeds in the container, such as "curl -f localhost"; a task only runs when healthy.',
        ),
        duration("--health-interval", "Time between two checks.", "30s"),
        duration("--health-timeout", "Kill a check that takes longer, and count it as failed.", "30s"),
        click.option(
            "--health-retries",
            type=click.IntRange(0),
            metavar="N",
            help=said("Replace a task whose check fails so many times in a row.", "3"),
        ),
        duration("--health-start-period", "Do not count failures so long after the start.", "0s"),
        duration("--health-start-interval", "Time between two checks in the start period.", "5s"),
        click.option("--no-healthcheck", is_flag=True, help="Do not check, whatever the image says."),
    )


def healthcheck(before: Mapping[str, Any] | None, options: Values) -> dict[str, Any] | None:
    """Return the healthcheck with what the options change; None when they say nothing. Raises click.UsageError."""
    changes = {member: options[option] for option, member in _MEMBERS.items() if options[option] is not None}
    command = options["health_cmd"]
    if options["no_healthcheck"]:
        if changes or command is not None:
            raise click.UsageError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not changes and command is None:
        return None
    after = {**(before or {}), **changes}
    if after.get("Test") == ["NONE"]:
        del after["Test"]
    if command is not None:
        after.pop("Test", None)
        if command:
            after["Test"] = ["CMD-SHELL", command]
    return after
