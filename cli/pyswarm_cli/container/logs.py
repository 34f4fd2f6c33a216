"""`pyswarm logs`: what a container said."""

from typing import Any

import click

from pyswarm_cli.container.target import find_target
from pyswarm_cli.engine import EngineClient
from pyswarm_cli.log_output import log_query, print_log, with_log_options


@click.command()
@with_log_options
@click.argument("reference", metavar="CONTAINER|TASK")
@click.make_pass_decorator(EngineClient)
def logs(engine: EngineClient, /, reference: str, **options: Any) -> None:
    """Show what a container of this node said, or the container of a task on any node.

    For all tasks of a service, see `pyswarm service logs`.

    \b
    Examples:
      pyswarm logs --tail 20 --follow web
      pyswarm container logs --since 10m --timestamps 4f5ac8f2b1c0
    """
    query = log_query(**options)
    target = find_target(engine, reference)
    container = engine.get(*target.path("json"))
    print_log(engine, target.path("logs"), query, is_raw=bool(container["Config"]["Tty"]))
