"""`pyswarm image …`: the images of this node. Each node has its own; services make nodes pull what they lack."""

import re
import time
from datetime import UTC, datetime
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.image.names import split_reference
from pyswarm_cli.lazy_group import LazyCommand, LazyGroup
from pyswarm_cli.output import (
    filter_option,
    for_each,
    format_option,
    inspect_each,
    inspect_format_option,
    no_trunc_option,
    parse_filters,
    print_rows,
    quiet_option,
    short_id,
    with_options,
)
from pyswarm_cli.units import format_age, format_decimal_bytes

pass_engine = click.make_pass_decorator(EngineClient)
COLUMNS = {"REPOSITORY": "Repository", "TAG": "Tag", "IMAGE ID": "ID", "CREATED": "CreatedSince", "SIZE": "Size"}
HISTORY_COLUMNS = {"IMAGE": "ID", "CREATED": "CreatedSince", "CREATED BY": "CreatedBy", "SIZE": "Size", "COMMENT": "Comment"}
_NONE = "<none>"
_MISSING = "<missing>"
_COMMAND_WIDTH = 45
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


@click.group(
    cls=LazyGroup,
    lazy={
        "pull": LazyCommand("pyswarm_cli.image.moving:pull", "Pull an image from a registry to this node."),
        "push": LazyCommand("pyswarm_cli.image.moving:push", "Push an image to the registry that its name says."),
        "load": LazyCommand("pyswarm_cli.image.moving:load", "Load images from a tarball."),
        "save": LazyCommand("pyswarm_cli.image.moving:save", "Save images to a tarball."),
        "import": LazyCommand("pyswarm_cli.image.moving:import_files", "Make an image of a tarball of files."),
    },
)
def image() -> None:
    """The images of this node."""


@image.command(name="ls")
@with_options(filter_option, format_option, no_trunc_option, quiet_option)
@click.option("--all", "-a", "_all", is_flag=True, help="Accepted for docker's sake: no image is hidden.")
@click.option("--digests", is_flag=True, help="Show the digest under which a registry gave an image.")
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
@pass_engine
def list_images(
    engine: EngineClient,
    filters: tuple[str, ...],
    output_format: str,
    no_trunc: bool,
    quiet: bool,
    _all: bool,
    digests: bool,
    reference: str | None,
) -> None:
    """List images, newest first.

    Filters: reference=PATTERN, dangling=true, label=KEY[=VALUE], before=IMAGE, since=IMAGE.

    Example: pyswarm image ls --filter dangling=true
    """
    wanted = parse_filters((*filters, f"reference={reference}") if reference else filters)
    found = sorted(engine.get("images", "json", filters=wanted), key=lambda each: -each["Created"])
    rows = [row for each in found for row in image_rows(each, time.time(), whole_ids=no_trunc)]
    if quiet:
        rows = list({row["ID"]: row for row in rows}.values())
    columns = {"REPOSITORY": "Repository", "TAG": "Tag", "DIGEST": "Digest", **COLUMNS} if digests else COLUMNS
    print_rows(rows, columns, output_format, quiet_key="ID" if quiet else "")


@image.command()
@inspect_format_option
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@pass_engine
def inspect(engine: EngineClient, output_format: str, images: tuple[str, ...]) -> None:
    """Show all about images.

    Example: pyswarm image inspect web:1.2
    """
    inspect_each(images, lambda name: engine.get("images", name, "json"), output_format)


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


@image.command()
@with_options(format_option, no_trunc_option, quiet_option)
@click.option("--human/--no-human", "-H", "is_human", default=True, show_default=True, help="Sizes and times as people say them.")
@click.argument("name", metavar="IMAGE")
@pass_engine
def history(engine: EngineClient, output_format: str, no_trunc: bool, quiet: bool, is_human: bool, name: str) -> None:
    """Show the steps that made an image, the newest first.

    Example: pyswarm image history web:1.2
    """
    steps = engine.get("images", name, "history")
    rows = [history_row(step, time.time(), is_human=is_human, whole=no_trunc) for step in steps]
    print_rows(rows, HISTORY_COLUMNS, output_format, quiet_key="ID" if quiet else "")


@image.command()
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those that match (may be repeated).")
@click.option("--all", "-a", "removes_all", is_flag=True, help="Remove all images that no container uses, not only nameless ones.")
@click.option("--force", "-f", is_flag=True, help="Do not ask.")
@pass_engine
def prune(engine: EngineClient, filters: tuple[str, ...], removes_all: bool, force: bool) -> None:
    """Remove images that nothing uses.

    Without --all only those without a tag. Filters: until=24h, label=KEY[=VALUE], label!=KEY[=VALUE].

    Example: pyswarm image prune --all --filter until=240h
    """
    if not force:
        what = "all images without at least one container associated to them" if removes_all else "all dangling images"
        click.confirm(f"WARNING! This will remove {what}.\nAre you sure you want to continue?", abort=True)
    wanted = {**(parse_filters(filters) or {}), "dangling": {"false" if removes_all else "true": True}}
    answer = engine.post("images", "prune", filters=wanted)
    if answer["ImagesDeleted"]:
        click.echo("Deleted Images:")
        for removed in answer["ImagesDeleted"]:
            for word, name in removed.items():
                click.echo(f"{word.lower()}: {name}")
        click.echo()
    click.echo(f"Total reclaimed space: {format_decimal_bytes(answer['SpaceReclaimed'])}")


def history_row(step: dict[str, Any], now_s: float, *, is_human: bool, whole: bool) -> dict[str, str]:
    """Return a step of an image's history as the list shows it."""
    created_by = " ".join(step["CreatedBy"].split())
    cut = created_by if whole or len(created_by) <= _COMMAND_WIDTH else created_by[: _COMMAND_WIDTH - 1] + "…"
    at = datetime.fromtimestamp(step["Created"], UTC).isoformat().replace("+00:00", "Z")
    since = f"{format_age(now_s - step['Created'])} ago" if step["Created"] else "N/A"
    return {
        "ID": step["Id"] if step["Id"] == _MISSING else short_id(step["Id"], whole=whole),
        "CreatedSince": since if is_human else at,
        "CreatedAt": at,
        "CreatedBy": cut,
        "Size": format_decimal_bytes(step["Size"]) if is_human else str(step["Size"]),
        "Comment": step["Comment"],
    }


def image_rows(found: dict[str, Any], now_s: float, *, whole_ids: bool) -> list[dict[str, str]]:
    """Return an image as the list shows it, once for each of its tags."""
    names = [split_reference(each) for each in found.get("RepoTags") or ()]
    if not names:
        repositories = {_DIGEST.sub("", each) for each in found.get("RepoDigests") or ()}
        names = [(repository, _NONE) for repository in sorted(repositories)] or [(_NONE, _NONE)]
    digests = dict(each.split("@") for each in found.get("RepoDigests") or ())
    return [
        {
            "Repository": repository,
            "Tag": each,
            "Digest": digests.get(repository, _NONE),
            "ID": short_id(found["Id"], whole=whole_ids),
            "CreatedSince": f"{format_age(now_s - found['Created'])} ago" if found["Created"] else "N/A",
            "Size": format_decimal_bytes(found["Size"]),
        }
        for repository, each in names
    ]
