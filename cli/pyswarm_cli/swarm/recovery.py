"""`pyswarm swarm backup` and `restore`: the cluster's state as a file, and a cluster from such a file."""

import hashlib
import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.units import format_decimal_bytes

pass_engine = click.make_pass_decorator(EngineClient)
_PIECE_BYTES = 1 << 20
_DIGEST_BYTES = 32
_LONGEST_HEADER_BYTES = 64 << 10
_SHOWN = {"nodes": "node", "services": "service", "tasks": "task", "networks": "network"}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--force", "-f", is_flag=True, help="Replace FILE if it exists.")
@pass_engine
def backup(engine: EngineClient, file: Path, force: bool) -> None:
    """Write the state of the cluster to FILE, taken live at one moment, on any manager.

    FILE holds the key of the CA, the join tokens and all secrets: who reads it owns the cluster. It is made readable for its owner
    alone (mode 0600); keep it so. When the swarm locks its managers (autolock), FILE is encrypted under the unlock key of this
    moment: keep that key too, elsewhere.

    Example: pyswarm swarm backup /backups/swarm-monday
    """
    if file.exists() and not force:
        raise click.ClickException(f"{file} exists: choose another name, or say --force")
    with _replacing(file) as target, engine.stream("GET", "pyswarm", "backup") as response:
        size_bytes, header = _receive(response, target)
    locked = ", encrypted under the swarm's unlock key" if header["encrypted"] else ""
    click.echo(f"{describe(header)}\nBackup written to {file} ({format_decimal_bytes(size_bytes)}{locked}).")
    if not header["encrypted"]:
        held = "the key of the CA, the join tokens and all secrets"
        click.echo(f"It is not encrypted and holds {held}: keep it as safe as the managers.")


@click.command()
@click.argument("file", type=click.File("rb"), metavar="FILE")
@click.option("--advertise-addr", default="", metavar="IP|INTERFACE[:PORT]", help="The address that other nodes reach this by.")
@click.option("--listen-addr", default="0.0.0.0:2377", show_default=True, metavar="IP[:PORT]", help="Where this manager listens.")
@click.option("--data-path-addr", default="", metavar="IP|INTERFACE", help="The address for the containers' traffic (VXLAN).")
@click.option("--unlock-key", metavar="KEY", help="The unlock key of an encrypted backup; asked for when it is not given.")
@pass_engine
def restore(
    engine: EngineClient, file: IO[bytes], advertise_addr: str, listen_addr: str, data_path_addr: str, unlock_key: str | None
) -> None:
    """Begin the cluster in FILE anew, with this node, which must be in no swarm, as its only manager.

    Give it the address of a former manager: then the workers find it and come back by themselves, and their containers go on. The
    former managers become workers; what is left of them is refused.

    Example: pyswarm swarm restore /backups/swarm-monday --advertise-addr 192.168.99.1
    """
    header = read_header(file)
    click.echo(describe(header))
    if header.get("encrypted") and not unlock_key:
        unlock_key = click.prompt("The backup is encrypted. Unlock key of when it was taken", hide_input=True)
    click.echo("Restoring …")
    with engine.stream(
        "POST",
        "pyswarm",
        "restore",
        body=file,
        headers={"X-Pyswarm-Unlock-Key": unlock_key.strip()} if unlock_key else {},
        advertiseAddr=advertise_addr or None,
        listenAddr=listen_addr,
        dataPathAddr=data_path_addr or None,
    ) as response:
        answer = json.loads(response.read())
    click.echo(advice(answer))


def advice(answer: dict[str, Any]) -> str:
    """Return what to know after a restore."""
    address = answer["NodeAddr"].rpartition(":")[0].strip("[]")
    former = answer["FormerManagers"]
    lines = [f"Swarm restored: this node ({answer['NodeID']}) is now its only manager, at {answer['NodeAddr']}."]
    if address in former:
        lines.append("Workers that know this address come back by themselves; watch them with `pyswarm node ls`.")
    else:
        lines.append(
            f"No former manager had the address {address} (they had {', '.join(former) or 'none'}): workers do not find this one "
            "by themselves. Give this machine one of those addresses and restart pyswarmd with it as --advertise-addr, or let the "
            "workers leave with --force and join again."
        )
    lines.append("Add managers again with `pyswarm swarm join-token manager`, remove lost nodes with `pyswarm node rm --force`.")
    if answer.get("Locked"):
        lines.append("The swarm is locked with the unlock key that it had when the backup was taken.")
    return "\n".join(lines)


def read_header(file: IO[bytes]) -> dict[str, Any]:
    """Return the first line of a backup, and set the file back to its beginning. Raises ClickException when it is none."""
    line = file.readline(_LONGEST_HEADER_BYTES)
    file.seek(0)
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != "pyswarm-backup":
        raise click.ClickException(f"{file.name} is no backup of a swarm: such a file is made by `pyswarm swarm backup FILE`")
    return header


def describe(header: dict[str, Any]) -> str:
    """Return what a backup is of, in a line."""
    counts = header.get("counts") or {}
    parts = [f"{counts.get(kind, 0)} {noun}{'' if counts.get(kind, 0) == 1 else 's'}" for kind, noun in _SHOWN.items()]
    return f"Swarm {header.get('cluster_id')}, as of {header.get('created_at')}: {', '.join(parts)}."


def _receive(response: http.client.HTTPResponse, target: IO[bytes]) -> tuple[int, dict[str, Any]]:
    """Copy a backup to a file and check that it came whole; returns its size in bytes and its header."""
    digest, tail, beginning, size_bytes = hashlib.sha256(), b"", b"", 0
    while piece := _read(response):
        target.write(piece)
        size_bytes += len(piece)
        beginning = (beginning + piece)[:_LONGEST_HEADER_BYTES]
        checked = tail + piece
        digest.update(checked[:-_DIGEST_BYTES])
        tail = checked[-_DIGEST_BYTES:]
    if digest.digest() != tail:
        raise click.ClickException("the backup did not arrive whole (the manager ended meanwhile?): nothing was written; try again")
    header: dict[str, Any] = json.loads(beginning.partition(b"\n")[0])
    return size_bytes, header


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_PIECE_BYTES)
    except (OSError, http.client.HTTPException):
        return b""  # what was received so far does not check out then


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file for its owner alone that takes the place of `path` once it is whole and on disk."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
