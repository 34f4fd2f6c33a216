"""The progress of a pull or push: one line per layer, redrawn on a terminal, printed once per layer and state elsewhere."""

import http.client
import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from pyswarm_cli.engine import worded_for_cli
from pyswarm_cli.units import format_decimal_bytes


def json_objects(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON stream, which come one a line."""
    while line := response.readline():
        if line.strip():
            yield json.loads(line)


def follow_progress(response: http.client.HTTPResponse, *, quiet: bool, on_stderr: bool = False) -> None:
    """Show the progress until the pull or push ends. Raises click.ClickException when it failed."""
    messages = _checked(json_objects(response))
    if quiet:
        for _ in messages:
            pass
    elif (sys.stderr if on_stderr else sys.stdout).isatty():
        _show_live(messages, on_stderr=on_stderr)
    else:
        _show_plain(messages, on_stderr=on_stderr)


def _checked(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        if "error" in message:
            raise click.ClickException(worded_for_cli(message["error"]))
        yield message


def _show_plain(messages: Iterator[dict[str, Any]], *, on_stderr: bool) -> None:
    seen: set[tuple[str, str]] = set()
    for message in messages:
        if "status" not in message:
            continue
        key = (message.get("id", ""), message.get("status", ""))
        if key not in seen:
            seen.add(key)
            click.echo(f"{key[0]}: {key[1]}" if key[0] else key[1], err=on_stderr)


def _show_live(messages: Iterator[dict[str, Any]], *, on_stderr: bool) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    layers: dict[str, str] = {}
    console = Console(highlight=False, stderr=on_stderr)
    with Live(console=console, refresh_per_second=10) as live:
        for message in messages:
            if message.get("id"):
                layers[message["id"]] = describe_layer(message)
                live.update(Text("\n".join(f"{layer}: {state}" for layer, state in layers.items())))
            elif "status" in message:
                live.console.print(message["status"], markup=False)


def describe_layer(message: dict[str, Any]) -> str:
    """Return a layer's state, with how much of it there is while that is known."""
    detail = message.get("progressDetail") or {}
    status = str(message.get("status", ""))
    if not detail.get("total"):
        return status
    return f"{status} {format_decimal_bytes(detail.get('current', 0))}/{format_decimal_bytes(detail['total'])}"
