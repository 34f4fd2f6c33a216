"""`KEY=VALUE` options: labels, environment, and comma-separated lists of them. Pure. Raises click.BadParameter."""

import csv
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """Return labels; one without `=` has an empty value."""
    labels = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if not key:
            raise click.BadParameter(f"the label {pair!r} is not KEY=VALUE")
        labels[key] = value
    return labels


def parse_environment(pairs: Iterable[str], environment: Mapping[str, str]) -> list[str]:
    """Return `KEY=VALUE` strings, the last one of a key; `KEY` alone takes its value from `environment`, if it is there."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key:
            raise click.BadParameter(f"the environment variable {pair!r} is not KEY=VALUE")
        if equals:
            found[key] = value
        elif key in environment:
            found[key] = environment[key]
    return [f"{key}={value}" for key, value in found.items()]


def parse_fields(text: str, what: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return the members of `key=value,key=value`, each key by the name that it stands for in `names`."""
    members: dict[str, str] = {}
    for part in next(csv.reader([text]), []):
        key, equals, value = part.partition("=")
        name = names.get(key.strip().lower())
        if name is None:
            raise click.BadParameter(f"{what} {text!r}: there is no {key!r}; known are {', '.join(names)}")
        members[name] = value if equals else "true"
    return members


def parsed(parse: Callable[[str], int]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a click callback that parses an option's text, when it is given, and shows a ValueError as wrong usage."""

    def callback(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback
