"""`pyswarm network rm` and `prune`."""

import click

from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.output import for_each, parse_filters

pass_engine = click.make_pass_decorator(EngineClient)
_NOT_FOUND = 404
_INGRESS_WARNING = (
    "WARNING! This is the routing-mesh network: while there is none, no service can publish ports on all nodes.\n"
    "Are you sure you want to continue?"
)
_PRUNE_WARNING = (
    "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue?"
)


@click.command()
@click.option("--force", "-f", is_flag=True, help="Do not ask, nor complain about networks that are not there.")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@pass_engine
def rm(engine: EngineClient, force: bool, networks: tuple[str, ...]) -> None:
    """Remove networks that nothing uses.

    Example: pyswarm network rm app back
    """

    def remove(name: str) -> None:
        try:
            if not force and engine.get("networks", name).get("Ingress") and not click.confirm(_INGRESS_WARNING, default=False):
                return
            engine.delete("networks", name)
        except EngineError as error:
            if force and error.status == _NOT_FOUND:
                return
            raise
        click.echo(name)

    for_each(networks, remove)


@click.command()
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those that match: label, label! or until.")
@click.option("--force", "-f", is_flag=True, help="Do not ask.")
@pass_engine
def prune(engine: EngineClient, filters: tuple[str, ...], force: bool) -> None:
    """Remove all networks that nothing uses.

    Example: pyswarm network prune --force --filter label=temporary
    """
    if not force and not click.confirm(_PRUNE_WARNING, default=False):
        return
    removed = engine.post("networks", "prune", filters=parse_filters(filters)).get("NetworksDeleted")
    if removed:
        click.echo("Deleted Networks:")
        for name in removed:
            click.echo(name)
        click.echo()
