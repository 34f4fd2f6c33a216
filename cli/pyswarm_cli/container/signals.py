"""Gives the signals that we get to a container."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import click

from pyswarm_cli.engine import EngineClient

_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def forwarded_signals(engine: EngineClient, container_path: tuple[str, ...], *, active: bool) -> Iterator[None]:
    """Send what comes to the container while the block runs; `container_path` is its route's."""

    def forward(number: int, _frame: FrameType | None) -> None:
        own = EngineClient(engine.host)  # the other one may be in the middle of a request
        try:
            own.post(*container_path, "kill", signal=str(number))
        except click.ClickException as error:
            click.echo(error.message, err=True)
        finally:
            own.close()

    before = {each: signal.signal(each, forward) for each in (_FORWARDED if active else ())}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
