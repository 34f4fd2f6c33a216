"""`--pretty` and `info`: members of an object as indented lines for people. Pure but for the printing."""

from collections.abc import Iterator, Mapping
from typing import Any

import click


def print_members(members: Mapping[str, Any]) -> None:
    """Print the lines of `member_lines`."""
    for line in member_lines(members):
        click.echo(line)


def member_lines(members: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yield `Name: value` for each member; inner ones indented; those that are None, "" or empty are left out.

    A list is one of points; a tuple is of lines, printed as they are.
    """
    for name, value in members.items():
        if value is None or value in ("", {}, [], ()):
            continue
        if isinstance(value, Mapping):
            inner = list(member_lines(value, indent + " "))
            if inner:
                yield f"{indent}{name}:"
                yield from inner
        elif isinstance(value, list):
            yield f"{indent}{name}:"
            yield from (f"{indent} - {each}" for each in value)
        elif isinstance(value, tuple):
            yield f"{indent}{name}:"
            yield from (f"{indent} {each}" for each in value)
        else:
            yield f"{indent}{name}: {value}"
