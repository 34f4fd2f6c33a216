"""Shows what a node that joins as a manager is waiting for, while the request is under way."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from pyswarm_cli.engine import EngineClient

POLL_S = 0.5


@contextmanager
def showing_progress(engine: EngineClient) -> Iterator[None]:
    """Write each new stage of joining to stderr until the block ends."""
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(EngineClient(engine.host), stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(engine: EngineClient, stop: threading.Event) -> None:
    shown = ""
    while not stop.wait(POLL_S):
        with suppress(click.ClickException, OSError):
            progress = engine.get("info")["Swarm"].get("Progress", "")
            if progress and progress != shown:
                click.echo(f"{progress} …", file=sys.stderr)
                shown = progress
    engine.close()
