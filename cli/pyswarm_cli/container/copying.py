"""`pyswarm cp`: files and folders between this machine and a container, wherever it runs."""

import base64
import contextlib
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import click

from pyswarm_cli.container.target import Target, find_target
from pyswarm_cli.engine import EngineClient, EngineError

pass_engine = click.make_pass_decorator(EngineClient)
_STAT_HEADER = "X-Docker-Container-Path-Stat"
_DIRECTORY_MODE = 1 << 31
"""Go's bit for a directory in a file mode."""
_SPOOL_BYTES = 16 * 1024 * 1024


@click.command(name="cp")
@click.option("--archive", "-a", is_flag=True, help="Keep user and group ids.")
@click.option("--follow-link", "-L", is_flag=True, help="Copy what a link names instead of the link.")
@click.option("--quiet", "-q", is_flag=True, help="Do not say what was copied.")
@click.argument("source", metavar="[CONTAINER|TASK:]SOURCE|-")
@click.argument("destination", metavar="[CONTAINER|TASK:]DESTINATION|-")
@pass_engine
def copy(engine: EngineClient, archive: bool, follow_link: bool, quiet: bool, source: str, destination: str) -> None:
    """Copy files or folders between this machine and a container: of this node, or of a task on any node.

    `-` is a tar archive on standard input or output. A folder whose path ends with `/.` means what is in it.

    \b
    Examples:
      pyswarm cp web.1:/etc/nginx/nginx.conf .
      pyswarm cp site/. web.2:/usr/share/nginx/html
      pyswarm cp db.1:/var/lib/data - > data.tar
    """
    from_container, to_container = split_place(source), split_place(destination)
    if from_container is not None and to_container is not None:
        raise click.UsageError("copying between containers is not supported")
    if from_container is not None:
        target, path = find_target(engine, from_container[0]), from_container[1]
        _copy_out(engine, target, path, destination, follows_link=follow_link)
    elif to_container is not None:
        target, path = find_target(engine, to_container[0]), to_container[1]
        _copy_in(engine, target, source, path, keeps_owner=archive, follows_link=follow_link)
    else:
        raise click.UsageError("must specify at least one container source: CONTAINER:PATH")
    if not quiet and "-" not in (source, destination) and sys.stderr.isatty():
        click.echo(f"Successfully copied {source} to {destination}", err=True)


def split_place(place: str) -> tuple[str, str] | None:
    """Return (container, path) of `CONTAINER:PATH`; None for a path of this machine."""
    if place == "-" or place.startswith(("/", ".")) or ":" not in place:
        return None
    reference, _, path = place.partition(":")
    return reference, path or "/"


def _stat(engine: EngineClient, target: Target, path: str) -> dict[str, Any] | None:
    """Return what the container's node says of a path, None when it does not exist."""
    try:
        with engine.stream("HEAD", *target.path("archive"), path=path) as response:
            found: dict[str, Any] = json.loads(base64.b64decode(response.headers[_STAT_HEADER]))
            return found
    except EngineError as error:
        if error.status == 404:
            return None
        raise


def _copy_out(engine: EngineClient, target: Target, path: str, destination: str, *, follows_link: bool) -> None:
    stat = _stat(engine, target, path)
    if stat is None:
        raise click.ClickException(f"Could not find the file {path} in container {target.name}")
    if follows_link and stat.get("linkTarget"):
        path = str(PurePosixPath(path).parent / stat["linkTarget"])
    if not path.strip("/"):
        path = "/."  # the root has no name of its own
    if destination != "-" and not stat["mode"] & _DIRECTORY_MODE and destination.endswith("/") and not os.path.isdir(destination):
        raise click.ClickException(f"the folder {destination} does not exist")
    with engine.stream("GET", *target.path("archive"), path=path) as response:
        if destination == "-":
            while chunk := response.read1(65536):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        with tarfile.open(fileobj=response, mode="r|") as archive:
            extract_archive(archive, Path(destination), copies_content=path.endswith("/."))


