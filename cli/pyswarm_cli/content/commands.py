"""`pyswarm secret …` and `pyswarm config …`: create, list, inspect, label and remove what containers get as files."""

import base64
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parse_labels
from pyswarm_cli.lazy_group import LazyGroup
from pyswarm_cli.output import (
    filter_option,
    for_each,
    format_option,
    inspect_format_option,
    parse_filters,
    print_inspected,
    print_rows,
    quiet_option,
    with_options,
)
from pyswarm_cli.units import format_age, parse_time_s

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

pass_engine = click.make_pass_decorator(EngineClient)
_TEMPLATE_HELP = '`golang`: fill in placeholders such as {{.Node.Hostname}} and {{secret "key"}} for each task.'


class Words(NamedTuple):
    """What tells the commands of secrets from those of configs."""

    noun: str
    about: str
    example: str
    shows_data: bool

    @property
    def nouns(self) -> str:
        """The plural, which is also the API's path."""
        return f"{self.noun}s"


def _group_of(words: Words) -> click.Group:
    group = LazyGroup(name=words.noun, help=words.about)
    for make in (_create_command, _ls_command, _inspect_command, _update_command, _rm_command):
        group.add_command(make(words))
    return group


def _names_argument(words: Words) -> Callable[[CommandT], CommandT]:
    return click.argument("names", nargs=-1, required=True, metavar=f"{words.noun.upper()}...")


def _create_command(words: Words) -> click.Command:
    @click.command(
        help=f"""Create a {words.noun} from a file, or from standard input (`-`), and print its id.

        Example: {words.example}
        """
    )
    @click.option("--label", "-l", multiple=True, metavar="KEY=VALUE", help="A label (may be repeated).")
    @click.option("--template-driver", default="", metavar="DRIVER", help=_TEMPLATE_HELP)
    @click.argument("name", metavar=words.noun.upper())
    @click.argument("file", metavar="FILE|-")
    @pass_engine
    def create(engine: EngineClient, label: tuple[str, ...], template_driver: str, name: str, file: str) -> None:
        body = {"Name": name, "Labels": parse_labels(label), "Data": base64.b64encode(_read(file)).decode()}
        if template_driver:
            body["Templating"] = {"Name": template_driver}
        click.echo(engine.post(words.nouns, "create", body=body)["ID"])

    return create


def _ls_command(words: Words) -> click.Command:
    driver = {} if words.shows_data else {"DRIVER": "Driver"}
    columns = {"ID": "ID", "NAME": "Name", **driver, "CREATED": "CreatedAt", "UPDATED": "UpdatedAt"}

    @click.command(help=f"List {words.nouns}.\n\nExample: pyswarm {words.noun} ls --filter label=app=web")
    @with_options(filter_option, format_option, quiet_option)
    @pass_engine
    def ls(engine: EngineClient, filters: tuple[str, ...], output_format: str, quiet: bool) -> None:
        found = engine.get(words.nouns, filters=parse_filters(filters))
        rows = sorted((content_row(each, time.time()) for each in found), key=lambda row: (row["Name"], row["ID"]))
        print_rows(rows, columns, output_format, quiet_key="ID" if quiet else "")

    return ls


def _inspect_command(words: Words) -> click.Command:
    unless_shown = "" if words.shows_data else ", but for what is in them"

    @click.command(help=f"Show all about {words.nouns}{unless_shown}.\n\nExample: pyswarm {words.noun} inspect key")
    @inspect_format_option
    @click.option("--pretty", is_flag=True, help="For people.")
    @_names_argument(words)
    @pass_engine
    def inspect(engine: EngineClient, output_format: str, pretty: bool, names: tuple[str, ...]) -> None:
        found = [engine.get(words.nouns, name) for name in names]
        if not pretty:
            print_inspected(found, output_format)
        elif output_format:
            raise click.UsageError("--format does not go with --pretty")
        else:
            _print_pretty(found)

    return inspect


def _update_command(words: Words) -> click.Command:
    @click.command(
        help=f"""Change the labels of a {words.noun}. What is in it stays: create another one for that.

        Example: pyswarm {words.noun} update --label-add app=web key
        """
    )
    @click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label (may be repeated).")
    @click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label (may be repeated).")
    @click.argument("name", metavar=words.noun.upper())
    @pass_engine
    def update(engine: EngineClient, label_add: tuple[str, ...], label_rm: tuple[str, ...], name: str) -> None:
        found = engine.get(words.nouns, name)
        labels = {**(found["Spec"].get("Labels") or {}), **parse_labels(label_add)}
        labels = {key: value for key, value in labels.items() if key not in label_rm}
        body = {"Name": found["Spec"]["Name"], "Labels": labels}
        engine.post(words.nouns, found["ID"], "update", body=body, version=found["Version"]["Index"])
        click.echo(name)

    return update


def _rm_command(words: Words) -> click.Command:
    @click.command(help=f"Remove {words.nouns} that no service needs.\n\nExample: pyswarm {words.noun} rm key")
    @_names_argument(words)
    @pass_engine
    def rm(engine: EngineClient, names: tuple[str, ...]) -> None:
        def remove(name: str) -> None:
            engine.delete(words.nouns, name)
            click.echo(name)

        for_each(names, remove)

    return rm


def content_row(found: Mapping[str, Any], now_s: float) -> dict[str, str]:
    """Return a secret or config as the list shows it."""
    labels = found["Spec"].get("Labels") or {}
    return {
        "ID": found["ID"],
        "Name": found["Spec"]["Name"],
        "Driver": (found["Spec"].get("Driver") or {}).get("Name", ""),
        "CreatedAt": f"{format_age(now_s - parse_time_s(found['CreatedAt']))} ago",
        "UpdatedAt": f"{format_age(now_s - parse_time_s(found['UpdatedAt']))} ago",
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    }


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise click.ClickException(f'error reading content from "{file}": {error.strerror or error}') from None


def _print_pretty(found: list[dict[str, Any]]) -> None:
    from pyswarm_cli.pretty import print_members

    for number, each in enumerate(found):
        spec = each["Spec"]
        if number:
            click.echo()
        members = {
            "ID": each["ID"],
            "Name": spec["Name"],
            "Labels": [f"{key}={value}" for key, value in sorted((spec.get("Labels") or {}).items())],
            "Template driver": (spec.get("Templating") or {}).get("Name"),
            "Created at": each["CreatedAt"],
            "Updated at": each["UpdatedAt"],
        }
        print_members(members)
        if "Data" in spec:
            click.echo("Data:")
            click.echo(base64.b64decode(spec["Data"]).decode(errors="replace"))


secret = _group_of(
    Words("secret", "What containers must know and nobody else.", "pyswarm secret create --label app=web tls.key ./tls.key", False)
)
config = _group_of(
    Words(
        "config",
        "Files for containers, beside their images.",
        "pyswarm config create --label app=web nginx.conf ./nginx.conf",
        True,
    )
)
