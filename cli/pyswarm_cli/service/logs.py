"""`pyswarm service logs`: takes the stream apart and says which task said what."""

import http.client
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

import click

from pyswarm_cli.engine import EngineClient, EngineError, worded_for_cli
from pyswarm_cli.output import short_id
from pyswarm_cli.service.task_rows import Names, task_base_name

pass_engine = click.make_pass_decorator(EngineClient)
_FRAME_HEADER = struct.Struct(">BxxxL")
_STDERR, _SYSTEM_ERROR = 2, 3
_DETAIL = "com.docker.swarm."


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows.")
@click.option("--tail", "-n", default="all", show_default=True, metavar="N", help="Only the last N lines of each task.")
@click.option("--since", metavar="TIME", help="Only what was said since then: a time (RFC 3339), or how long ago, such as 10m.")
@click.option("--timestamps", "-t", is_flag=True, help="Show when it was said.")
@click.option("--no-trunc", is_flag=True, help="Print whole ids.")
@click.option("--no-task-ids", is_flag=True, help="Leave the tasks' ids out.")
@click.option("--raw", is_flag=True, help="Print the lines alone.")
@click.argument("name", metavar="SERVICE|TASK")
@pass_engine
def logs(
    engine: EngineClient,
    follow: bool,
    tail: str,
    since: str | None,
    timestamps: bool,
    no_trunc: bool,
    no_task_ids: bool,
    raw: bool,
    name: str,
) -> None:
    """Show what a service's tasks, or one task, said.

    Example: pyswarm service logs --follow --tail 20 web
    """
    kind, object_id, has_tty = _find(engine, name)
    raw = raw or has_tty
    query: dict[str, Any] = {
        "stdout": True,
        "stderr": True,
        "follow": follow,
        "tail": tail,
        "timestamps": timestamps,
        "details": not raw,
    }
    names = LineNames(engine, whole_ids=no_trunc, with_task_ids=not no_task_ids)
    try:
        with engine.stream("GET", kind, object_id, "logs", since=_since(since), **query) as response:
            if has_tty:
                _copy(response)
                return
            for stream, payload in read_frames(response):
                if stream == _SYSTEM_ERROR:
                    raise click.ClickException(worded_for_cli(payload.decode(errors="replace")))
                line = payload if raw else names.prefixed(payload, with_timestamps=timestamps)
                _write(sys.stderr.buffer if stream == _STDERR else sys.stdout.buffer, line)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None


def read_frames(response: http.client.HTTPResponse) -> Iterator[tuple[int, bytes]]:
    """Yield (stream, payload) of each frame of Docker's multiplexed stream, until it ends."""
    while len(header := response.read(_FRAME_HEADER.size)) == _FRAME_HEADER.size:
        stream, size = _FRAME_HEADER.unpack(header)
        yield stream, response.read(size)


class LineNames:
    """Turns the ids that precede each line into `web.1.k0vrkkcp7wqh@worker1    | `."""

    def __init__(self, engine: EngineClient, *, whole_ids: bool, with_task_ids: bool) -> None:
        self._engine = engine
        self._whole_ids = whole_ids
        self._with_task_ids = with_task_ids
        self._prefixes: dict[bytes, str] = {}
        self._width = 0

    def prefixed(self, line: bytes, *, with_timestamps: bool) -> bytes:
        """Return a line (`[TIME ]DETAILS MESSAGE`) with its prefix in place of the details."""
        time, space, rest = line.partition(b" ") if with_timestamps else (b"", b"", line)
        details, _, message = rest.partition(b" ")
        prefix = self._prefixes.get(details)
        if prefix is None:
            prefix = self._prefixes[details] = self._name(dict(parse_qsl(details.decode().replace(",", "&"))))
            self._width = max(self._width, len(prefix))
        return time + space + f"{prefix.ljust(self._width)}    | ".encode() + message

    def _name(self, details: dict[str, str]) -> str:
        task_id, node_id = details.get(f"{_DETAIL}task.id", ""), details.get(f"{_DETAIL}node.id", "")
        service_id = details.get(f"{_DETAIL}service.id", "")
        service, task = self._look_up("services", service_id), self._look_up("tasks", task_id)
        node = self._look_up("nodes", node_id)
        names = Names.of_services([service] if service else [], {})
        base = task_base_name(task, names) if task else f"{names.services.get(service_id, service_id)}.{task_id}"
        suffix = f".{short_id(task_id, whole=self._whole_ids)}" if self._with_task_ids else ""
        return f"{base}{suffix}@{node['Description']['Hostname'] if node else node_id}"

    def _look_up(self, kind: str, object_id: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._engine.get(kind, object_id)
            return found
        except EngineError:  # it was removed meanwhile
            return None


def _find(engine: EngineClient, name: str) -> tuple[str, str, bool]:
    """Return (`services` or `tasks`, id, whether it has a terminal). Raises EngineError."""
    try:
        service = engine.get("services", name)
        return "services", service["ID"], _has_tty(service["Spec"]["TaskTemplate"])
    except EngineError as error:
        if error.status != 404:
            raise
    try:
        task = engine.get("tasks", name)
    except EngineError as error:
        if error.status == 404:
            raise click.ClickException(f"no such service or task: {name}") from None
        raise
    return "tasks", task["ID"], _has_tty(task["Spec"])


def _has_tty(template: dict[str, dict[str, object]]) -> bool:
    return bool((template.get("ContainerSpec") or {}).get("TTY"))


def _since(text: str | None) -> str | None:
    """Return a time as seconds since the epoch, which the API takes. Raises click.UsageError."""
    if text is None:
        return None
    import time

    from pyswarm_cli.units import parse_duration_ns, parse_time_s

    try:
        return f"{time.time() - parse_duration_ns(text) / 1e9:.9f}"
    except ValueError:
        pass
    try:
        return f"{parse_time_s(text):.9f}"
    except ValueError:
        raise click.UsageError(
            f"--since {text!r} is neither a time such as 2026-11-21T01:55:08Z nor a duration such as 10m"
        ) from None


def _copy(response: http.client.HTTPResponse) -> None:
    while chunk := response.read1(65536):
        _write(sys.stdout.buffer, chunk)


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()
