"""`pyswarm node …`: list, inspect, change, promote, demote and remove the machines of the cluster, and see what they run."""

import time
from collections.abc import Callable
from typing import Any

import click

from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.key_values import parse_labels
from pyswarm_cli.lazy_group import LazyGroup
from pyswarm_cli.output import (
    filter_option,
    for_each,
    format_option,
    inspect_format_option,
    no_trunc_option,
    parse_filters,
    print_inspected,
    print_rows,
    quiet_option,
    with_options,
)

_ENCRYPTION = {"kernel": "by the kernel's WireGuard", "userspace": "by wireguard-go"}
pass_engine = click.make_pass_decorator(EngineClient)
_TRIES = 5
COLUMNS = {
    "ID": "ID",
    "HOSTNAME": "Hostname",
    "STATUS": "Status",
    "AVAILABILITY": "Availability",
    "MANAGER STATUS": "ManagerStatus",
    "ENGINE VERSION": "EngineVersion",
}


@click.group(cls=LazyGroup)
def node() -> None:
    """The machines of the cluster."""


@node.command(name="ls")
@with_options(filter_option, format_option, quiet_option)
@pass_engine
def list_nodes(engine: EngineClient, filters: tuple[str, ...], output_format: str, quiet: bool) -> None:
    """List the nodes; `*` marks this one.

    Example: pyswarm node ls --filter role=manager
    """
    nodes = engine.get("nodes", filters=parse_filters(filters))
    own_id = engine.get("info")["Swarm"]["NodeID"]
    rows = sorted((node_row(each, own_id) for each in nodes), key=lambda row: (row["Hostname"], row["ID"]))
    print_rows(rows, COLUMNS, output_format, quiet_key="NodeID" if quiet else "")


@node.command()
@with_options(filter_option, format_option, no_trunc_option, quiet_option)
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@pass_engine
def ps(
    engine: EngineClient, filters: tuple[str, ...], output_format: str, no_trunc: bool, quiet: bool, nodes: tuple[str, ...]
) -> None:
    """List the tasks of nodes, by default of this one (`self`).

    Example: pyswarm node ps worker1
    """
    from pyswarm_cli.service.task_rows import TASK_COLUMNS, Names, task_rows

    tasks: list[dict[str, Any]] = []
    for reference in nodes or ("self",):
        found = engine.get("nodes", _node_reference(engine, reference))
        wanted = {**(parse_filters(filters) or {}), "node": {found["ID"]: True}}
        tasks += engine.get("tasks", filters=wanted)
    names = Names.read(engine) if tasks else Names({}, {})
    rows = task_rows(tasks, names, time.time(), whole_ids=no_trunc)
    print_rows(rows, TASK_COLUMNS, output_format, quiet_key="ID" if quiet else "")


@node.command()
@inspect_format_option
@click.option("--pretty", is_flag=True, help="For people to read.")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@pass_engine
def inspect(engine: EngineClient, output_format: str, pretty: bool, nodes: tuple[str, ...]) -> None:
    """Show all about nodes; `self` is this one.

    Example: pyswarm node inspect self --pretty
    """
    found = [engine.get("nodes", _node_reference(engine, reference)) for reference in nodes]
    if pretty:
        from pyswarm_cli.pretty import print_members

        for each in found:
            print_members(describe(each))
    else:
        print_inspected(found, output_format)


@node.command()
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]), help="`drain` moves its tasks elsewhere.")
@click.option("--role", type=click.Choice(["worker", "manager"]))
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label (may be repeated).")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label (may be repeated).")
@click.argument("name", metavar="NODE")
@pass_engine
def update(
    engine: EngineClient,
    availability: str | None,
    role: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
    name: str,
) -> None:
    """Change a node's labels, availability or role.

    Example: pyswarm node update --label-add disk=ssd --availability drain worker1
    """
    added = parse_labels(label_add)

    def change(spec: dict[str, Any]) -> dict[str, Any]:
        labels = {**(spec.get("Labels") or {}), **added}
        for key in label_rm:
            if key not in labels:
                raise click.UsageError(f"node {name} has no label {key!r}")
            del labels[key]
        return {**spec, "Labels": labels, "Availability": availability or spec["Availability"], "Role": role or spec["Role"]}

    change_node(engine, name, change)
    click.echo(name)


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@pass_engine
def promote(engine: EngineClient, nodes: tuple[str, ...]) -> None:
    """Make nodes managers.

    Example: pyswarm node promote worker1 worker2
    """
    for_each(nodes, lambda reference: _change_role(engine, reference, "manager"))


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@pass_engine
def demote(engine: EngineClient, nodes: tuple[str, ...]) -> None:
    """Make managers plain workers.

    Example: pyswarm node demote manager3
    """
    for_each(nodes, lambda reference: _change_role(engine, reference, "worker"))


