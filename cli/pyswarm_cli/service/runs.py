"""`pyswarm service runs`: when a scheduled job runs next, and how its latest runs went."""

import json
from collections.abc import Mapping
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.output import format_option, print_rows
from pyswarm_cli.units import format_duration_ns, parse_time_s

pass_engine = click.make_pass_decorator(EngineClient)
COLUMNS = {"DUE": "Due", "STARTED": "Started", "FINISHED": "Finished", "TOOK": "Took", "RUN": "Run", "OUTCOME": "Outcome"}


@click.command()
@format_option
@click.argument("name", metavar="SERVICE")
@pass_engine
def runs(engine: EngineClient, name: str, output_format: str) -> None:
    """List the runs of a scheduled job, the latest first, and say when the next one is due.

    An outcome is running, queued, completed, failed, skipped (the run before was not done) or replaced (by the next run).

    \b
    Examples:
      pyswarm service create --name backup --mode replicated-job --schedule '30 3 * * *' saver
      pyswarm service runs backup
    """
    found = engine.get("pyswarm", "services", name, "runs")
    if output_format == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    if output_format == "table":
        click.echo(f"{schedule_text(found)}\n")
    print_rows([run_row(run) for run in reversed(found["Runs"])], COLUMNS, output_format)


def schedule_text(found: Mapping[str, Any]) -> str:
    """Return the schedule in one line."""
    queued = f", {found['Queued']} queued" if found["Queued"] else ""
    due = f"next run {moment(found['NextDue'])}" if found["NextDue"] else "no run is due"
    overlap = f"overlap: {found['Overlap']}"
    return f"{found['ServiceName']} runs at {found['Schedule']} ({found['TimeZone']}), {overlap}; {due}{queued}"


def run_row(run: Mapping[str, Any]) -> dict[str, str]:
    """Return a run as the list shows it."""
    took = ""
    if run["Started"] and run["Finished"]:
        took = format_duration_ns(round(parse_time_s(run["Finished"]) - parse_time_s(run["Started"])) * 1_000_000_000)
    return {
        "Due": moment(run["Due"]),
        "Started": moment(run["Started"]),
        "Finished": moment(run["Finished"]),
        "Took": took,
        "Run": "" if run["Iteration"] is None else str(run["Iteration"]),
        "Outcome": run["Outcome"],
    }


def moment(text: str) -> str:
    """Return an RFC 3339 time in whole seconds: `2026-11-21 01:55:05Z`; "" for none."""
    return f"{text[:10]} {text[11:19]}Z" if text else ""
