"""`pyswarm run`, `create` and `start`: containers of this node alone, which no service keeps."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import click

from pyswarm_cli.container.create_options import create_options
from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.output import for_each, warn_of

pass_engine = click.make_pass_decorator(EngineClient)
_COMMAND_FOLLOWS = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": ["--help"]}
_START_FAILED = 125
_FORWARDED_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@click.command(context_settings=_COMMAND_FOLLOWS)
@click.option("--detach", "-d", is_flag=True, help="Leave it alone once it runs; print its id.")
@click.option("--detach-keys", metavar="KEYS", help="The keys that let go of it; ctrl-p,ctrl-q by default.")
@create_options
@click.argument("image", metavar="IMAGE")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARGUMENT]...")
@pass_engine
def run(engine: EngineClient, /, image: str, command: tuple[str, ...], detach: bool, detach_keys: str | None, **given: Any) -> None:
    """Make a container of an image on this node, and run it. (What the whole cluster shall run is a service.)

    Ends with the exit code of the container, or 125 when it could not be made.

    \b
    Examples:
      pyswarm run --rm -it busybox sh
      pyswarm run -d --name web --restart unless-stopped -p 8080:80 -v site:/usr/share/nginx/html nginx
    """
    from pyswarm_cli.container.conversation import require_terminal

    if given["tty"] and not detach:
        require_terminal(has_input=given["interactive"])
    try:
        container_id = _create(engine, image, command, {**given, "detach": detach})
        if detach:
            engine.post("containers", container_id, "start")
            click.echo(container_id)
            return
        exit_code = _run_attached(engine, container_id, given, detach_keys)
    except EngineError as error:
        error.show()
        raise click.exceptions.Exit(_START_FAILED) from None
    raise click.exceptions.Exit(exit_code)


@click.command(context_settings=_COMMAND_FOLLOWS)
@create_options
@click.argument("image", metavar="IMAGE")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARGUMENT]...")
@pass_engine
def create(engine: EngineClient, /, image: str, command: tuple[str, ...], **given: Any) -> None:
    """Make a container of an image on this node, without starting it; prints its id.

    Example: pyswarm create --name job -v data:/data busybox sh -c 'date >> /data/log'
    """
    click.echo(_create(engine, image, command, given))


@click.command()
@click.option("--attach", "-a", is_flag=True, help="Join its output, and end with its exit code.")
@click.option("--interactive", "-i", is_flag=True, help="Give it our standard input.")
@click.option("--detach-keys", metavar="KEYS", help="The keys that let go of it; ctrl-p,ctrl-q by default.")
@click.argument("references", nargs=-1, required=True, metavar="CONTAINER...")
@pass_engine
def start(engine: EngineClient, attach: bool, interactive: bool, detach_keys: str | None, references: tuple[str, ...]) -> None:
    """Start containers that were made, or have ended.

    Example: pyswarm start web
    """
    if not (attach or interactive):

        def begin(reference: str) -> None:
            engine.post("containers", reference, "start")
            click.echo(reference)

        for_each(references, begin)
        return
    if len(references) > 1:
        raise click.UsageError("you cannot start and attach multiple containers at once")
    found = engine.get("containers", references[0], "json")
    given = {"tty": found["Config"]["Tty"], "interactive": interactive, "rm": False}
    raise click.exceptions.Exit(_run_attached(engine, found["Id"], given, detach_keys))


def _create(engine: EngineClient, image: str, command: tuple[str, ...], given: dict[str, Any]) -> str:
    from pyswarm_cli.container.creation import container_body

    body = container_body(image, command, given)
    if given["pull"] == "always":
        _pull(engine, image)
    try:
        answer = _post(engine, body, given["name"])
    except EngineError as error:
        if error.status != 404 or given["pull"] != "missing":
            raise
        click.echo(f"Unable to find image '{image}' locally", err=True)
        _pull(engine, image)
        answer = _post(engine, body, given["name"])
    warn_of(answer)
    return str(answer["Id"])


def _post(engine: EngineClient, body: dict[str, Any], name: str) -> Any:
    return engine.post("containers", "create", body=body, name=name or None)


def _pull(engine: EngineClient, image: str) -> None:
    from pyswarm_cli.image.names import split_reference
    from pyswarm_cli.image.progress import follow_progress

    reference, tag = split_reference(image)
    with engine.stream("POST", "images", "create", fromImage=reference, tag=tag or "latest") as response:
        follow_progress(response, quiet=True)


def _run_attached(engine: EngineClient, container_id: str, given: dict[str, Any], detach_keys: str | None) -> int:
    """Start the container with our terminal, or pipes, joined to it; return its exit code (0 when it was let go of)."""
    from pyswarm_cli.container.conversation import converse

    query = {"stream": True, "stdin": given["interactive"], "stdout": True, "stderr": True, "detachKeys": detach_keys}
    ending = _Ending(engine.host, container_id, "removed" if given["rm"] else "next-exit")
    with engine.take_over("containers", container_id, "attach", **query) as stream:
        ending.wait_asked()
        engine.post("containers", container_id, "start")
        with _forwarded_signals(engine, container_id, active=not given["tty"]):
            converse(
                stream,
                has_terminal=given["tty"],
                sends_input=given["interactive"],
                resize=lambda rows, columns: engine.post("containers", container_id, "resize", h=rows, w=columns),
            )
    if not given["rm"] and engine.get("containers", container_id, "json")["State"]["Running"]:
        return 0
    return ending.exit_code()


class _Ending:
    """Asks for the container's end before it begins, lest a short one is missed."""

    def __init__(self, host: str, container_id: str, condition: str) -> None:
        self._asked = threading.Event()
        self._answer: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._wait, args=(host, container_id, condition), daemon=True)
        self._thread.start()

    def wait_asked(self) -> None:
        """Return once the daemon has the question."""
        self._asked.wait()

    def exit_code(self) -> int:
        """Return the exit code, once the container has ended. Raises click.ClickException."""
        self._thread.join()
        problem = (self._answer.get("Error") or {}).get("Message")
        if problem:
            raise click.ClickException(problem)
        return int(self._answer.get("StatusCode", 1))

    def _wait(self, host: str, container_id: str, condition: str) -> None:
        import json

        engine = EngineClient(host)
        try:
            with engine.stream("POST", "containers", container_id, "wait", condition=condition) as response:
                self._asked.set()
                self._answer = json.loads(response.read() or b"{}")
        except click.ClickException as error:
            self._answer = {"Error": {"Message": error.message}}
        finally:
            self._asked.set()


class _forwarded_signals:  # noqa: N801  used as a function is
    """Gives the signals that we get to the container while the block runs."""

    def __init__(self, engine: EngineClient, container_id: str, *, active: bool) -> None:
        self._engine = engine
        self._container_id = container_id
        self._signals = _FORWARDED_SIGNALS if active else ()
        self._before: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> None:
        for each in self._signals:
            self._before[each] = signal.signal(each, self._forward)

    def __exit__(self, *_: object) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)

    def _forward(self, number: int, _frame: object) -> None:
        engine = EngineClient(self._engine.host)  # ours may be in the middle of a request
        try:
            engine.post("containers", self._container_id, "kill", signal=str(number))
        except click.ClickException as error:
            click.echo(error.message, err=True)
        finally:
            engine.close()
