"""Waits until a service has converged, showing how it goes."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click

from pyswarm_cli.engine import EngineClient, EngineError, EngineUnreachable
from pyswarm_cli.service.convergence import ConvergenceWatch, Progress, ended_tasks
from pyswarm_cli.service.display import Display, display_for, summary
from pyswarm_cli.service.modes import is_job
from pyswarm_cli.service.task_rows import node_names
from pyswarm_cli.units import format_duration_ns

FAST_POLLS_S = 2.0
"""For so long it looks often: most services converge within."""
FAST_POLL_PERIOD_S = 0.05
SLOW_POLL_PERIOD_S = 0.25
STABLE_S = 1.0
"""So long all tasks must run before the service counts as converged: one that dies at once does not."""
DAEMON_PATIENCE_S = 30.0
"""So long the daemon may be away, or its cluster without a leader."""
INTERRUPTED_EXIT_CODE = 130


def tasks_of(engine: EngineClient, service_id: str, *, up_to_date: bool = False) -> list[dict[str, Any]]:
    """Return a service's tasks, or only those of its present spec."""
    filters = {"service": {service_id: True}}
    found: list[dict[str, Any]] = engine.get("tasks", filters={**filters, "_up-to-date": {"true": True}} if up_to_date else filters)
    return found


@dataclass(frozen=True)
class ChangedService:
    """A service that was just made or changed, with what there was of it before: that is not what a wait is about."""

    id: str
    name: str
    ended_before: set[str] = field(default_factory=set)
    """The ids of the tasks that had ended."""
    update_before: dict[str, Any] | None = None
    """Its `UpdateStatus`."""
    is_rollback: bool = False


@dataclass(frozen=True)
class Patience:
    """How a command waits: not at all (`detach`), without a word (`quiet`), for so long (None: for ever)."""

    detach: bool = False
    quiet: bool = False
    timeout_ns: int | None = None


class Waiting:
    """One wait for one service."""

    def __init__(
        self,
        engine: EngineClient,
        watch: ConvergenceWatch,
        *,
        timeout_ns: int | None,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._watch = watch
        self._timeout_ns = timeout_ns
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._nodes: dict[str, str] = {}

    def run(self, service_id: str, display: Display) -> Progress:
        """Return the service as it has converged. Raises click.ClickException when it fails, is removed, or the time is over."""
        started_s = answered_s = self._monotonic_s()
        stable_since_s: float | None = None
        while True:
            now_s = self._monotonic_s()
            progress: Progress | None = None
            try:
                progress = self._look(service_id)
                answered_s = now_s
            except (EngineUnreachable, EngineError) as error:
                self._bear(error, now_s - answered_s, display)
            if progress is not None:
                display.show(progress)
                if progress.failure:
                    raise click.ClickException(_failure_message(progress))
                stable_since_s = (stable_since_s or now_s) if progress.is_converged else None
                if stable_since_s is not None and now_s - stable_since_s >= (STABLE_S if progress.needs_settling else 0):
                    return progress
            self._check_time(now_s - started_s, progress)
            self._sleep(FAST_POLL_PERIOD_S if now_s - started_s < FAST_POLLS_S else SLOW_POLL_PERIOD_S)

    def _look(self, service_id: str) -> Progress:
        service = self._engine.get("services", service_id)
        tasks = tasks_of(self._engine, service["ID"], up_to_date=not is_job(service["Spec"]))
        if any(task.get("NodeID") and task["NodeID"] not in self._nodes for task in tasks):
            self._nodes = node_names(self._engine.get("nodes"))
        return self._watch.look(service, tasks, self._nodes)

    def _bear(self, error: EngineUnreachable | EngineError, away_s: float, display: Display) -> None:
        """Go on without an answer for a while: the daemon may restart, and a new leader take over."""
        if isinstance(error, EngineError) and error.status == 404:
            raise click.ClickException("the service was removed while its tasks were waited for")
        if away_s >= DAEMON_PATIENCE_S or (isinstance(error, EngineError) and error.status < 500):
            raise error
        display.note(f"no answer, still trying: {error.message.splitlines()[0]}")

    def _check_time(self, waited_s: float, progress: Progress | None) -> None:
        if self._timeout_ns is not None and waited_s * 1e9 >= self._timeout_ns:
            state = summary(progress) if progress else "the daemon did not answer"
            name = progress.service if progress else "SERVICE"
            raise click.ClickException(
                f"not converged within {format_duration_ns(self._timeout_ns)}: {state}.\n"
                f"The cluster goes on trying; `pyswarm service ps {name}` shows how far it is and what is in the way."
            )


def wait_until_converged(engine: EngineClient, changed: ChangedService, patience: Patience) -> None:
    """Wait for a service, showing progress on standard error; Ctrl-C leaves it running. A scheduled job is not waited for."""
    if patience.detach:
        return
    watch = ConvergenceWatch(changed.ended_before, update_before=changed.update_before, is_rollback=changed.is_rollback)
    waiting = Waiting(engine, watch, timeout_ns=patience.timeout_ns)
    try:
        with display_for(sys.stderr, quiet=patience.quiet) as display:
            progress = waiting.run(changed.id, display)
            display.done(_outcome(progress, changed))
    except KeyboardInterrupt:
        note = f"\nThe work goes on in the background. `pyswarm service ps {changed.name}` shows how far it is."
        click.echo(note, err=True)
        raise click.exceptions.Exit(INTERRUPTED_EXIT_CODE) from None


def _outcome(progress: Progress, changed: ChangedService) -> str:
    if progress.is_scheduled:
        return f"job {changed.name} runs when it is due: `pyswarm service runs {changed.name}` shows when, and how it went"
    if progress.completed is not None:
        return f"job {changed.name} complete"
    return f"service {changed.name} {'rolled back' if changed.is_rollback else 'converged'}"


def wait_until_gone(engine: EngineClient, service_ids: set[str], *, timeout_ns: int | None) -> None:
    """Return when no task of these removed services is left. Raises click.ClickException when the time is over."""
    started_s = time.monotonic()
    while remaining := [task for task in engine.get("tasks") if task.get("ServiceID") in service_ids]:
        if timeout_ns is not None and (time.monotonic() - started_s) * 1e9 >= timeout_ns:
            raise click.ClickException(f"{len(remaining)} tasks have not ended within {format_duration_ns(timeout_ns)}")
        time.sleep(FAST_POLL_PERIOD_S)


def ended_before(engine: EngineClient, service_id: str) -> set[str]:
    """Return the ids of a service's tasks that have ended already."""
    return ended_tasks(tasks_of(engine, service_id))


def _failure_message(progress: Progress) -> str:
    name = progress.service
    return (
        f"service {name}: {progress.failure}\n"
        f"The service is still there: `pyswarm service ps {name}` shows its tasks, `pyswarm service update … {name}` changes it, "
        f"`pyswarm service rm {name}` removes it."
    )
