"""The way between two tasks: where both are, which network they share, and what each one's node says of it."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient, EngineError


def check_path(engine: EngineClient, first: str, second: str) -> dict[str, Any]:
    """Return the steps of both directions. Raises click.ClickException when a task is nowhere or they share no network."""
    one, other = _task(engine, first), _task(engine, second)
    network_id, name, address, other_address = _shared(one, first, other, second)
    directions = [
        _direction(engine, one, first, second, network_id, other_address),
        _direction(engine, other, second, first, network_id, address),
    ]
    return {"Network": name, "NetworkID": network_id, "Directions": directions}


def _task(engine: EngineClient, reference: str) -> dict[str, Any]:
    task_id = engine.get("pyswarm", "tasks", reference, "story")["ID"]  # knows slots such as web.2, too
    task: dict[str, Any] = engine.get("tasks", task_id)
    if not task.get("NodeID") or task["Status"]["State"] != "running":
        reason = task["Status"].get("Err") or task["Status"].get("Message", "")
        raise click.ClickException(f"task {reference} does not run: it is {task['Status']['State']} ({reason})")
    return task


def _addresses(task: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Name and plain IPv4 address on each network of a task, by the network's id."""
    found = {}
    for attachment in task.get("NetworksAttachments") or []:
        network = attachment["Network"]
        plain = [each.partition("/")[0] for each in attachment.get("Addresses") or [] if ":" not in each]
        if plain and not network["Spec"].get("Ingress"):
            found[network["ID"]] = (network["Spec"]["Name"], plain[0])
    return found


def _shared(one: dict[str, Any], first: str, other: dict[str, Any], second: str) -> tuple[str, str, str, str]:
    here, there = _addresses(one), _addresses(other)
    for network_id in sorted(here.keys() & there.keys()):
        return network_id, here[network_id][0], here[network_id][1], there[network_id][1]
    words = [
        f"{ref} is on {', '.join(sorted(n for n, _ in nets.values())) or 'none'}" for ref, nets in ((first, here), (second, there))
    ]
    raise click.ClickException(f"the tasks share no network: {', '.join(words)}")


def _direction(
    engine: EngineClient, task: dict[str, Any], name: str, other_name: str, network_id: str, address: str
) -> dict[str, Any]:
    asked = ("pyswarm", "nodes", task["NodeID"], "engine", "pyswarm", "network", "path")
    try:
        steps = engine.get(*asked, sandbox=task["ID"], network=network_id, address=address)["Steps"]
    except EngineError as error:
        steps = [{"What": f"node {task['NodeID']} answers", "IsOK": False, "Detail": error.message}]
    return {"From": name, "To": other_name, "NodeID": task["NodeID"], "Steps": steps}
