"""Whom a command means by CONTAINER|TASK, and where its Engine API is: this node's, or another one's through a manager."""

from dataclasses import dataclass
from typing import Any

import click

from pyswarm_cli.engine import EngineClient, EngineError


@dataclass(frozen=True)
class Target:
    """A container; requests about it go to `path(…)`."""

    container_id: str
    name: str
    prefix: tuple[str, ...] = ()

    def path(self, *rest: str) -> tuple[str, ...]:
        """Return the path of this container's route."""
        return (*self.prefix, "containers", self.container_id, *rest)

    def node_path(self, *rest: str) -> tuple[str, ...]:
        """Return the path of another route of the container's node."""
        return (*self.prefix, *rest)


def find_target(engine: EngineClient, reference: str) -> Target:
    """Return the container of this node, or of the task on any node, that is meant; a service with one running task means that.

    Raises click.ClickException.
    """
    try:
        container = engine.get("containers", reference, "json")
        return Target(container["Id"], container["Name"].removeprefix("/"))
    except EngineError as error:
        if error.status != 404:
            raise
        not_here = error
    try:
        task_id = engine.get("pyswarm", "tasks", reference, "story")["ID"]  # knows slots such as web.2, too
        return _target_of_task(engine.get("tasks", task_id), reference)
    except EngineError as error:
        if error.status == 503 and "swarm init" in error.message:
            raise not_here from None  # part of no cluster: there are no tasks
        if error.status == 503:
            raise click.ClickException(
                f"{not_here.message}; tasks on other nodes can be reached from a manager, which this node is not"
            ) from None
        if error.status != 404:
            raise
    return _only_task_of_service(engine, reference)


def _target_of_task(task: dict[str, Any], reference: str) -> Target:
    container_id = task["Status"].get("ContainerStatus", {}).get("ContainerID", "")
    if not task.get("NodeID") or not container_id:
        reason = task["Status"].get("Err") or task["Status"].get("Message", "")
        raise click.ClickException(f"task {reference} has no container: it is {task['Status']['State']} ({reason})")
    return Target(container_id, reference, ("pyswarm", "nodes", task["NodeID"], "engine"))


def _only_task_of_service(engine: EngineClient, reference: str) -> Target:
    try:
        service = engine.get("services", reference)
    except EngineError as error:
        if error.status == 404:
            raise click.ClickException(f"no such container, task or service: {reference}") from None
        raise
    asked = {"service": {service["ID"]: True}, "desired-state": {"running": True}}
    running = [task for task in engine.get("tasks", filters=asked) if task["Status"]["State"] == "running"]
    if len(running) == 1:
        return _target_of_task(running[0], reference)
    name = service["Spec"]["Name"]
    if not running:
        raise click.ClickException(f"service {name} has no running task: see pyswarm service ps {name}")
    places = sorted(f"{name}.{task['Slot']}" if task.get("Slot") else task["ID"][:12] for task in running)
    raise click.ClickException(f"service {name} has {len(running)} running tasks, choose one: {', '.join(places)}")
