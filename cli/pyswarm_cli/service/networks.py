"""`--network`: from its text to the API's JSON. Pure. Raises click.BadParameter."""

import csv
from typing import Any

import click

from pyswarm_cli.key_values import parse_labels

_NAMES = ("name", "alias", "driver-opt")


def parse_network(text: str) -> dict[str, Any]:
    """Return the attachment in `app`, or in `name=app,alias=web,driver-opt=KEY=VALUE`; aliases and options may be repeated."""
    if "=" not in text:
        return {"Target": text}
    given: dict[str, list[str]] = {}
    for part in next(csv.reader([text]), []):
        key, equals, value = part.partition("=")
        name = key.strip().lower()
        if name not in _NAMES or not equals:
            raise click.BadParameter(f"--network {text!r}: there is no {key!r}; known are {', '.join(_NAMES)}")
        given.setdefault(name, []).append(value)
    if not given.get("name", [""])[-1]:
        raise click.BadParameter(f"--network {text!r}: name=NETWORK is missing")
    members = {"Aliases": given.get("alias"), "DriverOpts": parse_labels(given.get("driver-opt", ()))}
    return {"Target": given["name"][-1], **{name: value for name, value in members.items() if value}}
