"""How a wait is shown: redrawn in place on a terminal, as lines when something changes elsewhere, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol

import click

from pyswarm_cli.service.convergence import Progress, SlotProgress

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

MAX_LINES = 20
"""More slots than these are not listed one by one: only those in trouble are."""
_STYLES = {"running": "green", "failed": "red", "rejected": "red", "pending": "yellow", "complete": "blue"}


class Display(Protocol):
    """What a wait tells whoever watches."""

    def show(self, progress: Progress) -> None:
        """The service is so far."""
        ...

    def note(self, text: str) -> None:
        """Something else that is worth knowing."""
        ...

    def done(self, text: str) -> None:
        """The wait ended well."""
        ...


class SilentDisplay:
    """Shows nothing (`--quiet`)."""

    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def done(self, text: str) -> None:
        """Show nothing."""


class LineDisplay:
    """Prints a line when the number of running tasks changes, and one for each new trouble."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._last = ""
        self._said: set[str] = set()

    def show(self, progress: Progress) -> None:
        """Print what is new."""
        self._print(summary(progress))
        for slot in progress.slots:
            trouble = trouble_of(slot)
            line = f"  {slot.name}: {trouble}"
            if trouble and line not in self._said:
                self._said.add(line)
                click.echo(line, file=self._stream)

    def note(self, text: str) -> None:
        """Print it, once."""
        self._print(text)

    def done(self, text: str) -> None:
        """Print it."""
        self._print(text)

    def _print(self, text: str) -> None:
        if text != self._last:
            self._last = text
            click.echo(text, file=self._stream)


class LiveDisplay:
    """Redraws a table of the slots in place."""

    def __init__(self, live: "Live") -> None:
        self._live = live

    def show(self, progress: Progress) -> None:
        """Redraw."""
        self._live.update(_drawing(progress))

    def note(self, text: str) -> None:
        """Show it in place of the table until there is news."""
        self._live.update(text)

    def done(self, text: str) -> None:
        """Print it below the table."""
        self._live.console.print(text, style="green", markup=False)


@contextmanager
def display_for(stream: IO[str], *, quiet: bool) -> Iterator[Display]:
    """Give the display that fits the stream."""
    if quiet:
        yield SilentDisplay()
    elif not stream.isatty():
        yield LineDisplay(stream)
    else:
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(file=stream, highlight=False), refresh_per_second=12) as live:
            yield LiveDisplay(live)


def summary(progress: Progress) -> str:
    """Return the first line: how many tasks run, in their new form after an update; of a job, how many have completed."""
    if progress.is_scheduled:
        return f"{progress.service}: runs by its schedule"
    if progress.completed is not None:
        return f"{progress.service}: {progress.completed}/{progress.desired} completed, {progress.running} running"
    done = "rolled back" if progress.is_rollback else "updated" if progress.is_update else "running"
    watched = ", watched for failures" if progress.is_watched else ""
    return f"{progress.service}: {progress.running} of {progress.desired} tasks {done}{watched}"


def trouble_of(slot: SlotProgress) -> str:
    """Return what is wrong with a slot now, or what its last failure was; "" when there is nothing to say."""
    has_failed = slot.state in ("failed", "rejected")
    if slot.failures and (has_failed or (not slot.error and slot.state != "running")):
        return f"failed {'once' if slot.failures == 1 else f'{slot.failures} times'}: {slot.last_failure}"
    return f"{slot.state}: {slot.error}" if slot.error else ""


def _drawing(progress: Progress) -> "Text":
    from rich.text import Text

    text = Text(summary(progress))
    slots = progress.slots
    if len(slots) > MAX_LINES:
        slots = tuple(slot for slot in slots if trouble_of(slot))[:MAX_LINES]
    width = max((len(slot.name) for slot in slots), default=0)
    for slot in slots:
        text.append(f"\n  {slot.name.ljust(width)}  ")
        text.append(slot.state.ljust(10), style=_STYLES.get(slot.state, ""))
        text.append(f" {slot.node}" if slot.node else "")
        text.append(f"  {trouble_of(slot)}".rstrip(), style="yellow")
    return text
