"""`pyswarm swarm …`: begin a cluster, join it, its join tokens and settings, leave it."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parsed
from pyswarm_cli.lazy_group import LazyGroup
from pyswarm_cli.output import with_options
from pyswarm_cli.units import parse_duration_ns

pass_engine = click.make_pass_decorator(EngineClient)

_address_options = with_options(
    click.option("--advertise-addr", default="", metavar="IP|INTERFACE[:PORT]", help="The address that other nodes reach this by."),
    click.option("--listen-addr", default="0.0.0.0:2377", show_default=True, metavar="IP[:PORT]", help="Where managers listen."),
    click.option("--data-path-addr", default="", metavar="IP|INTERFACE", help="The address for the containers' traffic (VXLAN)."),
    click.option("--availability", type=click.Choice(["active", "pause", "drain"]), default="active", show_default=True),
)
_settings_options = with_options(
    click.option("--task-history-limit", type=click.IntRange(0), help="How many ended tasks of a slot are kept.  [default: 5]"),
    click.option(
        "--dispatcher-heartbeat", callback=parsed(parse_duration_ns), metavar="DURATION", help="How often nodes say that they live."
    ),
)


@click.group(cls=LazyGroup)
def swarm() -> None:
    """Begin a cluster, join it, leave it."""


@swarm.command()
@_address_options
@click.option("--data-path-port", type=click.IntRange(1024, 49151), default=4789, show_default=True, help="UDP port for VXLAN.")
@click.option("--force-new-cluster", is_flag=True, help="Begin anew from this node's state, when the other managers are lost.")
@_settings_options
@pass_engine
def init(engine: EngineClient, /, **options: Any) -> None:
    """Begin a cluster, with this node as its first manager.

    Example: pyswarm swarm init --advertise-addr 192.168.99.1
    """
    request = {
        "ListenAddr": options["listen_addr"],
        "AdvertiseAddr": options["advertise_addr"],
        "DataPathAddr": options["data_path_addr"],
        "DataPathPort": options["data_path_port"],
        "ForceNewCluster": options["force_new_cluster"],
        "Availability": options["availability"],
        "Spec": changed_settings({}, options),
    }
    node_id = engine.post("swarm", "init", body=request)
    click.echo(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    _print_join_command(engine, "worker", engine.get("swarm")["JoinTokens"]["Worker"])
    click.echo("To add a manager to this swarm, run `pyswarm swarm join-token manager` and follow the instructions.")


@swarm.command()
@click.option("--token", required=True, metavar="TOKEN", help="What `pyswarm swarm join-token` shows on a manager.")
@_address_options
@click.argument("manager", metavar="HOST:PORT")
@pass_engine
def join(engine: EngineClient, /, token: str, manager: str, **options: Any) -> None:
    """Join the cluster of the manager at HOST:PORT (port 2377 when not given).

    Example: pyswarm swarm join --token SWMTKN-1-… 192.168.99.1:2377
    """
    request = {
        "RemoteAddrs": [manager],
        "JoinToken": token,
        "ListenAddr": options["listen_addr"],
        "AdvertiseAddr": options["advertise_addr"],
        "DataPathAddr": options["data_path_addr"],
        "Availability": options["availability"],
    }
    engine.post("swarm", "join", body=request)
    is_manager = engine.get("info")["Swarm"]["ControlAvailable"]
    click.echo(f"This node joined a swarm as a {'manager' if is_manager else 'worker'}.")


@swarm.command(name="join-token")
@click.option("--rotate", is_flag=True, help="Replace the token: the old one joins nobody any more.")
@click.option("--quiet", "-q", is_flag=True, help="Print the token only.")
@click.argument("role", type=click.Choice(["worker", "manager"]))
@pass_engine
def join_token(engine: EngineClient, rotate: bool, quiet: bool, role: str) -> None:
    """Show the command with which a node joins as a worker or a manager.

    Example: pyswarm swarm join-token worker
    """
    state = engine.get("swarm")
    if rotate:
        which = {f"rotate{role.capitalize()}Token": "true"}
        engine.post("swarm", "update", body=state["Spec"], version=state["Version"]["Index"], **which)
        state = engine.get("swarm")
        if not quiet:
            click.echo(f"Successfully rotated {role} join token.\n")
    token = state["JoinTokens"][role.capitalize()]
    if quiet:
        click.echo(token)
    else:
        _print_join_command(engine, role, token)


@swarm.command()
@_settings_options
@pass_engine
def update(engine: EngineClient, /, **options: Any) -> None:
    """Change the cluster's settings.

    Example: pyswarm swarm update --task-history-limit 3
    """
    if all(value is None for value in options.values()):
        raise click.UsageError("say what to change, such as --task-history-limit 3")
    state = engine.get("swarm")
    engine.post("swarm", "update", body=changed_settings(state["Spec"], options), version=state["Version"]["Index"])
    click.echo("Swarm updated.")


@swarm.command()
@click.option("--force", "-f", is_flag=True, help="Leave although this is a manager; the last one takes the cluster with it.")
@pass_engine
def leave(engine: EngineClient, force: bool) -> None:
    """Leave the cluster: this node's tasks end.

    Example: pyswarm swarm leave
    """
    engine.post("swarm", "leave", force=force)
    click.echo("Node left the swarm.")


def changed_settings(spec: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster spec with the settings that were given."""
    changed = dict(spec)
    if options["task_history_limit"] is not None:
        changed["Orchestration"] = {**spec.get("Orchestration", {}), "TaskHistoryRetentionLimit": options["task_history_limit"]}
    if options["dispatcher_heartbeat"] is not None:
        changed["Dispatcher"] = {**spec.get("Dispatcher", {}), "HeartbeatPeriod": options["dispatcher_heartbeat"]}
    return changed


def _print_join_command(engine: EngineClient, role: str, token: str) -> None:
    managers = engine.get("info")["Swarm"].get("RemoteManagers") or []
    address = managers[0]["Addr"] if managers else "HOST:2377"
    click.echo(f"To add a {role} to this swarm, run the following command:\n")
    click.echo(f"    pyswarm swarm join --token {token} {address}\n")
