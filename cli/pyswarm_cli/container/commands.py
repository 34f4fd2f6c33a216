"""`pyswarm container …`: the containers of this node, those of tasks among them."""

import time
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.lazy_group import LazyCommand, LazyGroup
from pyswarm_cli.output import (
    filter_option,
    for_each,
    format_option,
    inspect_each,
    inspect_format_option,
    no_trunc_option,
    parse_filters,
    print_rows,
    quiet_option,
    short_id,
    with_options,
)
from pyswarm_cli.units import format_age, format_decimal_bytes

pass_engine = click.make_pass_decorator(EngineClient)
COLUMNS = {
    "CONTAINER ID": "ID",
    "IMAGE": "Image",
    "COMMAND": "Command",
    "CREATED": "RunningFor",
    "STATUS": "Status",
    "PORTS": "Ports",
    "NAMES": "Names",
}
_COMMAND_LENGTH = 20
_references = click.argument("references", nargs=-1, required=True, metavar="CONTAINER...")


@click.group(
    cls=LazyGroup,
    lazy={
        "run": LazyCommand("pyswarm_cli.container.running:run", "Make a container and run it."),
        "create": LazyCommand("pyswarm_cli.container.running:create", "Make a container."),
        "start": LazyCommand("pyswarm_cli.container.running:start", "Start containers."),
        "exec": LazyCommand("pyswarm_cli.container.reaching:execute", "Run a command in a container or task, on any node."),
        "attach": LazyCommand("pyswarm_cli.container.reaching:attach", "Join the streams of a container or task."),
        "cp": LazyCommand("pyswarm_cli.container.copying:copy", "Copy files to or from a container or task."),
        "top": LazyCommand("pyswarm_cli.container.reaching:top", "The processes of a container or task."),
        "stats": LazyCommand("pyswarm_cli.container.stats:stats", "What containers and tasks use."),
        "logs": LazyCommand("pyswarm_cli.container.logs:logs", "What a container said."),
        "diff": LazyCommand("pyswarm_cli.container.files:diff", "What a container or task changed in its image's files."),
        "export": LazyCommand("pyswarm_cli.container.files:export", "The files of a container or task, as a tarball."),
        "update": LazyCommand("pyswarm_cli.container.updating:update", "Change the limits of containers."),
    },
)
def container() -> None:
    """The containers of this node: those of its tasks, and those made with `pyswarm run`."""


@container.command(name="ls")
@click.option("--all", "-a", "shows_all", is_flag=True, help="Show those that do not run, too.")
@click.option("--latest", "-l", is_flag=True, help="The one that was made last, whatever its state.")
@click.option("--last", "-n", type=int, metavar="N", help="The N that were made last, whatever their state.")
@with_options(filter_option, format_option, no_trunc_option, quiet_option)
@pass_engine
def list_containers(
    engine: EngineClient,
    shows_all: bool,
    latest: bool,
    last: int | None,
    filters: tuple[str, ...],
    output_format: str,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """List containers, newest first.

    Example: pyswarm ps --all --filter status=exited
    """
    found = engine.get("containers", "json", all=shows_all, limit=1 if latest else last, filters=parse_filters(filters))
    rows = [container_row(each, time.time(), whole=no_trunc) for each in found]
    print_rows(rows, COLUMNS, output_format, quiet_key="ID" if quiet else "")


def container_row(found: dict[str, Any], now_s: float, *, whole: bool) -> dict[str, str]:
    """Return a container as the list shows it."""
    command = found["Command"]
    shown = command if whole or len(command) <= _COMMAND_LENGTH else f"{command[: _COMMAND_LENGTH - 1]}…"
    return {
        "ID": short_id(found["Id"], whole=whole),
        "Image": found["Image"],
        "Command": f'"{shown}"',
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(found["Created"])),
        "RunningFor": f"{format_age(now_s - found['Created'])} ago",
        "Status": found["Status"],
        "State": found["State"],
        "Ports": ", ".join(_port_texts(found.get("Ports") or [])),
        "Names": ",".join(name.removeprefix("/") for name in found["Names"] or ()),
        "Labels": ",".join(f"{key}={value}" for key, value in (found.get("Labels") or {}).items()),
        "Networks": ",".join((found.get("NetworkSettings") or {}).get("Networks") or ()),
        "Mounts": ",".join(mount.get("Name") or mount.get("Source", "") for mount in found.get("Mounts") or ()),
        "LocalVolumes": str(sum(mount["Type"] == "volume" for mount in found.get("Mounts") or ())),
    }


def _port_texts(ports: list[dict[str, Any]]) -> list[str]:
    texts = []
    for port in sorted(ports, key=lambda each: (each["PrivatePort"], each["Type"], each.get("IP", ""))):
        inside = f"{port['PrivatePort']}/{port['Type']}"
        address = port.get("IP", "")
        outside = f"[{address}]" if ":" in address else address
        texts.append(f"{outside}:{port['PublicPort']}->{inside}" if port.get("PublicPort") else inside)
    return texts


def _on_each(engine: EngineClient, references: tuple[str, ...], action: str, **query: Any) -> None:
    def act(reference: str) -> None:
        engine.post("containers", reference, action, **query)
        click.echo(reference)

    for_each(references, act)


