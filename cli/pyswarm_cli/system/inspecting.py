"""`pyswarm inspect`: all about anything that has a name or id."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.output import inspect_each, inspect_format_option

_PATHS = {
    "container": ("containers", "json"),
    "image": ("images", "json"),
    "network": ("networks",),
    "volume": ("volumes",),
    "service": ("services",),
    "task": ("tasks",),
    "node": ("nodes",),
    "secret": ("secrets",),
    "config": ("configs",),
}
"""Where each kind is, in docker's order: the collection, and what follows the name."""
_NOT_FOUND, _NO_MANAGER = 404, 503


@click.command()
@inspect_format_option
@click.option("--type", "kind", type=click.Choice(list(_PATHS)), help="Look for these only.")
@click.argument("references", nargs=-1, required=True, metavar="NAME|ID...")
@click.make_pass_decorator(EngineClient)
def inspect(engine: EngineClient, output_format: str, kind: str | None, references: tuple[str, ...]) -> None:
    """Show all about containers, images, networks, volumes, services, tasks, nodes, secrets or configs.

    \b
    Examples:
      pyswarm inspect web
      pyswarm inspect --type volume --format '{{.Mountpoint}}' data
    """
    inspect_each(references, lambda reference: _find(engine, reference, kind), output_format)


def _find(engine: EngineClient, reference: str, kind: str | None) -> Any:
    """Return the first object of that name. Raises click.ClickException."""
    for collection, *rest in [_PATHS[kind]] if kind else _PATHS.values():
        try:
            return engine.get(collection, reference, *rest)
        except EngineError as error:
            if error.status not in (_NOT_FOUND, _NO_MANAGER):
                raise
    raise click.ClickException(f"No such {kind or 'object'}: {reference}")
