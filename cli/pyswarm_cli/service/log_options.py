"""The options that say what becomes of containers' output, with docker's names, and what they make of a log driver. Pure."""

from collections.abc import Mapping
from typing import Any

import click

from pyswarm_cli.key_values import parse_labels
from pyswarm_cli.output import with_options

log_driver_options = with_options(
    click.option(
        "--log-driver",
        metavar="DRIVER",
        help="What becomes of the output: json-file, local, journald or none (else the node's choice).",
    ),
    click.option(
        "--log-opt", multiple=True, metavar="NAME=VALUE", help="Its options, such as max-size=10m or max-file=3 (repeatable)."
    ),
)


def log_driver(options: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log driver of the task template; options that are given replace those before, as does another driver."""
    name, given = options["log_driver"], parse_labels(options["log_opt"])
    if name is None and not given:
        return dict(before)
    driver = {"Name": name if name is not None else before.get("Name", ""), "Options": given}
    return {key: value for key, value in driver.items() if value}
