"""`pyswarm swarm unlock` and `unlock-key`: managers that keep their keys under one that only the operators have (autolock)."""

import sys
from typing import Any

import click

from pyswarm_cli.engine import EngineClient

pass_engine = click.make_pass_decorator(EngineClient)

autolock_at_init = click.option(
    "--autolock", is_flag=True, default=None, help="Lock managers: one that was stopped starts only with the unlock key."
)
autolock_at_update = click.option(
    "--autolock",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=None,
    metavar="[=true|false]",
    help="Lock managers: one that was stopped starts only with the unlock key.",
)


@click.command()
@pass_engine
def unlock(engine: EngineClient) -> None:
    """Unlock this manager; asks for the unlock key, or reads it from standard input.

    Example: pyswarm swarm unlock
    """
    state = engine.get("info")["Swarm"]["LocalNodeState"]
    if state == "inactive":
        raise click.ClickException("This node is not part of a swarm")
    if state != "locked":
        raise click.ClickException("swarm is not locked")
    engine.post("swarm", "unlock", body={"UnlockKey": _read_key()})


def _read_key() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Enter unlock key", hide_input=True)).strip()
    return sys.stdin.readline().strip()


@click.command(name="unlock-key")
@click.option("--rotate", is_flag=True, help="Replace the key. Keep the former one for managers that are down now.")
@click.option("--quiet", "-q", is_flag=True, help="Print the key only.")
@pass_engine
def unlock_key(engine: EngineClient, rotate: bool, quiet: bool) -> None:
    """Show the key that unlocks a manager after it was stopped.

    Example: pyswarm swarm unlock-key --rotate
    """
    if rotate:
        state = engine.get("swarm")
        if not is_autolocked(state["Spec"]):
            raise click.ClickException("cannot rotate because autolock is not turned on")
        index = state["Version"]["Index"]
        engine.post("swarm", "update", body=state["Spec"], version=index, rotateManagerUnlockKey="true")
        if not quiet:
            click.echo("Successfully rotated manager unlock key.\n")
    key = present_key(engine)
    if not key:
        raise click.ClickException("no unlock key is set: turn autolock on with `pyswarm swarm update --autolock`")
    if quiet:
        click.echo(key)
    else:
        print_unlock_advice(key)


def is_autolocked(spec: dict[str, Any]) -> bool:
    """Whether managers lock their keys, as a cluster's spec says."""
    return bool((spec.get("EncryptionConfig") or {}).get("AutoLockManagers"))


def present_key(engine: EngineClient) -> str:
    """Return the cluster's unlock key, "" without autolock."""
    return str(engine.get("swarm", "unlockkey")["UnlockKey"])


def print_unlock_advice(key: str) -> None:
    """Say what the key is for and how to keep it."""
    click.echo(
        "To unlock a swarm manager after it restarts, run the `pyswarm swarm unlock`\n"
        f"command and provide the following key:\n\n    {key}\n\n"
        "Remember to store this key in a password manager, since without it you\n"
        "will not be able to restart the manager."
    )
