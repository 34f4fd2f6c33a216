"""The options of rules: how updates and rollbacks go, when tasks restart, and what pyswarm offers beyond docker by labels.

`is_new`: for `create`, whose help says what is in force when nothing is said; an update leaves it as it was.
"""

from collections.abc import Callable
from typing import Any

import click

from pyswarm_cli.key_values import parsed
from pyswarm_cli.output import with_options
from pyswarm_cli.units import parse_duration_ns
from pyswarm_common.service_labels import BALANCINGS, STRATEGIES

Options = Callable[[Any], Any]
OVERLAPS = ["skip", "queue", "replace"]
_duration = parsed(parse_duration_ns)


def help_text(text: str, default: str, *, is_new: bool) -> str:
    """Return an option's help, with its default where that applies."""
    return f"{text}  [default: {default}]" if is_new else text


def roll_options(kind: str, *, is_new: bool) -> Options:
    """Return the options that say how an `update`, or a `rollback`, goes."""
    actions = ["pause", "continue", "rollback"] if kind == "update" else ["pause", "continue"]
    done = "updated" if kind == "update" else "rolled back"

    def said(text: str, default: str) -> str:
        return help_text(text, default, is_new=is_new)

    return with_options(
        click.option(
            f"--{kind}-parallelism", type=click.IntRange(0), metavar="N", help=said(f"Tasks {done} at once, 0: all.", "1")
        ),
        click.option(f"--{kind}-delay", callback=_duration, metavar="DURATION", help=said(f"Pause between tasks {done}.", "0s")),
        click.option(
            f"--{kind}-order", type=click.Choice(["stop-first", "start-first"]), help=said("Old or new task first.", "stop-first")
        ),
        click.option(
            f"--{kind}-monitor", callback=_duration, metavar="DURATION", help=said(f"Watch each task {done} so long.", "5s")
        ),
        click.option(
            f"--{kind}-max-failure-ratio", type=click.FloatRange(0, 1), metavar="RATIO", help=said("Failures to bear, 0 to 1.", "0")
        ),
        click.option(f"--{kind}-failure-action", type=click.Choice(actions), help=said(f"When the {kind} fails.", "pause")),
    )


def restart_options(*, is_new: bool) -> Options:
    """Return the options that say when tasks restart."""

    def said(text: str, default: str) -> str:
        return help_text(text, default, is_new=is_new)

    return with_options(
        click.option(
            "--restart-condition",
            type=click.Choice(["none", "on-failure", "any"]),
            help=said("When to restart.", "any; of jobs on-failure"),
        ),
        click.option("--restart-delay", callback=_duration, metavar="DURATION", help=said("How long before a restart.", "5s")),
        click.option("--restart-max-attempts", type=click.IntRange(0), metavar="N", help="Then give up; 0: never."),
        click.option("--restart-window", callback=_duration, metavar="DURATION", help="Attempts count within this time."),
    )


def beyond_docker_options(*, is_new: bool) -> Options:
    """Return the options that become labels: schedules, placement, rebalancing, dependencies."""

    def said(text: str, default: str) -> str:
        return help_text(text, default, is_new=is_new)

    depends = "Start only when that service runs (repeatable)."
    dependencies: Options = click.option("--depends-on", multiple=True, metavar="SERVICE", help=depends)
    ending: tuple[Options, ...] = ()
    if not is_new:
        dependencies = with_options(
            click.option("--depends-on-add", multiple=True, metavar="SERVICE", help=depends),
            click.option("--depends-on-rm", multiple=True, metavar="SERVICE", help="Do not wait for that service (repeatable)."),
        )
        ending = (click.option("--no-schedule", is_flag=True, help="Run by the schedule no more."),)
    return with_options(
        click.option("--schedule", metavar="CRON", help="Of a job: when it runs, such as '*/5 * * * *'."),
        click.option("--schedule-timezone", metavar="ZONE", help=said("The schedule's time zone, such as Europe/Berlin.", "UTC")),
        click.option("--schedule-overlap", type=click.Choice(OVERLAPS), help=said("When the run before is not done yet.", "skip")),
        click.option("--schedule-history", type=click.IntRange(1, 100), metavar="N", help="So many runs are remembered."),
        *ending,
        click.option(
            "--placement-strategy", type=click.Choice(STRATEGIES), help=said("The emptiest or the fullest node first.", "spread")
        ),
        click.option("--balance", type=click.Choice(BALANCINGS), help=said("How connections find a task.", "round-robin")),
        click.option("--rebalance/--no-rebalance", default=None, help=said("Move tasks to nodes that join or return.", "no")),
        dependencies,
    )
