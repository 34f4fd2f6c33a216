"""`pyswarm service …`: the commands that make and change services. Listing and inspecting are in `listing`, logs in `logs`."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.lazy_group import LazyCommand, LazyGroup
from pyswarm_cli.output import for_each
from pyswarm_cli.service.options import create_options, update_options, wait_options

pass_engine = click.make_pass_decorator(EngineClient)
_CHANGED_MEANWHILE = "update out of sequence"
_MAX_TRIES = 5


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": LazyCommand("pyswarm_cli.service.listing:list_services", "List services."),
        "ps": LazyCommand("pyswarm_cli.service.listing:ps", "List the tasks of services, with what went wrong."),
        "inspect": LazyCommand("pyswarm_cli.service.listing:inspect", "Show all about services."),
        "logs": LazyCommand("pyswarm_cli.service.logs:logs", "Show what a service's tasks, or one task, said."),
    },
)
def service() -> None:
    """What the cluster runs."""


@service.command(context_settings={"allow_interspersed_args": False})
@create_options
@wait_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG]...")
@pass_engine
def create(
    engine: EngineClient,
    /,
    image: str,
    command: tuple[str, ...],
    detach: bool,
    quiet: bool,
    wait_timeout: int | None,
    **options: Any,
) -> None:
    """Create a service, print its id, and wait until its tasks run.

    \b
    Examples:
      pyswarm service create --name web --replicas 3 --network app nginx:1.22
      pyswarm service create --name ticker alpine sh -c 'while sleep 1; do date; done'
    """
    from pyswarm_cli.service.spec import service_spec

    created = engine.post("services", "create", body=service_spec(image, command, options, os.environ))
    _warn(created)
    click.echo(created["ID"])
    if not detach:
        from pyswarm_cli.service.waiting import wait_until_converged

        name = options["name"] or engine.get("services", created["ID"])["Spec"]["Name"]
        wait_until_converged(engine, {"ID": created["ID"], "Name": name}, ended_before=set(), quiet=quiet, timeout_ns=wait_timeout)


@service.command()
@update_options
@wait_options
@click.argument("name", metavar="SERVICE")
@pass_engine
def update(engine: EngineClient, /, name: str, detach: bool, quiet: bool, wait_timeout: int | None, **options: Any) -> None:
    """Change a service, and wait until tasks of its new form run.

    Example: pyswarm service update --image nginx:1.24 --env-add LEVEL=debug web
    """
    from pyswarm_cli.service.spec import updated_spec

    before = _change(engine, name, lambda spec: updated_spec(spec, options, os.environ))
    click.echo(name)
    _wait_for([before], engine, detach=detach, quiet=quiet, timeout_ns=wait_timeout)


@service.command()
@wait_options
@click.argument("wanted", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
@pass_engine
def scale(engine: EngineClient, wanted: tuple[str, ...], detach: bool, quiet: bool, wait_timeout: int | None) -> None:
    """Change how many tasks services have, and wait until so many run.

    Example: pyswarm service scale web=10 worker=4
    """
    from pyswarm_cli.service.spec import with_replicas

    pairs = [_parse_scale(text) for text in wanted]
    changed = []
    for name, replicas in pairs:
        changed.append(_change(engine, name, partial(with_replicas, replicas=replicas)))
        click.echo(f"{name} scaled to {replicas}")
    _wait_for(changed, engine, detach=detach, quiet=quiet, timeout_ns=wait_timeout)


@service.command()
@click.option("--wait", is_flag=True, help="Wait until the last of their tasks has ended.")
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@pass_engine
def rm(engine: EngineClient, wait: bool, services: tuple[str, ...]) -> None:
    """Remove services; their tasks end.

    Example: pyswarm service rm web
    """
    removed: set[str] = set()

    def remove(name: str) -> None:
        service_id = engine.get("services", name)["ID"]
        engine.delete("services", service_id)
        removed.add(service_id)
        click.echo(name)

    try:
        for_each(services, remove)
    finally:
        if wait and removed:
            from pyswarm_cli.service.waiting import wait_until_gone

            wait_until_gone(engine, removed, timeout_ns=None)


def _change(engine: EngineClient, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Post a changed spec, again when somebody else's change came between; returns the service, with what had ended before."""
    from pyswarm_cli.engine import EngineError
    from pyswarm_cli.service.waiting import ended_before

    for left in reversed(range(_MAX_TRIES)):
        found: dict[str, Any] = engine.get("services", name)
        ended = ended_before(engine, found["ID"])
        try:
            answer = engine.post(
                "services",
                found["ID"],
                "update",
                body=change(found["Spec"]),
                version=found["Version"]["Index"],
                registryAuthFrom="spec",
            )
        except EngineError as error:
            if left and _CHANGED_MEANWHILE in error.message:
                continue
            raise
        _warn(answer)
        break
    return {"ID": found["ID"], "Name": found["Spec"]["Name"], "ended_before": ended}


def _wait_for(changed: list[dict[str, Any]], engine: EngineClient, *, detach: bool, quiet: bool, timeout_ns: int | None) -> None:
    if detach:
        return
    from pyswarm_cli.service.waiting import wait_until_converged

    for each in changed:
        wait_until_converged(engine, each, ended_before=each["ended_before"], quiet=quiet, timeout_ns=timeout_ns)


def _parse_scale(text: str) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not name or not equals or not number.isascii() or not number.isdigit():
        raise click.UsageError(f"{text!r} is not SERVICE=REPLICAS, such as web=3")
    return name, int(number)


def _warn(answer: dict[str, Any] | None) -> None:
    for warning in (answer or {}).get("Warnings") or ():
        click.echo(f"Warning: {warning}", err=True)
