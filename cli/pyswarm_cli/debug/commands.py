"""`pyswarm debug …`: what a node's network should be, what it is, and where a way breaks."""

import json
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.lazy_group import LazyGroup

pass_engine = click.make_pass_decorator(EngineClient)


@click.group(cls=LazyGroup)
def debug() -> None:
    """The truth below the surface, for whoever looks for a fault."""


@debug.command()
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people or scripts.",
)
@click.option("--node", "node_name", metavar="NODE", help="Another node's network, through a manager.")
@click.option(
    "--path", "tasks", nargs=2, metavar="TASK TASK", help="Check the way between two tasks, both ways, with real packets."
)
@pass_engine
def net(engine: EngineClient, output_format: str, node_name: str | None, tasks: tuple[str, str] | None) -> None:
    """Show what a node's network should be, and what in the kernel differs from it (the plan: empty when all is in order).

    Then its networks, sandboxes, published ports, what on this host is in the way, and what was repaired of late.

    \b
    Examples:
      pyswarm debug net
      pyswarm debug net --node n3 --format json
      pyswarm debug net --path web.1 db.1
    """
    if tasks and node_name:
        raise click.UsageError("--path finds the nodes by itself: leave --node out")
    if tasks:
        from pyswarm_cli.debug.path import check_path

        found = check_path(engine, *tasks)
        click.echo(json.dumps(found, ensure_ascii=False) if output_format == "json" else _path_text(found))
        if not all(step["IsOK"] for direction in found["Directions"] for step in direction["Steps"]):
            raise SystemExit(1)
        return
    prefix = ("pyswarm", "nodes", node_name, "engine") if node_name else ()
    state = engine.get(*prefix, "pyswarm", "network", "state")
    if output_format == "json":
        click.echo(json.dumps(state, ensure_ascii=False))
        return
    from pyswarm_cli.debug.state_text import state_lines

    for line in state_lines(state):
        click.echo(line)


def _path_text(found: dict[str, Any]) -> str:
    from pyswarm_cli.debug.state_text import path_lines

    return "\n".join(path_lines(found))
