"""`pyswarm network …`: create, list and inspect networks. What else there is to do with them lies beside this module."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.lazy_group import LazyCommand, LazyGroup
from pyswarm_cli.output import (
    filter_option,
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

pass_engine = click.make_pass_decorator(EngineClient)
COLUMNS = {"NETWORK ID": "ID", "NAME": "Name", "DRIVER": "Driver", "SCOPE": "Scope"}
_LAZY = {
    "rm": LazyCommand("pyswarm_cli.network.removal:rm", "Remove networks that nothing uses."),
    "prune": LazyCommand("pyswarm_cli.network.removal:prune", "Remove all networks that nothing uses."),
    "connect": LazyCommand("pyswarm_cli.network.membership:connect", "Connect a container to a network."),
    "disconnect": LazyCommand("pyswarm_cli.network.membership:disconnect", "Disconnect a container from a network."),
}


@click.group(cls=LazyGroup, lazy=_LAZY)
def network() -> None:
    """Overlays that join containers across hosts, and networks of this node alone."""


@network.command()
@click.option("--driver", "-d", default="overlay", show_default=True, help="`overlay` spans all nodes; `bridge` is this node's.")
@click.option("--subnet", multiple=True, metavar="CIDR", help="Its addresses; by default the next free pool (repeatable).")
@click.option("--gateway", multiple=True, metavar="IP", help="The gateway of the subnet that it is in (repeatable).")
@click.option("--ip-range", multiple=True, metavar="CIDR", help="The part of its subnet that containers get (repeatable).")
@click.option("--aux-address", multiple=True, metavar="NAME=IP", help="An address that no container gets (repeatable).")
@click.option("--ipv6/--no-ipv6", default=False, help="Also IPv6 addresses.")
@click.option("--attachable", is_flag=True, help="Containers outside services may join.")
@click.option("--internal", is_flag=True, help="No way out of it.")
@click.option("--ingress", is_flag=True, help="The network of the routing mesh, in place of one that was removed.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label (repeatable).")
@click.option("--opt", "-o", multiple=True, metavar="KEY=VALUE", help="An option of the driver, such as encrypted (repeatable).")
@click.option("--scope", default="", metavar="local|swarm", help="Whose it is; by default the driver says.")
@click.option("--ipam-driver", default="default", show_default=True, metavar="NAME", help="Who chooses addresses.")
@click.option("--ipam-opt", multiple=True, metavar="KEY=VALUE", help="An option of that (repeatable).")
@click.option("--config-only", is_flag=True, help="Only hold a configuration for other networks.")
@click.option("--config-from", default="", metavar="NETWORK", help="Take the configuration of that network.")
@click.argument("name", metavar="NETWORK")
@pass_engine
def create(engine: EngineClient, /, **options: Any) -> None:
    """Create a network, and print its id.

    \b
    Examples:
      pyswarm network create app
      pyswarm network create --subnet 10.9.0.0/24 --ip-range 10.9.0.128/25 --aux-address router=10.9.0.129 app
      pyswarm network create --opt encrypted --ipv6 --attachable private
    """
    from pyswarm_cli.network.network_spec import network_spec

    created = engine.post("networks", "create", body=network_spec(options))
    if created.get("Warning"):
        click.echo(f"Warning: {created['Warning']}", err=True)
    click.echo(created["Id"])


@network.command(name="ls")
@with_options(filter_option, format_option, no_trunc_option, quiet_option)
@pass_engine
def list_networks(engine: EngineClient, filters: tuple[str, ...], output_format: str, no_trunc: bool, quiet: bool) -> None:
    """List networks. Filters: dangling=true|false, driver, id, label, name, scope, type=custom|builtin.

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

    Example: pyswarm network inspect --verbose app
    """
    inspect_each(networks, lambda name: engine.get("networks", name, verbose=verbose), output_format)


def network_row(found: dict[str, Any], *, whole_ids: bool) -> dict[str, str]:
    """Return a network as the list shows it."""
    labels = found.get("Labels") or {}
    return {
        "ID": short_id(found["Id"], whole=whole_ids),
        "Name": found["Name"],
        "Driver": found["Driver"],
        "Scope": found["Scope"],
        "IPv6": str(bool(found.get("EnableIPv6"))).lower(),
        "Internal": str(found["Internal"]).lower(),
        "CreatedAt": found["Created"],
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    }
