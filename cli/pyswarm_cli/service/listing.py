"""`pyswarm service ls`, `ps` and `inspect`."""

import time
from collections.abc import Mapping
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.output import (
    filter_option,
    format_option,
    inspect_format_option,
    no_trunc_option,
    parse_filters,
    print_inspected,
    print_rows,
    quiet_option,
    short_id,
    with_options,
)
from pyswarm_cli.service.modes import is_job, is_scheduled, service_mode, total_completions
from pyswarm_cli.service.ports import ports_text
from pyswarm_cli.service.task_rows import TASK_COLUMNS, Names, node_names, task_rows
from pyswarm_common.own_networks import DRIVERS, id_in_swarm

pass_engine = click.make_pass_decorator(EngineClient)
COLUMNS = {"ID": "ID", "NAME": "Name", "MODE": "Mode", "REPLICAS": "Replicas", "IMAGE": "Image", "PORTS": "Ports"}


@click.command(name="ls")
@with_options(filter_option, format_option, quiet_option)
@pass_engine
def list_services(engine: EngineClient, filters: tuple[str, ...], output_format: str, quiet: bool) -> None:
    """List services, with how many of their tasks run.

    Example: pyswarm service ls --filter label=tier=front
    """
    found = engine.get("services", status="true", filters=parse_filters(filters))
    rows = sorted((service_row(each) for each in found), key=lambda row: (row["Name"], row["ID"]))
    print_rows(rows, COLUMNS, output_format, quiet_key="ID" if quiet else "")


@click.command()
@with_options(filter_option, format_option, no_trunc_option, quiet_option)
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@pass_engine
def ps(
    engine: EngineClient, filters: tuple[str, ...], output_format: str, no_trunc: bool, quiet: bool, services: tuple[str, ...]
) -> None:
    """List the tasks of services: where they are, what they do, and why some do not run.

    The newest task of each slot comes first, those that it replaced below it.

    Example: pyswarm service ps --filter desired-state=running web
    """
    found = [engine.get("services", name) for name in services]
    wanted = {**(parse_filters(filters) or {}), "service": {each["ID"]: True for each in found}}
    if "node" in wanted and "self" in wanted["node"]:
        del wanted["node"]["self"]
        wanted["node"][engine.get("info")["Swarm"]["NodeID"]] = True
    tasks = engine.get("tasks", filters=wanted)
    names = Names.of_services(found, node_names(engine.get("nodes")) if tasks else {})
    rows = task_rows(tasks, names, time.time(), whole_ids=no_trunc)
    print_rows(rows, TASK_COLUMNS, output_format, quiet_key="ID" if quiet else "")


@click.command()
@inspect_format_option
@click.option("--pretty", is_flag=True, help="For people to read.")
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@pass_engine
def inspect(engine: EngineClient, output_format: str, pretty: bool, services: tuple[str, ...]) -> None:
    """Show all about services.

    Example: pyswarm service inspect --pretty web
    """
    found = [engine.get("services", name, insertDefaults="true") for name in services]
    if not pretty:
        print_inspected(found, output_format)
        return
    from pyswarm_cli.pretty import print_members
    from pyswarm_cli.service.description import describe_service

    networks = {each["Id"]: each["Name"] for each in engine.get("networks")} | {id_in_swarm(name): name for name in DRIVERS}
    for each in found:
        runs = engine.get("pyswarm", "services", each["ID"], "runs") if is_scheduled(each["Spec"]) else None
        print_members(describe_service(each, networks, runs))


def service_row(found: Mapping[str, Any]) -> dict[str, str]:
    """Return a service as the list shows it."""
    spec = found["Spec"]
    container = spec["TaskTemplate"].get("ContainerSpec") or {}
    ports = (found.get("Endpoint") or {}).get("Ports") or (spec.get("EndpointSpec") or {}).get("Ports") or ()
    return {
        "ID": short_id(found["ID"]),
        "Name": spec["Name"],
        "Mode": service_mode(spec),
        "Replicas": replicas_text(found),
        "Image": container.get("Image", "").partition("@sha256:")[0],
        "Ports": ports_text(ports),
    }


def replicas_text(found: Mapping[str, Any]) -> str:
    """Return how many tasks run of how many, as docker words it: `3/3 (max 1 per node)`, of a job `1/2 (5/20 completed)`."""
    spec, status = found["Spec"], found.get("ServiceStatus") or {}
    desired = status.get("DesiredTasks", 0)
    text = f"{status.get('RunningTasks', 0)}/{desired}"
    at_most = (spec["TaskTemplate"].get("Placement") or {}).get("MaxReplicas")
    if is_job(spec):
        completed, total = status.get("CompletedTasks", 0), total_completions(spec)
        return f"{text} ({completed}/{desired + completed if total is None else total} completed)"
    return f"{text} (max {at_most} per node)" if at_most else text
