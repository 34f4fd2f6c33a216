"""The commands that bring images to this node or take them away: pull, push, load, save, import."""

import os
import sys
from pathlib import Path
from typing import IO, Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.image.names import split_reference

pass_engine = click.make_pass_decorator(EngineClient)
_COPY_BYTES = 1 << 18


@click.command()
@click.option("--quiet", "-q", is_flag=True, help="Print the image's name only.")
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@pass_engine
def pull(engine: EngineClient, quiet: bool, name: str) -> None:
    """Pull an image from a registry to this node.

    Credentials are those of `pyswarm login`.

    Example: pyswarm image pull registry.example.com:5000/team/web:1.2
    """
    from pyswarm_cli.image.progress import follow_progress
    from pyswarm_cli.registry.docker_config import auth_header

    reference, tag = split_reference(name)
    if not quiet and not tag:
        click.echo("Using default tag: latest")
    headers = auth_header(reference)
    with engine.stream("POST", "images", "create", headers=headers, fromImage=reference, tag=tag or "latest") as response:
        follow_progress(response, quiet=quiet)
    separator = "@" if tag.startswith("sha256:") else ":"
    click.echo(f"{reference}{separator}{tag or 'latest'}")


@click.command()
@click.option("--all-tags", "-a", is_flag=True, help="Push all tags of the repository.")
@click.option("--quiet", "-q", is_flag=True, help="Print the image's name only.")
@click.argument("name", metavar="NAME[:TAG]")
@pass_engine
def push(engine: EngineClient, all_tags: bool, quiet: bool, name: str) -> None:
    """Push an image to the registry that its name says.

    Layers that the registry has are not sent again. Credentials are those of `pyswarm login`.

    \b
    Example: pyswarm image tag web:1.2 registry.example.com:5000/team/web:1.2
             pyswarm image push registry.example.com:5000/team/web:1.2
    """
    from pyswarm_cli.image.progress import follow_progress
    from pyswarm_cli.registry.docker_config import auth_header

    reference, tag = split_reference(name)
    if all_tags and tag:
        raise click.UsageError("tag can't be used with --all-tags/-a")
    if not (all_tags or tag or quiet):
        click.echo("Using default tag: latest")
    wanted = None if all_tags else tag or "latest"
    with engine.stream("POST", "images", reference, "push", headers=auth_header(reference), tag=wanted) as response:
        follow_progress(response, quiet=quiet)
    if quiet:
        click.echo(reference if all_tags else f"{reference}:{wanted}")


@click.command()
@click.option("--input", "-i", "archive", type=click.File("rb"), metavar="FILE", help="The tarball; by default standard input.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing.")
@pass_engine
def load(engine: EngineClient, archive: IO[bytes] | None, quiet: bool) -> None:
    """Load images from a tarball made by `save`, by `docker save`, or in the OCI layout.

    Example: pyswarm image load --input web.tar
    """
    from pyswarm_cli.image.progress import json_objects

    source = _standard_input() if archive is None else archive
    with engine.stream("POST", "images", "load", body=source) as response:
        for message in json_objects(response):
            if "error" in message:
                raise click.ClickException(message["error"])
            if not quiet:
                click.echo(message.get("stream", ""), nl=False)


@click.command()
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="The file; by default standard output.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@pass_engine
def save(engine: EngineClient, output: Path | None, images: tuple[str, ...]) -> None:
    """Save images to a tarball that `load`, `docker load` and others read.

    A name without a tag means all tags of its repository. Layers that images share are in it once.

    \b
    Example: pyswarm image save --output web.tar web:1.2 db:15
             pyswarm image save web:1.2 | ssh other-node pyswarm image load
    """
    if output is None and sys.stdout.isatty():
        raise click.ClickException("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if output is not None and output.exists() and not output.is_file():
        raise click.ClickException(f'invalid output path: "{output}" must be a regular file')
    with engine.stream("GET", "images", "get", names=",".join(images)) as response:
        if output is None:
            while piece := response.read(_COPY_BYTES):
                sys.stdout.buffer.write(piece)
            return
        target = output.resolve()
        temporary = target.with_name(f".{target.name}.{os.getpid()}")  # half a tarball must not be taken for a whole one
        try:
            with temporary.open("wb") as file:
                while piece := response.read(_COPY_BYTES):
                    file.write(piece)
            temporary.replace(target)
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)


@click.command(name="import")
@click.option("--change", "-c", "changes", multiple=True, metavar="INSTRUCTION", help="Such as 'CMD [\"nginx\"]' (repeatable).")
@click.option("--message", "-m", default="", metavar="TEXT", help="A comment, which `history` shows.")
@click.argument("archive", type=click.File("rb"), metavar="FILE|-")
@click.argument("name", required=False, default="", metavar="[REPOSITORY[:TAG]]")
@pass_engine
def import_files(engine: EngineClient, changes: tuple[str, ...], message: str, archive: IO[bytes], name: str) -> None:
    """Make an image of a tarball of files.

    Changes are Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and
    WORKDIR.

    Example: pyswarm image import --change 'CMD ["/srv/web"]' rootfs.tar.gz web:1.2
    """
    from pyswarm_cli.image.progress import json_objects

    repository, tag = split_reference(name)
    query: dict[str, Any] = {
        "repo": repository or None,
        "tag": tag or None,
        "message": message or None,
        "changes": "\n".join(changes) or None,
    }
    source = _standard_input() if archive.name in ("<stdin>", "-") else archive
    with engine.stream("POST", "images", "create", body=source, fromSrc="-", **query) as response:
        for answer in json_objects(response):
            click.echo(answer.get("status", ""))


def _standard_input() -> IO[bytes]:
    if sys.stdin.isatty():
        raise click.UsageError("say --input FILE, or give the tarball on standard input")
    return sys.stdin.buffer
