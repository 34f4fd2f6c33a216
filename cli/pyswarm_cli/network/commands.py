"""`pyswarm network …`: create, list, inspect and remove overlays."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parse_labels
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

pass_engine = click.make_pass_decorator(EngineClient)
COLUMNS = {"NETWORK ID": "ID", "NAME": "Name", "DRIVER": "Driver", "SCOPE": "Scope"}


@click.group(cls=LazyGroup)
def network() -> None:
    """Overlays that join containers across hosts."""


@network.command()
@click.option("--driver", "-d", default="overlay", show_default=True, help="`overlay`, which spans all nodes.")
@click.option("--subnet", multiple=True, metavar="CIDR", help="Its addresses; by default the next free /24 of 10.0.0.0/8.")
@click.option("--gateway", multiple=True, metavar="IP", help="The gateway in the subnet of the same position.")
@click.option("--ip-range", multiple=True, metavar="CIDR", help="The part of that subnet that containers get.")
@click.option("--attachable", is_flag=True, help="Containers outside services may join.")
@click.option("--internal", is_flag=True, help="No way out of it.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label (may be repeated).")
@click.option("--opt", "-o", multiple=True, metavar="KEY=VALUE", help="An option of the driver (may be repeated).")
@click.argument("name", metavar="NETWORK")
@pass_engine
def create(engine: EngineClient, /, **options: Any) -> None:
    """Create a network, and print its id.

    Example: pyswarm network create --driver overlay app
    """
    created = engine.post("networks", "create", body=network_spec(options))
    if created.get("Warning"):
        click.echo(f"Warning: {created['Warning']}", err=True)
    click.echo(created["Id"])


@network.command(name="ls")
@with_options(filter_option, format_option, no_trunc_option, quiet_option)
@pass_engine
def list_networks(engine: EngineClient, filters: tuple[str, ...], output_format: str, no_trunc: bool, quiet: bool) -> None:
    """List networks.

    Example: pyswarm network ls --filter name=app
    """
    found = sorted(engine.get("networks", filters=parse_filters(filters)), key=lambda each: (each["Name"], each["Id"]))
    rows = [network_row(each, whole_ids=no_trunc) for each in found]
    print_rows(rows, COLUMNS, output_format, quiet_key="ID" if quiet else "")


@network.command()
@inspect_format_option
@click.option("--verbose", "-v", is_flag=True, help="Also its services and their tasks.")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@pass_engine
def inspect(engine: EngineClient, output_format: str, verbose: bool, networks: tuple[str, ...]) -> None:
    """Show all about networks.

    Example: pyswarm network inspect app
    """
    print_inspected([engine.get("networks", name, verbose=verbose) for name in networks], output_format)


@network.command()
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@pass_engine
def rm(engine: EngineClient, networks: tuple[str, ...]) -> None:
    """Remove networks that nothing uses.

    Example: pyswarm network rm app
    """

    def remove(name: str) -> None:
        engine.delete("networks", name)
        click.echo(name)

    for_each(networks, remove)


def network_spec(options: dict[str, Any]) -> dict[str, Any]:
    """Return the body that creates a network. Raises click.UsageError."""
    subnets, gateways, ranges = options["subnet"], options["gateway"], options["ip_range"]
    if max(len(gateways), len(ranges)) > len(subnets):
        raise click.UsageError("each --gateway and --ip-range needs the --subnet that it is in")
    pools = []
    for position, subnet in enumerate(subnets):
        pool = {"Subnet": subnet}
        if position < len(gateways):
            pool["Gateway"] = gateways[position]
        if position < len(ranges):
            pool["IPRange"] = ranges[position]
        pools.append(pool)
    return {
        "Name": options["name"],
        "CheckDuplicate": True,
        "Driver": options["driver"],
        "Attachable": options["attachable"],
        "Internal": options["internal"],
        "IPAM": {"Driver": "default", "Config": pools},
        "Labels": parse_labels(options["label"]),
        "Options": parse_labels(options["opt"]),
    }


def network_row(found: dict[str, Any], *, whole_ids: bool) -> dict[str, str]:
    """Return a network as the list shows it."""
    labels = found.get("Labels") or {}
    return {
        "ID": short_id(found["Id"], whole=whole_ids),
        "Name": found["Name"],
        "Driver": found["Driver"],
        "Scope": found["Scope"],
        "Internal": str(found["Internal"]).lower(),
        "CreatedAt": found["Created"],
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    }