@node.command()
@click.option("--force", "-f", is_flag=True, help="Remove it although it is not down.")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@pass_engine
def rm(engine: EngineClient, force: bool, nodes: tuple[str, ...]) -> None:
    """Remove nodes that have left, or are down for good.

    Example: pyswarm node rm worker1
    """

    def remove(reference: str) -> None:
        engine.delete("nodes", reference, force=force)
        click.echo(reference)

    for_each(nodes, remove)


def _change_role(engine: EngineClient, reference: str, role: str) -> None:
    before = change_node(engine, reference, lambda spec: {**spec, "Role": role})
    if before["Spec"]["Role"] == role:
        click.echo(f"Node {before['ID']} is already a {role}.")
    elif role == "manager":
        click.echo(f"Node {reference} promoted to a manager in the swarm.")
    else:
        click.echo(f"Manager {reference} demoted in the swarm.")


def change_node(engine: EngineClient, reference: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Give a node the spec that `change` makes of its present one, unless that is the same; return the node as it was.

    The managers write nodes as well: when they did so in between, the node is read anew.
    """
    for tries_left in reversed(range(_TRIES)):
        found = engine.get("nodes", _node_reference(engine, reference))
        spec = change(found["Spec"])
        try:
            if spec != found["Spec"]:
                engine.post("nodes", found["ID"], "update", body=spec, version=found["Version"]["Index"])
            break
        except EngineError as error:
            if not tries_left or "update out of sequence" not in error.message:
                raise
    return found


def node_row(found: dict[str, Any], own_id: str) -> dict[str, str]:
    """Return a node as the list shows it."""
    manager = found.get("ManagerStatus")
    is_self = found["ID"] == own_id
    return {
        "ID": f"{found['ID']}{' *' if is_self else ''}",
        "NodeID": found["ID"],
        "Hostname": found["Description"].get("Hostname", ""),
        "Status": found["Status"]["State"].capitalize(),
        "Availability": found["Spec"]["Availability"].capitalize(),
        "ManagerStatus": "" if not manager else "Leader" if manager.get("Leader") else manager["Reachability"].capitalize(),
        "EngineVersion": found["Description"].get("Engine", {}).get("EngineVersion", ""),
        "Self": "true" if is_self else "false",
    }


def describe(found: dict[str, Any]) -> dict[str, Any]:
    """Return what `inspect --pretty` says of a node."""
    from pyswarm_cli.units import format_binary_bytes

    description, status, manager = found["Description"], found["Status"], found.get("ManagerStatus")
    resources, platform = description.get("Resources", {}), description.get("Platform", {})
    described: dict[str, Any] = {
        "ID": found["ID"],
        "Labels": found["Spec"].get("Labels") or None,
        "Hostname": description.get("Hostname", ""),
        "Joined at": found["CreatedAt"],
        "Status": {
            "State": status["State"].capitalize(),
            "Message": status.get("Message"),
            "Availability": found["Spec"]["Availability"].capitalize(),
            "Address": status.get("Addr"),
        },
        "Platform": {"Operating System": platform.get("OS"), "Architecture": platform.get("Architecture")},
        "Resources": {
            "CPUs": f"{resources.get('NanoCPUs', 0) / 1e9:g}",
            "Memory": format_binary_bytes(resources.get("MemoryBytes", 0)),
        },
        "Engine Version": description.get("Engine", {}).get("EngineVersion"),
    }
    if encryption := description.get("Encryption"):
        described["Encrypted Overlays"] = _ENCRYPTION.get(encryption["Kind"]) or f"not possible: {encryption.get('Problem')}"
    if permissions := description.get("Permissions"):
        described["Permissions"] = {
            "Privileged": "Yes" if permissions["Privileged"] else "No",
            "Devices": permissions["Devices"],
            "CDI devices": permissions["CDIDevices"],
        }
    if manager:
        described["Manager Status"] = {
            "Address": manager.get("Addr"),
            "Raft Status": manager["Reachability"].capitalize(),
            "Leader": "Yes" if manager.get("Leader") else "No",
        }
    return described


def _node_reference(engine: EngineClient, reference: str) -> str:
    if reference != "self":
        return reference
    own_id: str = engine.get("info")["Swarm"]["NodeID"]
    if not own_id:
        raise click.ClickException("this node is not part of a swarm: begin one with `pyswarm swarm init`, or join one")
    return own_id
