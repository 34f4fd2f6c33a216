"""`pyswarm service create --dry-run`: where the tasks would land, and what is in the way elsewhere."""

import json
from collections.abc import Mapping
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.output import print_table
from pyswarm_cli.service.rules import generic_resource_text
from pyswarm_cli.service.verdicts import COLUMNS, LONGEST_LIST, node_rows, refusal_lines


def show_dry_run(engine: EngineClient, spec: Mapping[str, Any], output_format: str) -> None:
    """Ask the daemon and print the answer. Exit code 1 when a task finds no node."""
    found = engine.post("pyswarm", "services", "dry-run", body=spec)
    if output_format == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        _print(found)
    if found["Placed"] < found["Asked"]:
        raise click.exceptions.Exit(1)


def _print(found: Mapping[str, Any]) -> None:
    click.echo(f"{found['Placed']} of {found['Asked']} tasks would be placed now. Nothing was created.")
    if found["Placements"]:
        click.echo()
        placements = [_placement_row(each) for each in found["Placements"]]
        width = 3 if any(row[-1] for row in placements) else 2
        print_table(["NODE", "TASKS", "GENERIC RESOURCES"][:width], [row[:width] for row in placements])
    if not found["Refusal"]:
        return
    click.echo(f"\n{found['Asked'] - found['Placed']} tasks would wait: {found['Refusal']}\n")
    refusing = [node for node in found["Nodes"] if not node["IsSuitable"]]
    columns = {heading: field for heading, field in COLUMNS.items() if field != "Suitable"}
    rows = node_rows(refusing[:LONGEST_LIST])
    print_table(list(columns), [[row[field] for field in columns.values()] for row in rows])
    for line in refusal_lines(refusing[LONGEST_LIST:]):
        click.echo(line)


def _placement_row(placement: Mapping[str, Any]) -> list[str]:
    resources = [generic_resource_text(each) for each in placement.get("GenericResources") or ()]
    return [placement["Hostname"] or placement["NodeID"], str(placement["Tasks"]), ", ".join(resources)]