def extract_archive(archive: tarfile.TarFile, destination: Path, *, copies_content: bool) -> None:
    """Unpack an archive whose members begin with the copied file's name, which becomes the destination's when that is new."""
    into = destination.is_dir()
    if not into and not destination.parent.is_dir():
        raise click.ClickException(f"the folder {destination.parent} does not exist")
    is_file = destination.exists() and not into
    if copies_content and not (into or is_file):
        destination.mkdir()
    root = destination if into or copies_content else destination.parent

    def renamed(name: str) -> str:
        first, _, rest = name.partition("/")
        if copies_content:
            return rest
        return "/".join(part for part in (first if into else destination.name, rest) if part)

    for member in archive:
        if is_file and member.isdir():
            raise click.ClickException(f"cannot copy a folder to {destination}, which is none")
        member.name = renamed(member.name)
        if member.islnk():
            member.linkname = renamed(member.linkname)
        if member.isdev():
            click.echo(f"{member.name} is a device, which is not copied", err=True)
        elif member.name:
            _extract_or_explain(archive, member, root)


def _extract_or_explain(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    try:
        _extract_member(archive, member, root)
    except (OSError, tarfile.TarError) as error:
        raise click.ClickException(f"cannot write {root / member.name}: {getattr(error, 'strerror', None) or error}") from error


def _extract_member(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    """Unpack one member. A container is not trusted: nothing of its archive may land outside of the destination."""
    place = root / member.name
    real_root = root.resolve()
    if ".." in PurePosixPath(member.name).parts or not place.parent.resolve().is_relative_to(real_root):
        raise click.ClickException(f"the container's archive names a path outside of the destination: {member.name}")
    if member.islnk() and not (root / member.linkname).resolve().is_relative_to(real_root):
        raise click.ClickException(f"the container's archive links to a path outside of the destination: {member.linkname}")
    if place.is_symlink():
        place.unlink()  # never write through a link that the archive has made
    member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
    archive.extract(member, root, set_attrs=not member.issym())


def _copy_in(engine: EngineClient, target: Target, source: str, path: str, *, keeps_owner: bool, follows_link: bool) -> None:
    query = {"noOverwriteDirNonDir": True, "copyUIDGID": keeps_owner}
    if source == "-":
        _put(engine, target, path, sys.stdin.buffer, query)
        return
    stat = _stat(engine, target, path)
    into = stat is not None and bool(stat["mode"] & _DIRECTORY_MODE)
    if not into and path.endswith("/"):
        raise click.ClickException(f"the folder {path} does not exist in container {target.name}")
    copies_content = source.endswith("/.") and os.path.isdir(source)
    local = Path(source)
    if not (local.exists() or local.is_symlink()):
        raise click.ClickException(f"no such file or folder: {source}")
    place = PurePosixPath(path)
    folder = place if into else place.parent
    if stat is not None and not into and local.is_dir():
        raise click.ClickException(f"cannot copy a folder to {path} in container {target.name}, which is none")
    name = "." if copies_content and into else os.path.basename(os.path.abspath(source)) if into else place.name
    with _packed(local, name, keeps_owner=keeps_owner, follows_link=follows_link) as packed:
        _put(engine, target, str(folder), packed, query)


def _put(engine: EngineClient, target: Target, folder: str, archive: IO[bytes], query: dict[str, Any]) -> None:
    with engine.stream("PUT", *target.path("archive"), body=archive, path=folder, **query) as response:
        response.read()


@contextlib.contextmanager
def _packed(local: Path, name: str, *, keeps_owner: bool, follows_link: bool) -> Iterator[IO[bytes]]:
    """Give an archive of a file or folder under another name."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        if not keeps_owner:
            member.uid = member.gid = 0
            member.uname = member.gname = ""
        return member

    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            try:
                archive.add(local.resolve() if follows_link else local, arcname=name, filter=owned)
            except OSError as error:
                raise click.ClickException(f"cannot read {error.filename or local}: {error.strerror or error}") from error
        file.seek(0)
        yield file
