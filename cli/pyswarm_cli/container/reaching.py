"""`pyswarm exec`, `attach`, `top`: into containers of this node, and of tasks on any node."""

from typing import Any

import click

from pyswarm_cli.container.target import Target, find_target
from pyswarm_cli.engine import EngineClient

pass_engine = click.make_pass_decorator(EngineClient)
_COMMAND_FOLLOWS = {"allow_interspersed_args": False}
_detach_keys_option = click.option(
    "--detach-keys", metavar="KEYS", help="The keys that let go of it, such as ctrl-x,x; ctrl-p,ctrl-q by default."
)


@click.command(name="exec", context_settings=_COMMAND_FOLLOWS)
@click.option("--interactive", "-i", is_flag=True, help="Give it our standard input.")
@click.option("--tty", "-t", is_flag=True, help="Give it a terminal.")
@click.option("--detach", "-d", is_flag=True, help="Start it and leave it alone.")
@click.option("--env", "-e", "env", multiple=True, metavar="NAME=VALUE", help="A variable for it (may be repeated).")
@click.option("--user", "-u", default="", metavar="USER[:GROUP]", help="Who it runs as.")
@click.option("--workdir", "-w", default="", metavar="PATH", help="Where it runs.")
@click.option("--privileged", is_flag=True, help="Give it all capabilities.")
@_detach_keys_option
@click.argument("reference", metavar="CONTAINER|TASK")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_engine
def execute(
    engine: EngineClient,
    interactive: bool,
    tty: bool,
    detach: bool,
    env: tuple[str, ...],
    user: str,
    workdir: str,
    privileged: bool,
    detach_keys: str | None,
    reference: str,
    command: tuple[str, ...],
) -> None:
    """Run a command in a running container: of this node, or of a task on any node.

    \b
    Examples:
      pyswarm exec -it web.2 sh
      pyswarm exec web.1 nginx -s reload
      pyswarm exec --user 0 --env LANG=C db env
    """
    from pyswarm_cli.container.conversation import converse, detach_filter, require_terminal, terminal_size

    if tty and not detach:
        require_terminal(has_input=interactive)
    keys = detach_filter(detach_keys) if tty else None
    target = find_target(engine, reference)
    asked: dict[str, Any] = {
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Cmd": list(command),
        "Env": list(env),
        "User": user,
        "WorkingDir": workdir,
        "Privileged": privileged,
    }
    if detach_keys:
        asked["DetachKeys"] = detach_keys
    execution = target.node_path("exec", engine.post(*target.path("exec"), body=asked)["Id"])
    if detach:
        engine.post(*execution, "start", body={"Detach": True, "Tty": tty})
        return
    start: dict[str, Any] = {"Detach": False, "Tty": tty}
    if tty:
        start["ConsoleSize"] = list(terminal_size())
    with engine.take_over(*execution, "start", body=start) as stream:
        converse(
            stream,
            has_terminal=tty,
            sends_input=interactive,
            resize=lambda rows, columns: engine.post(*execution, "resize", h=rows, w=columns),
            keys=keys,
        )
    if keys is not None and keys.is_detached:
        return
    found = engine.get(*execution, "json")
    raise click.exceptions.Exit(found["ExitCode"] or 0)


@click.command()
@click.option("--no-stdin", is_flag=True, help="Give it none of our standard input.")
@click.option("--sig-proxy", type=bool, default=True, show_default=True, metavar="BOOL", help="Pass the signals that we get on.")
@_detach_keys_option
@click.argument("reference", metavar="CONTAINER|TASK")
@pass_engine
def attach(engine: EngineClient, no_stdin: bool, sig_proxy: bool, detach_keys: str | None, reference: str) -> None:
    """Join the streams of a running container's first process: of this node, or of a task on any node.

    What it said before is in its log (pyswarm logs). Ends with its exit code, or with 0 when the detach keys were typed.

    Example: pyswarm attach console.1
    """
    from pyswarm_cli.container.conversation import converse, detach_filter, require_terminal
    from pyswarm_cli.container.signals import forwarded_signals

    target = find_target(engine, reference)
    found = engine.get(*target.path("json"))
    if not found["State"]["Running"]:
        raise click.ClickException("You cannot attach to a stopped container, start it first")
    sends_input = not no_stdin and bool(found["Config"]["OpenStdin"])
    has_terminal = bool(found["Config"]["Tty"])
    keys = None
    if has_terminal:
        require_terminal(has_input=sends_input)
        keys = detach_filter(detach_keys)
    query = {"stream": True, "stdin": sends_input, "stdout": True, "stderr": True, "detachKeys": detach_keys}
    with engine.take_over(*target.path("attach"), **query) as stream, forwarded_signals(engine, target.path(), active=sig_proxy):
        if has_terminal:
            _redraw(engine, target)
        converse(
            stream,
            has_terminal=has_terminal,
            sends_input=sends_input,
            resize=lambda rows, columns: engine.post(*target.path("resize"), h=rows, w=columns),
            keys=keys,
        )
        is_let_go = keys is not None and keys.is_detached
        if sends_input and not (has_terminal or found["Config"]["StdinOnce"]):  # then the end of our input ends the stream, too
            is_let_go = engine.get(*target.path("json"))["State"]["Running"]
        raise click.exceptions.Exit(0 if is_let_go else _exit_code(engine, target))


def _redraw(engine: EngineClient, target: Target) -> None:
    """Give the terminal another size for a moment: what runs in it draws itself again when it gets its right one."""
    from pyswarm_cli.container.conversation import terminal_size

    rows, columns = terminal_size()
    engine.post(*target.path("resize"), h=rows + 1, w=columns + 1)


def _exit_code(engine: EngineClient, target: Target) -> int:
    """Wait until the container has ended; its streams have."""
    from pyswarm_cli.container.attached import read_ending

    with engine.stream("POST", *target.path("wait")) as response:
        return int(read_ending(response.read(), engine.host)["StatusCode"])


@click.command(context_settings=_COMMAND_FOLLOWS)
@click.argument("reference", metavar="CONTAINER|TASK")
@click.argument("ps_options", nargs=-1, type=click.UNPROCESSED)
@pass_engine
def top(engine: EngineClient, reference: str, ps_options: tuple[str, ...]) -> None:
    """Show the processes of a container, with the options of ps.

    Example: pyswarm top web.1 -o pid,rss,args
    """
    from pyswarm_cli.output import print_table

    target = find_target(engine, reference)
    found = engine.get(*target.path("top"), ps_args=" ".join(ps_options) or None)
    print_table(found["Titles"], found["Processes"] or [])
