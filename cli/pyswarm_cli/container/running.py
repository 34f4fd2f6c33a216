"""`pyswarm run`, `create` and `start`: containers of this node alone, which no service keeps."""

import os
from typing import Any

import click

from pyswarm_cli.container.create_options import create_options
from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.output import for_each, warn_of

pass_engine = click.make_pass_decorator(EngineClient)
_COMMAND_FOLLOWS = {"allow_interspersed_args": False, "help_option_names": ["--help"]}


class _Run(click.Command):
    """Ends with 125 for an error of ours, as docker does: the other codes are the container's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the command line apart. Raises click.exceptions.Exit."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _shown(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises click.exceptions.Exit."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            raise _shown(error) from None


def _shown(error: click.ClickException) -> click.exceptions.Exit:
    from pyswarm_cli.container.attached import FAILED, StartFailed

    error.show()
    return click.exceptions.Exit(error.code_of_run if isinstance(error, StartFailed) else FAILED)


@click.command(cls=_Run, context_settings=_COMMAND_FOLLOWS)
@click.option("--detach", "-d", is_flag=True, help="Leave it alone once it runs; print its id.")
@click.option("--detach-keys", metavar="KEYS", help="The keys that let go of it; ctrl-p,ctrl-q by default.")
@click.option("--sig-proxy", type=bool, default=True, show_default=True, metavar="BOOL", help="Pass the signals that we get on.")
@create_options
@click.argument("image", metavar="IMAGE")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARGUMENT]...")
@pass_engine
def run(
    engine: EngineClient,
    /,
    image: str,
    command: tuple[str, ...],
    detach: bool,
    detach_keys: str | None,
    sig_proxy: bool,
    **given: Any,
) -> None:
    """Make a container of an image on this node, and run it. (What the whole cluster shall run is a service.)

    Ends with the exit code of the container; with 125 when it could not be made, 126 when its command cannot be run, 127 when
    there is no such command.

    \b
    Examples:
      pyswarm run --rm -it busybox sh
      pyswarm run -d --name web --restart unless-stopped -p 8080:80 -v site:/usr/share/nginx/html nginx
    """
    from pyswarm_cli.container.attached import Attached, run_attached, start_container
    from pyswarm_cli.container.conversation import require_terminal

    if given["tty"] and not detach:
        require_terminal(has_input=given["interactive"])
    container_id = _create(engine, image, command, {**given, "detach": detach})
    if detach:
        start_container(engine, container_id)
        click.echo(container_id)
        return
    how = Attached(given["tty"], given["interactive"], given["rm"], detach_keys, sig_proxy)
    raise click.exceptions.Exit(run_attached(engine, container_id, how))


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
@click.option("--sig-proxy", type=bool, default=True, show_default=True, metavar="BOOL", help="Pass the signals that we get on.")
@click.argument("references", nargs=-1, required=True, metavar="CONTAINER...")
@pass_engine
def start(
    engine: EngineClient, attach: bool, interactive: bool, detach_keys: str | None, sig_proxy: bool, references: tuple[str, ...]
) -> None:
    """Start containers that were made, or have ended.

    Example: pyswarm start web
    """
    from pyswarm_cli.container.attached import Attached, run_attached

    if not (attach or interactive):

        def begin(reference: str) -> None:
            engine.post("containers", reference, "start")
            click.echo(reference)

        for_each(references, begin)
        return
    if len(references) > 1:
        raise click.UsageError("you cannot start and attach multiple containers at once")
    found = engine.get("containers", references[0], "json")
    sends_input = interactive and found["Config"]["OpenStdin"]
    how = Attached(found["Config"]["Tty"], sends_input, found["HostConfig"]["AutoRemove"], detach_keys, sig_proxy)
    raise click.exceptions.Exit(run_attached(engine, found["Id"], how))


def _create(engine: EngineClient, image: str, command: tuple[str, ...], given: dict[str, Any]) -> str:
    from pyswarm_cli.container.creation import container_body

    body = container_body(image, command, given)
    if given["cidfile"] and os.path.exists(given["cidfile"]):
        raise click.ClickException(
            f"container ID file found, make sure the other container isn't running or delete {given['cidfile']}"
        )
    if given["pull"] == "always":
        _pull(engine, image, quiet=given["quiet"])
    try:
        answer = _post(engine, body, given["name"])
    except EngineError as error:
        if error.status != 404 or given["pull"] != "missing":
            raise
        if not given["quiet"]:
            click.echo(f"Unable to find image '{_with_tag(image)}' locally", err=True)
        _pull(engine, image, quiet=given["quiet"])
        answer = _post(engine, body, given["name"])
    warn_of(answer)
    if given["cidfile"]:
        with open(given["cidfile"], "x") as file:
            file.write(answer["Id"])
    return str(answer["Id"])


def _post(engine: EngineClient, body: dict[str, Any], name: str) -> Any:
    return engine.post("containers", "create", body=body, name=name or None)


def _with_tag(image: str) -> str:
    from pyswarm_cli.image.names import split_reference

    return image if split_reference(image)[1] else f"{image}:latest"


def _pull(engine: EngineClient, image: str, *, quiet: bool) -> None:
    from pyswarm_cli.image.names import split_reference
    from pyswarm_cli.image.progress import follow_progress
    from pyswarm_cli.registry.docker_config import auth_header

    reference, tag = split_reference(image)
    headers = auth_header(reference)
    with engine.stream("POST", "images", "create", headers=headers, fromImage=reference, tag=tag or "latest") as response:
        follow_progress(response, quiet=quiet, on_stderr=True)
