"""What commands print: Docker's tables, JSON lines, templates, ids; `inspect` as JSON. Rows are dicts by Docker's field names."""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from pyswarm_cli.templates import fields, fill

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
GAP = "   "
ID_LENGTH = 12

quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print ids only.")
no_trunc_option = click.option("--no-trunc", is_flag=True, help="Print whole ids.")
format_option = click.option(
    "--format",
    "output_format",
    default="table",
    show_default=True,
    metavar="FORMAT",
    help="`table`, `json` (one object a line), or a template such as '{{.ID}} {{.Name}}'.",
)
inspect_format_option = click.option(
    "--format", "-f", "output_format", default="", metavar="FORMAT", help="A template such as '{{.ID}}' or '{{json .Spec}}'."
)
filter_option = click.option(
    "--filter", "-f", "filters", multiple=True, metavar="KEY=VALUE", help="Only those that match (may be repeated)."
)


def print_rows(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], output_format: str, *, quiet_key: str = "") -> None:
    """Print rows in a format; `columns` gives the field of each heading; with `quiet_key` only that field."""
    if quiet_key:
        for row in rows:
            click.echo(row[quiet_key])
    elif output_format == "json":
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    elif output_format == "table":
        print_table(list(columns), [[row[field] for field in columns.values()] for row in rows])
    else:
        print_filled(rows, columns, output_format)


def print_filled(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], template: str) -> None:
    """Print rows by a template; one that begins with `table` as a table of its fields."""
    headings = {field: heading for heading, field in columns.items()}
    try:
        if template.startswith("table "):
            named = fields(template)
            filled = [[fill(f"{{{{.{field}}}}}", row) for field in named] for row in rows]
            print_table([headings.get(field, field.upper()) for field in named], filled)
            return
        for row in rows:
            click.echo(fill(template, row))
    except ValueError as error:
        raise click.UsageError(f"--format: {error}") from None


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns, as wide as their widest cell."""
    lines = [list(headings), *(list(map(one_line, row)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    for line in lines:
        click.echo(GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_inspected(found: Sequence[Any], output_format: str) -> None:
    """Print what was inspected: a JSON list, or each filled into a template."""
    if not output_format or output_format == "json":
        click.echo(json.dumps(list(found), indent=None if output_format else 4, ensure_ascii=False))
        return
    try:
        for each in found:
            click.echo(fill(output_format, each))
    except ValueError as error:
        raise click.UsageError(f"--format: {error}") from None


def inspect_each(names: Iterable[str], find: Callable[[str], Any], output_format: str) -> None:
    """Print what is found of each name; then the errors of the others, and end with exit code 1 when there are any."""
    found, errors = [], []
    for name in names:
        try:
            found.append(find(name))
        except click.ClickException as error:
            errors.append(error)
    if found:
        print_inspected(found, output_format)
    for problem in errors:
        problem.show()
    if errors:
        raise click.exceptions.Exit(1)


def print_object(found: Any, output_format: str) -> None:
    """Print one object: as JSON, or filled into a template."""
    if output_format == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_inspected([found], output_format)


def one_line(text: str) -> str:
    """Return the text with its line breaks made spaces, for a cell of a table."""
    return re.sub(r"\s*[\r\n]+\s*", " ", text).strip() if "\n" in text or "\r" in text else text


def short_id(identifier: str, *, whole: bool = False) -> str:
    """Return the first 12 characters of an id, as lists show it."""
    return identifier if whole else identifier.removeprefix("sha256:")[:ID_LENGTH]


def parse_filters(pairs: Iterable[str]) -> dict[str, dict[str, bool]] | None:
    """Return `KEY=VALUE` filters as the API takes them; None for none. Raises click.UsageError."""
    filters: dict[str, dict[str, bool]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"the filter {pair!r} is not KEY=VALUE")
        filters.setdefault(key.strip(), {})[value.strip()] = True
    return filters or None


def warn_of(answer: Mapping[str, Any] | None) -> None:
    """Print the warnings of an answer on standard error."""
    for warning in (answer or {}).get("Warnings") or ():
        click.echo(f"Warning: {warning}", err=True)


def for_each(names: Iterable[str], act: Callable[[str], object]) -> None:
    """Act on each name; when some fail, go on with the others, then end with exit code 1."""
    failures = 0
    for name in names:
        try:
            act(name)
        except click.ClickException as error:
            error.show()
            failures += 1
    if failures:
        raise click.exceptions.Exit(1)


def with_options(*options: Callable[[CommandT], CommandT]) -> Callable[[CommandT], CommandT]:
    """Return one decorator that adds these options, the first one first in the help."""
    return lambda command: functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)
