"""`pyswarm volume …`: create, list, inspect, remove and prune the volumes of this node."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parse_labels
from pyswarm_cli.lazy_group import LazyGroup
from pyswarm_cli.output import (
    filter_option,
    for_each,
    format_option,
    inspect_each,
    inspect_format_option,
    parse_filters,
    print_rows,
    warn_of,
    with_options,
)
from pyswarm_cli.units import format_decimal_bytes

pass_engine = click.make_pass_decorator(EngineClient)
COLUMNS = {"DRIVER": "Driver", "VOLUME NAME": "Name"}
_PRUNE_WARNING = "WARNING! This will remove {which} local volumes not used by at least one container."


@click.group(cls=LazyGroup)
def volume() -> None:
    """The volumes of this node: data that outlives containers.

    Each node has its own. A service's tasks make the volumes that they mount on the nodes on which they run.
    """


@volume.command()
@click.option("--driver", "-d", default="local", show_default=True, help="`local`, which keeps data on this node.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label (may be repeated).")
@click.option(
    "--opt",
    "-o",
    multiple=True,
    metavar="KEY=VALUE",
    help="What is mounted instead of a folder: type, device and o.",
)
@click.argument("name", required=False, default="", metavar="[VOLUME]")
@pass_engine
def create(engine: EngineClient, driver: str, label: tuple[str, ...], opt: tuple[str, ...], name: str) -> None:
    """Create a volume, and print its name. Without a name it is anonymous: 64 digits.

    \b
    Examples:
      pyswarm volume create db
      pyswarm volume create -o type=nfs -o device=:/srv/media -o o=addr=10.0.0.7,rw,nfsvers=4 media
      pyswarm volume create -o type=tmpfs -o device=tmpfs -o o=size=100m,uid=1000 scratch
    """
    body = {"Name": name, "Driver": driver, "DriverOpts": parse_labels(opt), "Labels": parse_labels(label)}
    click.echo(engine.post("volumes", "create", body=body)["Name"])


@volume.command(name="ls")
@with_options(filter_option, format_option)
@click.option("--quiet", "-q", is_flag=True, help="Print names only.")
@pass_engine
def list_volumes(engine: EngineClient, filters: tuple[str, ...], output_format: str, quiet: bool) -> None:
    """List volumes. Filters: dangling=true|false, driver, label, name.

    Example: pyswarm volume ls --filter dangling=true
    """
    found = engine.get("volumes", filters=parse_filters(filters))
    warn_of(found)
    rows = [volume_row(each) for each in sorted(found["Volumes"] or (), key=lambda each: str(each["Name"]))]
    print_rows(rows, COLUMNS, output_format, quiet_key="Name" if quiet else "")


@volume.command()
@inspect_format_option
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@pass_engine
def inspect(engine: EngineClient, output_format: str, names: tuple[str, ...]) -> None:
    """Show all about volumes, such as where their files lie.

    Example: pyswarm volume inspect --format '{{.Mountpoint}}' db
    """
    inspect_each(names, lambda name: engine.get("volumes", name), output_format)


@volume.command()
@click.option("--force", "-f", is_flag=True, help="Do not complain about volumes that are not there.")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@pass_engine
def rm(engine: EngineClient, force: bool, names: tuple[str, ...]) -> None:
    """Remove volumes that no container uses, and the data in them.

    Example: pyswarm volume rm db
    """

    def remove(name: str) -> None:
        engine.delete("volumes", name, force=force)
        click.echo(name)

    for_each(names, remove)


@volume.command()
@click.option("--all", "-a", "is_all", is_flag=True, help="All unused volumes, not just anonymous ones.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those that match: label or label!.")
@click.option("--force", "-f", is_flag=True, help="Do not ask.")
@pass_engine
def prune(engine: EngineClient, is_all: bool, filters: tuple[str, ...], force: bool) -> None:
    """Remove volumes that no container uses: the anonymous ones, or all.

    Example: pyswarm volume prune --filter label!=keep
    """
    if not force:
        click.echo(_PRUNE_WARNING.format(which="all" if is_all else "anonymous"))
        if not click.confirm("Are you sure you want to continue?", default=False):
            return
    wanted = {**(parse_filters(filters) or {}), "all": {str(is_all).lower(): True}}
    pruned = engine.post("volumes", "prune", filters=wanted)
    if pruned["VolumesDeleted"]:
        click.echo("Deleted Volumes:")
        for name in pruned["VolumesDeleted"]:
            click.echo(name)
        click.echo()
    click.echo(f"Total reclaimed space: {format_decimal_bytes(pruned['SpaceReclaimed'])}")


def volume_row(found: dict[str, Any]) -> dict[str, str]:
    """Return a volume as the list shows it."""
    labels = found.get("Labels") or {}
    return {
        "Name": found["Name"],
        "Driver": found["Driver"],
        "Scope": found["Scope"],
        "Mountpoint": found["Mountpoint"],
        "CreatedAt": found.get("CreatedAt") or "",
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Status": "",
        "Size": "N/A",
        "Links": "N/A",
    }
