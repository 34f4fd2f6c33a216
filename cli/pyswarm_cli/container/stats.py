"""`pyswarm stats`: what containers use, of this node and of tasks on any node."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from pyswarm_cli.container.target import Target, find_target
from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.output import format_option, no_trunc_option, print_rows, with_options
from pyswarm_cli.units import format_binary_bytes, format_decimal_bytes

pass_engine = click.make_pass_decorator(EngineClient)
_COLUMNS = {
    "CONTAINER ID": "ID",
    "NAME": "Name",
    "CPU %": "CPUPerc",
    "MEM USAGE / LIMIT": "MemUsage",
    "MEM %": "MemPerc",
    "NET I/O": "NetIO",
    "BLOCK I/O": "BlockIO",
    "PIDS": "PIDs",
}
_CLEAR_SCREEN = "\x1b[H\x1b[J"
_PARALLEL = 16


@click.command()
@click.option("--no-stream", is_flag=True, help="Show the figures once.")
@with_options(format_option, no_trunc_option)
@click.argument("references", nargs=-1, metavar="[CONTAINER|TASK]...")
@pass_engine
def stats(engine: EngineClient, no_stream: bool, output_format: str, no_trunc: bool, references: tuple[str, ...]) -> None:
    """Show what containers use: of this node (all that run, unless some are named), and of tasks on any node.

    \b
    Examples:
      pyswarm stats
      pyswarm stats --no-stream web.1 web.2 db
    """
    named = [find_target(engine, reference) for reference in references]
    try:
        while True:
            targets = named or [Target(c["Id"], c["Names"][0].removeprefix("/")) for c in engine.get("containers", "json")]
            rows = _rows(engine, targets, whole_ids=no_trunc)
            if not no_stream and sys.stdout.isatty():
                click.echo(_CLEAR_SCREEN, nl=False)
            print_rows(rows, _COLUMNS, output_format)
            if no_stream:
                return
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None


def _rows(engine: EngineClient, targets: Sequence[Target], *, whole_ids: bool) -> list[dict[str, str]]:
    """Ask for two samples a second apart of each, all at once."""
    with ThreadPoolExecutor(max(1, min(_PARALLEL, len(targets)))) as pool:
        samples = list(pool.map(lambda target: _sample(engine.host, target), targets))
    return [_row(target, sample, whole_ids=whole_ids) for target, sample in zip(targets, samples, strict=True)]


def _sample(host: str, target: Target) -> dict[str, Any] | None:
    engine = EngineClient(host)
    try:
        found: dict[str, Any] = engine.get(*target.path("stats"), stream="0")
        return found
    except EngineError as error:
        if error.status in (404, 409):
            return None  # it has ended, or was removed
        raise
    finally:
        engine.close()


def _row(target: Target, sample: dict[str, Any] | None, *, whole_ids: bool) -> dict[str, str]:
    row = dict.fromkeys(_COLUMNS.values(), "--")
    row.update(ID=target.container_id if whole_ids else target.container_id[:12], Name=target.name)
    if sample is None:
        return row
    used, limit = _memory(sample)
    network = (sample.get("networks") or {}).values()
    received, sent = (sum(interface[f"{way}_bytes"] for interface in network) for way in ("rx", "tx"))
    read, written = _block_bytes(sample)
    return {
        **row,
        "CPUPerc": f"{cpu_percent(sample):.2f}%",
        "MemUsage": f"{format_binary_bytes(used)} / {format_binary_bytes(limit)}",
        "MemPerc": f"{100 * used / limit if limit else 0:.2f}%",
        "NetIO": f"{format_decimal_bytes(received)} / {format_decimal_bytes(sent)}" if network else "--",
        "BlockIO": f"{format_decimal_bytes(read)} / {format_decimal_bytes(written)}",
        "PIDs": str((sample.get("pids_stats") or {}).get("current", 0)),
    }


def cpu_percent(sample: dict[str, Any]) -> float:
    """Return the share of one CPU between both samples, in per cent."""
    now, before = sample["cpu_stats"], sample["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    whole = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ()) or 1
    return 100.0 * cpus * used / whole if whole > 0 and used > 0 else 0.0


def _memory(sample: dict[str, Any]) -> tuple[int, int]:
    """Return (used without the page cache that can be given up at once, limit) in bytes."""
    memory = sample.get("memory_stats") or {}
    details = memory.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(0, memory.get("usage", 0) - cache), memory.get("limit", 0)


def _block_bytes(sample: dict[str, Any]) -> tuple[int, int]:
    entries = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    sums = {way: sum(entry["value"] for entry in entries if entry["op"].lower() == way) for way in ("read", "write")}
    return sums["read"], sums["write"]