@container.command()
@click.option("--signal", "-s", "signal_name", metavar="SIGNAL", help="What asks it to stop, in place of its own.")
@click.option("--time", "-t", "grace_s", type=int, metavar="SECONDS", help="From that to SIGKILL.")
@_references
@pass_engine
def stop(engine: EngineClient, signal_name: str | None, grace_s: int | None, references: tuple[str, ...]) -> None:
    """Stop containers.

    Example: pyswarm stop --time 30 db
    """
    _on_each(engine, references, "stop", signal=signal_name, t=grace_s)


@container.command()
@click.option("--signal", "-s", "signal_name", metavar="SIGNAL", help="What asks it to stop, in place of its own.")
@click.option("--time", "-t", "grace_s", type=int, metavar="SECONDS", help="From that to SIGKILL.")
@_references
@pass_engine
def restart(engine: EngineClient, signal_name: str | None, grace_s: int | None, references: tuple[str, ...]) -> None:
    """Stop containers and start them again.

    Example: pyswarm restart web
    """
    _on_each(engine, references, "restart", signal=signal_name, t=grace_s)


@container.command()
@click.option("--signal", "-s", "signal_name", default="KILL", show_default=True, metavar="SIGNAL", help="Which signal.")
@_references
@pass_engine
def kill(engine: EngineClient, signal_name: str, references: tuple[str, ...]) -> None:
    """Send a signal to containers.

    Example: pyswarm kill --signal HUP web
    """
    _on_each(engine, references, "kill", signal=signal_name)


@container.command()
@_references
@pass_engine
def pause(engine: EngineClient, references: tuple[str, ...]) -> None:
    """Freeze all processes of containers.

    Example: pyswarm pause batch
    """
    _on_each(engine, references, "pause")


@container.command()
@_references
@pass_engine
def unpause(engine: EngineClient, references: tuple[str, ...]) -> None:
    """Let frozen containers go on.

    Example: pyswarm unpause batch
    """
    _on_each(engine, references, "unpause")


@container.command()
@click.option("--force", "-f", is_flag=True, help="Kill it if it runs.")
@click.option("--volumes", "-v", is_flag=True, help="Remove its anonymous volumes, too.")
@_references
@pass_engine
def rm(engine: EngineClient, force: bool, volumes: bool, references: tuple[str, ...]) -> None:
    """Remove containers.

    Example: pyswarm rm --force --volumes old
    """

    def remove(reference: str) -> None:
        engine.delete("containers", reference, force=force, v=volumes)
        click.echo(reference)

    for_each(references, remove)


@container.command()
@click.argument("reference", metavar="CONTAINER")
@click.argument("name", metavar="NAME")
@pass_engine
def rename(engine: EngineClient, reference: str, name: str) -> None:
    """Give a container another name.

    Example: pyswarm rename web web-old
    """
    engine.post("containers", reference, "rename", name=name)


@container.command()
@_references
@pass_engine
def wait(engine: EngineClient, references: tuple[str, ...]) -> None:
    """Wait until containers have ended; print their exit codes.

    Example: pyswarm wait job
    """
    import json

    def await_end(reference: str) -> None:
        with engine.stream("POST", "containers", reference, "wait") as response:
            click.echo(json.loads(response.read())["StatusCode"])

    for_each(references, await_end)


@container.command()
@inspect_format_option
@_references
@pass_engine
def inspect(engine: EngineClient, output_format: str, references: tuple[str, ...]) -> None:
    """Show all about containers.

    Example: pyswarm container inspect web
    """
    inspect_each(references, lambda reference: engine.get("containers", reference, "json"), output_format)


@container.command()
@click.argument("reference", metavar="CONTAINER")
@click.argument("port", required=False, metavar="[PORT[/PROTO]]")
@pass_engine
def port(engine: EngineClient, reference: str, port: str | None) -> None:
    """Show where the ports of a container are published.

    Example: pyswarm port web 80
    """
    published = engine.get("containers", reference, "json")["NetworkSettings"]["Ports"] or {}
    wanted = None if port is None else port if "/" in port else f"{port}/tcp"
    if wanted is not None and not published.get(wanted):
        raise click.ClickException(f"No public port '{port}' published for {reference}")
    for inside, places in published.items():
        for place in places or () if wanted in (None, inside) else ():
            address = f"[{place['HostIp']}]" if ":" in place["HostIp"] else place["HostIp"]
            outside = f"{address}:{place['HostPort']}"
            click.echo(outside if wanted else f"{inside} -> {outside}")


@container.command()
@click.option("--force", "-f", is_flag=True, help="Do not ask.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those that match: until=24h, label=x (repeatable)."
)
@pass_engine
def prune(engine: EngineClient, force: bool, filters: tuple[str, ...]) -> None:
    """Remove all containers that do not run, but for those of tasks.

    Example: pyswarm container prune --force --filter until=24h
    """
    if not force:
        click.confirm("This will remove all stopped containers. Are you sure you want to continue?", abort=True)
    answer = engine.post("containers", "prune", filters=parse_filters(filters))
    if answer["ContainersDeleted"]:
        click.echo("Deleted Containers:\n" + "\n".join(answer["ContainersDeleted"]) + "\n")
    click.echo(f"Total reclaimed space: {format_decimal_bytes(answer['SpaceReclaimed'])}")
