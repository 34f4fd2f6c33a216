"""What all commands for logs share: their options, times, and how they are printed."""

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.frames import print_frames, read_frames, write_now
from pyswarm_cli.output import with_options

_CHUNK_BYTES = 256 * 1024
_TIME = "a time (RFC 3339), or how long ago, such as 10m"

_log_options = (
    click.option("--follow", "-f", is_flag=True, help="Go on as the log grows."),
    click.option("--tail", "-n", default="all", show_default=True, metavar="N", help="Only the last N lines of each log."),
    click.option("--since", metavar="TIME", help=f"Only what was said since then: {_TIME}."),
    click.option("--until", metavar="TIME", help=f"Only what was said up to then: {_TIME}."),
    click.option("--timestamps", "-t", is_flag=True, help="Show when it was said."),
    click.option("--details", is_flag=True, help="Show the labels and variables that the log options choose."),
)


def with_log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that all logs have; it gets them as `log_query` takes them."""
    return with_options(*_log_options)(command)


def log_query(*, follow: bool, tail: str, since: str | None, until: str | None, timestamps: bool, details: bool) -> dict[str, Any]:
    """Return the parameters of a request for logs. Raises click.UsageError."""
    return {
        "stdout": True,
        "stderr": True,
        "follow": follow,
        "tail": tail,
        "timestamps": timestamps,
        "details": details,
        "since": _seconds("--since", since),
        "until": _seconds("--until", until),
    }


def print_log(
    engine: EngineClient,
    path: tuple[str, ...],
    query: dict[str, Any],
    *,
    is_raw: bool,
    render: Callable[[bytes], bytes] | None = None,
) -> None:
    """Print a log to its end, each stream where it belongs; `is_raw`: it comes as it is, from a terminal.

    Raises click.ClickException when the daemon says that lines are missing.
    """
    try:
        with engine.stream("GET", *path, **query) as response:
            if is_raw:
                while chunk := response.read1(_CHUNK_BYTES):
                    write_now(sys.stdout.buffer, chunk)
                return
            for frames in read_frames(lambda: response.read1(_CHUNK_BYTES)):
                print_frames(frames, render)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None


def _seconds(option: str, text: str | None) -> str | None:
    """Return a time as seconds since the epoch, which the API takes. Raises click.UsageError."""
    if text is None:
        return None
    from pyswarm_cli.units import parse_duration_ns, parse_time_s

    try:
        return f"{time.time() - parse_duration_ns(text) / 1e9:.9f}"
    except ValueError:
        pass
    try:
        return f"{parse_time_s(text):.9f}"
    except ValueError:
        raise click.UsageError(
            f"{option} {text!r} is neither a time such as 2026-11-21T01:55:08Z nor a duration such as 10m"
        ) from None
