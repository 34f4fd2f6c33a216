"""`pyswarm network connect` and `disconnect`: containers that run join and leave networks."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parse_labels

pass_engine = click.make_pass_decorator(EngineClient)


@click.command()
@click.option("--alias", multiple=True, metavar="NAME", help="A further name of the container on this network (repeatable).")
@click.option("--ip", metavar="IP", default="", help="Its IPv4 address, such as 172.30.100.104.")
@click.option("--ip6", metavar="IP", default="", help="Its IPv6 address, such as 2001:db8::33.")
@click.option("--driver-opt", multiple=True, metavar="KEY=VALUE", help="An option of the network's driver (repeatable).")
@click.option("--link", multiple=True, metavar="CONTAINER", hidden=True)
@click.option("--link-local-ip", multiple=True, metavar="IP", hidden=True)
@click.argument("network")
@click.argument("container")
@pass_engine
def connect(engine: EngineClient, /, network: str, container: str, **options: Any) -> None:
    """Connect a container of this node to a network; it may be running.

    \b
    Examples:
      pyswarm network connect app web
      pyswarm network connect --alias db --ip 10.0.9.7 app postgres
    """
    for option in ("link", "link_local_ip"):
        if options[option]:
            raise click.UsageError(
                f"--{option.replace('_', '-')} is not supported: containers of a network find each other by name"
            )
    settings = endpoint_settings(options)
    engine.post("networks", network, "connect", body={"Container": container, "EndpointConfig": settings})


@click.command()
@click.option("--force", "-f", is_flag=True, help="Also a container that is gone.")
@click.argument("network")
@click.argument("container")
@pass_engine
def disconnect(engine: EngineClient, force: bool, network: str, container: str) -> None:
    """Disconnect a container of this node from a network.

    Example: pyswarm network disconnect app web
    """
    engine.post("networks", network, "disconnect", body={"Container": container, "Force": force})


def endpoint_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return how a container is to be on the network, in the API's JSON: only what was asked for."""
    addresses = {name: value for name, value in {"IPv4Address": options["ip"], "IPv6Address": options["ip6"]}.items() if value}
    members = {"IPAMConfig": addresses, "Aliases": list(options["alias"]), "DriverOpts": parse_labels(options["driver_opt"])}
    return {name: value for name, value in members.items() if value}
