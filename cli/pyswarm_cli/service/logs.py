"""`pyswarm service logs` and `pyswarm task logs`: says which task said what."""

from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote_plus

import click

from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.log_output import log_query, print_log, with_log_options
from pyswarm_cli.output import short_id, with_options
from pyswarm_cli.service.task_rows import Names, task_base_name

pass_engine = click.make_pass_decorator(EngineClient)
_SWARM = "com.docker.swarm."
_NAMING_OPTIONS = (
    click.option("--no-trunc", is_flag=True, help="Print whole ids."),
    click.option("--no-resolve", is_flag=True, help="Print ids instead of names."),
    click.option("--no-task-ids", is_flag=True, help="Leave the tasks' ids out."),
    click.option("--raw", is_flag=True, help="Print the lines alone."),
)


@click.command()
@with_log_options
@with_options(*_NAMING_OPTIONS)
@click.argument("name", metavar="SERVICE|TASK")
@pass_engine
def logs(engine: EngineClient, /, name: str, **options: Any) -> None:
    """Show what a service's tasks, or one task, said.

    What cannot be had, as its node is down, is left out, and an error at the end says so.

    \b
    Examples:
      pyswarm service logs --follow --tail 20 web
      pyswarm service logs --since 10m --no-task-ids web
    """
    _print(engine, *_find(engine, name), **options)


@click.command(name="logs")
@with_log_options
@with_options(*_NAMING_OPTIONS)
@click.argument("reference", metavar="TASK")
@pass_engine
def task_logs(engine: EngineClient, /, reference: str, **options: Any) -> None:
    """Show what a task said, wherever it runs or ran.

    \b
    Examples:
      pyswarm task logs --follow web.3
      pyswarm task logs --raw --tail 100 8kq0w1l2m3n4
    """
    task = engine.get("tasks", engine.get("pyswarm", "tasks", reference, "story")["ID"])
    _print(engine, "tasks", task["ID"], _has_tty(task["Spec"]), **options)


def _print(
    engine: EngineClient,
    kind: str,
    object_id: str,
    has_tty: bool,
    *,
    no_trunc: bool,
    no_resolve: bool,
    no_task_ids: bool,
    raw: bool,
    details: bool,
    **options: Any,
) -> None:
    raw = raw or has_tty
    query = log_query(details=details or not raw, **options)
    names = LineNames(engine, whole_ids=no_trunc, with_task_ids=not no_task_ids, resolves=not no_resolve)
    render = partial(names.prefixed, with_timestamps=options["timestamps"], with_details=details)
    print_log(engine, (kind, object_id, "logs"), query, is_raw=has_tty, render=None if raw else render)


class LineNames:
    """Turns the ids that precede each line into `web.1.k0vrkkcp7wqh@worker1    | `."""

    def __init__(self, engine: EngineClient, *, whole_ids: bool, with_task_ids: bool, resolves: bool = True) -> None:
        self._engine = engine
        self._whole_ids = whole_ids
        self._with_task_ids = with_task_ids
        self._resolves = resolves
        self._prefixes: dict[bytes, tuple[str, str]] = {}
        self._width = 0

    def prefixed(self, line: bytes, *, with_timestamps: bool, with_details: bool = False) -> bytes:
        """Return a line (`[TIME ]DETAILS MESSAGE`) with its prefix in place of the details, of which others than ids may stay."""
        time, space, rest = line.partition(b" ") if with_timestamps else (b"", b"", line)
        details, _, message = rest.partition(b" ")
        known = self._prefixes.get(details)
        if known is None:
            pairs = dict(parse_qsl(details.decode().replace(",", "&"), keep_blank_values=True))
            others = {name: value for name, value in pairs.items() if not name.startswith(_SWARM)}
            text = ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in others.items())
            known = self._prefixes[details] = self._name(pairs), f"{text} " if with_details and text else ""
            self._width = max(self._width, len(known[0]))
        prefix, shown = known
        return time + space + f"{prefix.ljust(self._width)}    | {shown}".encode() + message

    def _name(self, details: dict[str, str]) -> str:
        task_id, node_id = details.get(f"{_SWARM}task.id", ""), details.get(f"{_SWARM}node.id", "")
        service_id = details.get(f"{_SWARM}service.id", "")
        service, task = self._look_up("services", service_id), self._look_up("tasks", task_id)
        node = self._look_up("nodes", node_id)
        names = Names.of_services([service] if service and self._resolves else [], {})
        base = task_base_name(task, names) if task else f"{names.services.get(service_id, service_id)}.{task_id}"
        suffix = f".{short_id(task_id, whole=self._whole_ids)}" if self._with_task_ids else ""
        return f"{base}{suffix}@{node['Description']['Hostname'] if node and self._resolves else node_id}"

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
