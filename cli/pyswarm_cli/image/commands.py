"""`pyswarm image …`: the images of this node. Each node has its own; services make nodes pull what they lack."""

import re
import sys
import time
from typing import IO, Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.lazy_group import LazyGroup
from pyswarm_cli.output import (
    filter_option,
    for_each,
    format_option,
    inspect_format_option,
    no_trunc_option,
    parse_filters,
    print_inspected,
    print_rows,
    quiet_option,
    short_id,
    with_options,
)
from pyswarm_cli.units import format_age, format_decimal_bytes

pass_engine = click.make_pass_decorator(EngineClient)
COLUMNS = {"REPOSITORY": "Repository", "TAG": "Tag", "IMAGE ID": "ID", "CREATED": "CreatedSince", "SIZE": "Size"}
_NONE = "<none>"
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


@click.group(cls=LazyGroup)
def image() -> None:
    """The images of this node."""


@image.command(name="ls")
@with_options(filter_option, format_option, no_trunc_option, quiet_option)
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
@pass_engine
def list_images(
    engine: EngineClient, filters: tuple[str, ...], output_format: str, no_trunc: bool, quiet: bool, reference: str | None
) -> None:
    """List images, newest first.

    Example: pyswarm image ls
    """
    wanted = parse_filters((*filters, f"reference={reference}") if reference else filters)
    found = sorted(engine.get("images", "json", filters=wanted), key=lambda each: -each["Created"])
    rows = [row for each in found for row in image_rows(each, time.time(), whole_ids=no_trunc)]
    if quiet:
        rows = list({row["ID"]: row for row in rows}.values())
    print_rows(rows, COLUMNS, output_format, quiet_key="ID" if quiet else "")


@image.command()
@click.option("--quiet", "-q", is_flag=True, help="Print the image's name only.")
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@pass_engine
def pull(engine: EngineClient, quiet: bool, name: str) -> None:
    """Pull an image from a registry to this node.

    Example: pyswarm image pull registry.example.com:5000/team/web:1.2
    """
    from pyswarm_cli.image.progress import follow_pull

    reference, tag = split_reference(name)
    if not quiet and not tag:
        click.echo("Using default tag: latest")
    with engine.stream("POST", "images", "create", fromImage=reference, tag=tag or "latest") as response:
        follow_pull(response, quiet=quiet)
    separator = "@" if tag.startswith("sha256:") else ":"
    click.echo(f"{reference}{separator}{tag or 'latest'}")


@image.command()
@click.option("--input", "-i", "archive", type=click.File("rb"), metavar="FILE", help="The tarball; by default standard input.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing.")
@pass_engine
def load(engine: EngineClient, archive: IO[bytes] | None, quiet: bool) -> None:
    """Load images from a tarball made by `docker save`, or in the OCI layout.

    Example: pyswarm image load --input web.tar
    """
    from pyswarm_cli.image.progress import json_objects

    if archive is None:
        if sys.stdin.isatty():
            raise click.UsageError("say --input FILE, or give the tarball on standard input")
        archive = sys.stdin.buffer
    with engine.stream("POST", "images", "load", body=archive) as response:
        for message in json_objects(response):
            if "error" in message:
                raise click.ClickException(message["error"])
            if not quiet:
                click.echo(message.get("stream", ""), nl=False)


@image.command()
@inspect_format_option
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@pass_engine
def inspect(engine: EngineClient, output_format: str, images: tuple[str, ...]) -> None:
    """Show all about images.

    Example: pyswarm image inspect web:1.2
    """
    print_inspected([engine.get("images", name, "json") for name in images], output_format)


@image.command()
@click.argument("source", metavar="IMAGE")
@click.argument("target", metavar="NAME[:TAG]")
@pass_engine
def tag(engine: EngineClient, source: str, target: str) -> None:
    """Give an image another name.

    Example: pyswarm image tag web:1.2 registry.example.com:5000/team/web:1.2
    """
    repository, new_tag = split_reference(target)
    engine.post("images", source, "tag", repo=repository, tag=new_tag or "latest")


@image.command()
@click.option("--force", "-f", is_flag=True, help="Remove it although a container uses it.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@pass_engine
def rm(engine: EngineClient, force: bool, images: tuple[str, ...]) -> None:
    """Remove images from this node.

    Example: pyswarm image rm web:1.2
    """

    def remove(name: str) -> None:
        for removed in engine.delete("images", name, force=force) or ():
            for word, what in removed.items():
                click.echo(f"{word}: {what}")

    for_each(images, remove)


def split_reference(name: str) -> tuple[str, str]:
    """Return an image's repository, and its tag or `sha256:…` digest ("" when it has none)."""
    repository, at, digest = name.partition("@")
    if at:
        return repository, digest
    before, colon, after = name.rpartition(":")
    return (before, after) if colon and "/" not in after else (name, "")


def image_rows(found: dict[str, Any], now_s: float, *, whole_ids: bool) -> list[dict[str, str]]:
    """Return an image as the list shows it, once for each of its tags."""
    names = [split_reference(each) for each in found.get("RepoTags") or ()]
    if not names:
        repositories = {_DIGEST.sub("", each) for each in found.get("RepoDigests") or ()}
        names = [(repository, _NONE) for repository in sorted(repositories)] or [(_NONE, _NONE)]
    return [
        {
            "Repository": repository,
            "Tag": each,
            "ID": short_id(found["Id"], whole=whole_ids),
            "CreatedSince": f"{format_age(now_s - found['Created'])} ago" if found["Created"] else "N/A",
            "Size": format_decimal_bytes(found["Size"]),
        }
        for repository, each in names
    ]
