"""`pyswarm task …`: the tasks of all services, why one is where it is, and its story."""

import json
import time
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.lazy_group import LazyCommand, LazyGroup
from pyswarm_cli.output import (
    filter_option,
    format_option,
    no_trunc_option,
    parse_filters,
    print_rows,
    print_table,
    quiet_option,
    with_options,
)

pass_engine = click.make_pass_decorator(EngineClient)
_whole_format_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or scripts.",
)


@click.group(
    cls=LazyGroup,
    lazy={"logs": LazyCommand("pyswarm_cli.service.logs:task_logs", "Show what a task said, wherever it runs or ran.")},
)
def task() -> None:
    """What became of single tasks, and why.

    A TASK is an id (or the beginning of one), a name such as web.2.8kq0…, or a slot such as web.2, which means its newest task.
    """


@task.command(name="ls")
@with_options(filter_option, format_option, no_trunc_option, quiet_option)
@pass_engine
def list_tasks(engine: EngineClient, filters: tuple[str, ...], output_format: str, no_trunc: bool, quiet: bool) -> None:
    """List the tasks of all services.

    \b
    Examples:
      pyswarm task ls --filter desired-state=running
      pyswarm task ls --filter node=n3 --format '{{.Name}} {{.Error}}'
    """
    from pyswarm_cli.service.task_rows import TASK_COLUMNS, Names, task_rows

    tasks = engine.get("tasks", filters=parse_filters(filters))
    names = Names.read(engine) if tasks else Names({}, {})
    rows = task_rows(tasks, names, time.time(), whole_ids=no_trunc)
    print_rows(rows, TASK_COLUMNS, output_format, quiet_key="ID" if quiet else "")


@task.command()
@_whole_format_option
@click.option("--figures", is_flag=True, help="Show what every filter says, also where it lets the task pass.")
@click.option("--node", "node_name", metavar="NODE", help="Only this node.")
@click.argument("reference", metavar="TASK")
@pass_engine
def explain(engine: EngineClient, reference: str, output_format: str, figures: bool, node_name: str | None) -> None:
    """Show what the scheduler thinks of each node for a task: why it is where it is, or nowhere.

    A task that has its node already is looked at as if it were still to be placed, with what is free now.

    \b
    Examples:
      pyswarm task explain web.3
      pyswarm task explain --figures --node n2 web.3
      pyswarm task explain --format json 8kq0w1l2m3n4
    """
    found = engine.get("pyswarm", "tasks", reference, "explain")
    nodes = [each for each in found["Nodes"] if node_name in (None, each["Hostname"], each["NodeID"])]
    if node_name is not None and not nodes:
        raise click.ClickException(f"there is no node {node_name}")
    if output_format == "json":
        click.echo(json.dumps({**found, "Nodes": nodes}, ensure_ascii=False))
        return
    click.echo(f"Task {found['TaskID']} ({found['State']}): {found['Summary']}\n")
    _print_nodes(nodes, figures=figures)


def _print_nodes(nodes: list[dict[str, Any]], *, figures: bool) -> None:
    from pyswarm_cli.service.verdicts import COLUMNS, LONGEST_LIST, figure_lines, node_rows, refusal_lines

    shown, rest = nodes[:LONGEST_LIST], nodes[LONGEST_LIST:]
    rows = node_rows(shown)
    if figures:
        for node, row in zip(shown, rows, strict=True):
            click.echo(f"{row['Node']}: {'suitable' if node['IsSuitable'] else 'not suitable'}, {row['Tasks']} tasks")
            for line in figure_lines(node):
                click.echo(f"  {line}")
    else:
        print_table(list(COLUMNS), [[row[field] for field in COLUMNS.values()] for row in rows])
    for line in refusal_lines(rest):
        click.echo(line)


@task.command()
@_whole_format_option
@click.argument("reference", metavar="TASK")
@pass_engine
def story(engine: EngineClient, reference: str, output_format: str) -> None:
    """Tell a task's story: why it was made, when it reached each state, what was before and after it.

    \b
    Examples:
      pyswarm task story web.3
      pyswarm task story --format json web.3.8kq0w1l2m3n4
    """
    found = engine.get("pyswarm", "tasks", reference, "story")
    if output_format == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for sentence in found["Sentences"]:
        click.echo(sentence)
    from pyswarm_cli.task.story_rows import relation_rows, state_rows

    click.echo()
    print_table(["STATE", "REACHED AT", "LASTED"], state_rows(found))
    relations = relation_rows(found)
    if relations:
        click.echo()
        print_table(["", "TASK", "NODE", "STATE", "CREATED", "ERROR"], relations)
