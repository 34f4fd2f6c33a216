"""`pyswarm lab …`: hosts for trying pyswarm out and for its tests, on one machine, in about a second."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, ParamSpec

import click
import msgspec
from rich.console import Console
from rich.table import Table

from pyswarm_cli.lab.host import Host
from pyswarm_cli.lab.lab import Lab, parse_daemon_command
from pyswarm_cli.lab.state import SWITCH
from pyswarm_common.errors import PyswarmError

_P = ParamSpec("_P")
_AS_IT_COMES = {"allow_interspersed_args": False}

name_option = click.option("--name", "-n", default="lab", show_default=True, metavar="LAB", help="The lab's name.")
format_option = click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table", show_default=True)


def _readable_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """Show the project's errors, and failing tools, as one message instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except PyswarmError as error:
            raise click.ClickException(error.message) from None
        except (OSError, subprocess.SubprocessError) as error:
            raise click.ClickException(str(error)) from None

    return wrapped


@click.group()
def lab() -> None:
    """Hosts made of Linux namespaces on this machine, for trying and testing. Needs root."""


@lab.command()
@name_option
@click.option("--hosts", default=3, show_default=True, metavar="N", help="How many hosts: n1 … nN.")
@click.option("--subnet", metavar="CIDR", help="The hosts' network; by default a free 10.77.N.0/24.")
@click.option("--daemon", is_flag=True, help="Also start pyswarmd in every host.")
@click.option("--daemon-command", metavar="TEXT", help="What starts pyswarmd.  [default: pyswarmd --insecure-registry SUBNET]")
@_readable_errors
def up(name: str, hosts: int, subnet: str | None, daemon: bool, daemon_command: str | None) -> None:
    """Bring up a lab: hosts n1, n2, … on one network, and the switch between them, which is also the outside."""
    command = None if daemon_command is None else parse_daemon_command(daemon_command)
    made = Lab.create(name, hosts, subnet=subnet, daemon=daemon, daemon_command=command)
    for host in made.hosts:
        click.echo(f"{host.name}\t{host.address}")
    click.echo(f"{SWITCH}\t{made.switch.address}")


@lab.command(name="exec", context_settings=_AS_IT_COMES)
@name_option
@click.option("--env", "-e", multiple=True, metavar="KEY=VALUE", help="Set in the command's environment.")
@click.option("--detach", "-d", is_flag=True, help="Let it run until the host loses its power; print where its output goes.")
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_readable_errors
def execute(name: str, env: tuple[str, ...], detach: bool, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in HOST (or in `switch`) and end as it does."""
    variables = {}
    for pair in env:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--env {pair!r} is not KEY=VALUE")
        variables[key] = value
    if command[0] == "--":
        command = command[1:]
    if not command:
        raise click.UsageError("Missing argument 'COMMAND...'")
    place = Lab.open(name).host(host)
    if detach:
        log_file = place.log_path.with_name(f"{os.path.basename(command[0])}.log")
        place.spawn(command, log_file, variables)
        click.echo(log_file)
        return
    entering = place.enter_command(command, variables)
    sys.stdout.flush()
    os.execv(entering[0], entering)


@lab.command()
@name_option
@click.argument("host")
@_readable_errors
def kill(name: str, host: str) -> None:
    """Cut HOST's power: everything in it dies at once, its disk stays."""
    Lab.open(name).host(host).power_cut()
    click.echo(host)


@lab.command()
@name_option
@click.argument("host")
@_readable_errors
def start(name: str, host: str) -> None:
    """Power HOST on again, with its disk, its address, and its pyswarmd if it had one."""
    Lab.open(name).host(host).power_on()
    click.echo(host)


@lab.command()
@name_option
@click.option("--from", "other", metavar="OTHER", help="Cut it only from this host (`switch` is one).")
@click.option("--to", "receiver", metavar="OTHER", help="Lose only what it sends to this host.")
@click.argument("host")
@_readable_errors
def cut(name: str, other: str | None, receiver: str | None, host: str) -> None:
    """Part HOST from the network: every packet is lost, silently."""
    if other is not None and receiver is not None:
        raise click.UsageError("--from cuts both ways, --to one: give one of them")
    if receiver is not None:
        Lab.open(name).host(host).cut_to(receiver)
    else:
        Lab.open(name).host(host).cut(other)
    click.echo(host)


@lab.command()
@name_option
@click.option("--from", "other", metavar="OTHER", help="Heal only the cuts from and to this host.")
@click.argument("host", required=False)
@_readable_errors
def heal(name: str, other: str | None, host: str | None) -> None:
    """Undo HOST's cuts, or all cuts when no host is given."""
    if host is None:
        if other is not None:
            raise click.UsageError("--from needs a HOST")
        Lab.open(name).heal()
    else:
        Lab.open(name).host(host).heal(other)
        click.echo(host)


@lab.command()
@name_option
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows.")
@click.option("--tail", default="all", show_default=True, metavar="N", help="Only the last N lines.")
@click.argument("host")
@_readable_errors
def logs(name: str, follow: bool, tail: str, host: str) -> None:
    """Show what pyswarmd said in HOST, over all its starts."""
    path = Lab.open(name).host(host).log_path
    if not path.exists():
        raise click.ClickException(f"no daemon was started in host {host}: there is no {path}")
    sys.stdout.flush()
    lines = "+1" if tail == "all" else tail
    os.execvp("tail", ["tail", "-n", lines, *(["-F"] if follow else []), "--", str(path)])


@lab.command()
@name_option
@click.option("--all", "every", is_flag=True, help="Every lab of this machine.")
@_readable_errors
def down(name: str, every: bool) -> None:
    """Remove every trace of a lab: processes, namespaces, links, mounts, cgroups and files."""
    for one in Lab.all() if every else [Lab(name)]:
        existed = bool(one.leftovers())
        one.down()
        click.echo(one.name if existed else f"{one.name}: there was nothing to remove")


@lab.command(name="ls")
@format_option
@_readable_errors
def list_labs(output_format: str) -> None:
    """List the labs of this machine and their hosts."""
    rows = [row for one in Lab.all() for row in _rows(one)]
    if output_format == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    table = Table(box=None, pad_edge=False)
    for column in ("LAB", "HOST", "ADDRESS", "POWER", "PID", "PYSWARMD", "CUT FROM"):
        table.add_column(column)
    for row in rows:
        cells = (row["lab"], row["host"], row["address"], row["power"], row["pid"], row["daemon_pid"], ", ".join(row["cut_from"]))
        table.add_row(*(str(cell) if cell is not None else "-" for cell in cells))
    Console(highlight=False).print(table)


def _rows(one: Lab) -> list[dict[str, Any]]:
    state = one.state()
    return [
        {
            "lab": one.name,
            "host": host.name,
            "address": host.address,
            "subnet": state.subnet,
            "power": "on" if host.is_on else "off",
            "pid": host.init.pid if host.init is not None and host.is_on else None,
            "daemon_pid": Host(one, host.name).daemon_pid,
            "cut_from": (["everything"] if host.name in state.cut_hosts else [])
            + [other for pair in state.cut_pairs if host.name in pair for other in pair if other != host.name]
            + [f"{receiver} (one way)" for sender, receiver in state.cut_ways if sender == host.name],
        }
        for host in state.hosts.values()
    ]
