"""`pyswarm diff`, `pyswarm export`: the files of a container, on whichever node it is."""

import shutil
import sys

import click

from pyswarm_cli.container.target import find_target
from pyswarm_cli.engine import EngineClient

pass_engine = click.make_pass_decorator(EngineClient)
_KINDS = "CAD"
_reference = click.argument("reference", metavar="CONTAINER|TASK")


@click.command()
@_reference
@pass_engine
def diff(engine: EngineClient, reference: str) -> None:
    """Show which files a container has added (A), changed (C) and deleted (D).

    Example: pyswarm diff web
    """
    for change in engine.get(*find_target(engine, reference).path("changes")) or ():
        click.echo(f"{_KINDS[change['Kind']]} {change['Path']}")


@click.command()
@click.option("--output", "-o", metavar="FILE", help="Write to this file instead of standard output.")
@_reference
@pass_engine
def export(engine: EngineClient, output: str | None, reference: str) -> None:
    """Write all files of a container, but for its mounts, as a tarball.

    Example: pyswarm export --output web.tar web
    """
    if output is None and sys.stdout.isatty():
        raise click.ClickException("cowardly refusing to save to a terminal: use --output or redirect")
    with engine.stream("GET", *find_target(engine, reference).path("export")) as response:
        if output is None:
            shutil.copyfileobj(response, sys.stdout.buffer)
            return
        try:
            with open(output, "wb") as file:
                shutil.copyfileobj(response, file)
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
