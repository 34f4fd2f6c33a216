"""`pyswarm swarm …`: begin a cluster, join it, its join tokens and settings, leave it."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parsed
from pyswarm_cli.lazy_group import LazyCommand, LazyGroup
from pyswarm_cli.output import with_options
from pyswarm_cli.swarm.locking import autolock_at_init, autolock_at_update, is_autolocked, present_key, print_unlock_advice
from pyswarm_cli.swarm.progress import showing_progress
from pyswarm_cli.units import parse_duration_ns

pass_engine = click.make_pass_decorator(EngineClient)

_address_options = with_options(
    click.option("--advertise-addr", default="", metavar="IP|INTERFACE[:PORT]", help="The address that other nodes reach this by."),
    click.option("--listen-addr", default="0.0.0.0:2377", show_default=True, metavar="IP[:PORT]", help="Where managers listen."),
    click.option("--data-path-addr", default="", metavar="IP|INTERFACE", help="The address for the containers' traffic (VXLAN)."),
    click.option("--availability", type=click.Choice(["active", "pause", "drain"]), default="active", show_default=True),
)
_settings_options = with_options(
    click.option(
        "--cert-expiry", callback=parsed(parse_duration_ns), metavar="DURATION", help="How long certificates last.  [default: 90 d]"
    ),
    click.option("--task-history-limit", type=click.IntRange(0), help="How many ended tasks of a slot are kept.  [default: 5]"),
    click.option(
        "--dispatcher-heartbeat", callback=parsed(parse_duration_ns), metavar="DURATION", help="How often nodes say that they live."
    ),
)


@click.group(
    cls=LazyGroup,
    lazy={
        "ca": LazyCommand("pyswarm_cli.swarm.root_ca:ca", "Show the root CA, or change it while everything runs."),
        "backup": LazyCommand("pyswarm_cli.swarm.recovery:backup", "Write the state of the cluster to a file."),
        "unlock": LazyCommand("pyswarm_cli.swarm.locking:unlock", "Unlock this manager."),
        "unlock-key": LazyCommand("pyswarm_cli.swarm.locking:unlock_key", "Show the key that unlocks managers."),
        "restore": LazyCommand("pyswarm_cli.swarm.recovery:restore", "Begin the cluster in a backup anew."),
    },
)
def swarm() -> None:
    """Begin a cluster, join it, leave it."""


@swarm.command()
@_address_options
@click.option("--data-path-port", type=click.IntRange(1024, 49151), default=4789, show_default=True, help="UDP port for VXLAN.")
@click.option("--force-new-cluster", is_flag=True, help="Go on alone with this manager's data: the others are lost.")
@autolock_at_init
@_settings_options
@pass_engine
def init(engine: EngineClient, /, **options: Any) -> None:
    """Begin a cluster, with this node as its first manager.

    When more than half of the managers are lost for good, --force-new-cluster on one that is left makes it the only one: services
    and tasks stay, the other managers become workers. Do it on one manager alone.

    Example: pyswarm swarm init --advertise-addr 192.168.99.1
    """
    request = {
        "ListenAddr": options["listen_addr"],
        "AdvertiseAddr": options["advertise_addr"],
        "DataPathAddr": options["data_path_addr"],
        "DataPathPort": options["data_path_port"],
        "ForceNewCluster": options["force_new_cluster"],
        "Availability": options["availability"],
        "AutoLockManagers": bool(options["autolock"]),
        "Spec": changed_settings({}, options),
    }
    if options["force_new_cluster"]:
        click.echo("Going on with this manager alone …")
    node_id = engine.post("swarm", "init", body=request)
    click.echo(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    if options["force_new_cluster"]:
        click.echo("The other managers are workers now. Make managers of them again with `pyswarm node promote NODE`.\n")
    _print_join_command(engine, "worker", engine.get("swarm")["JoinTokens"]["Worker"])
    click.echo("To add a manager to this swarm, run `pyswarm swarm join-token manager` and follow the instructions.")
    if options["autolock"]:
        click.echo()
        print_unlock_advice(present_key(engine))


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
    with showing_progress(engine):
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
@autolock_at_update
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
    if options["autolock"] and not is_autolocked(state["Spec"]):
        print_unlock_advice(present_key(engine))


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
    if options["cert_expiry"] is not None:
        changed["CAConfig"] = {**spec.get("CAConfig", {}), "NodeCertExpiry": options["cert_expiry"]}
    if options["autolock"] is not None:
        changed["EncryptionConfig"] = {**spec.get("EncryptionConfig", {}), "AutoLockManagers": options["autolock"]}
    return changed


def _print_join_command(engine: EngineClient, role: str, token: str) -> None:
    managers = engine.get("info")["Swarm"].get("RemoteManagers") or []
    address = managers[0]["Addr"] if managers else "HOST:2377"
    click.echo(f"To add a {role} to this swarm, run the following command:\n")
    click.echo(f"    pyswarm swarm join --token {token} {address}\n")
