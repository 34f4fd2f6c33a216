"""How an imagined agent treats one task: what it does next, and after how long. Pure, but for the random numbers it is given."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from pyswarm_common.objects import Task
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.simulator.amount_types import Chance, Span
from pyswarm_manager.simulator.scenario import Behaviour

_MILLISECOND_NS = SECOND_NS // 1000
STANDARD = Behaviour(
    prepare_time=Span(200 * _MILLISECOND_NS, 200 * _MILLISECOND_NS),
    start_time=Span(100 * _MILLISECOND_NS, 300 * _MILLISECOND_NS),
    stop_time=Span(100 * _MILLISECOND_NS, 500 * _MILLISECOND_NS),
    failure_probability=Chance(0),
    fails_after=Span(0, 0),
)
JOB_RUN_TIME = Span(10 * SECOND_NS, 10 * SECOND_NS)

Draw = Callable[[], float]
"""Gives random numbers from 0 up to 1."""


class Step(NamedTuple):
    """What an agent will report of a task, and when from now."""

    state: TaskState
    delay_ns: int


def overlaid(base: Behaviour, over: Behaviour) -> Behaviour:
    """Return `over`, with what it does not say taken from `base`."""
    said = {f.name: value for f in msgspec.structs.fields(Behaviour) if (value := getattr(over, f.name)) is not None}
    return msgspec.structs.replace(base, **said)


def next_step(task: Task, behaviour: Behaviour, grace_period_ns: int, draw: Draw) -> Step | None:
    """Return what comes next for a task on a working node; None when the agent waits for orders.

    Whether a task fails is drawn when it is about to start, and again, for a task that is to fail later, when it runs: so it is
    asked for once at each state, in the order in which tasks reach them.
    """
    state = task.status.state
    if state.is_terminal or state < TaskState.ASSIGNED:
        return None
    if task.desired_state > TaskState.RUNNING:
        stop_ns = _drawn(behaviour.stop_time, draw) if state >= TaskState.STARTING else 0
        return Step(TaskState.SHUTDOWN, min(stop_ns, grace_period_ns))
    if state < TaskState.PREPARING:
        return Step(TaskState.PREPARING, 0)
    if state is TaskState.PREPARING:
        return Step(TaskState.READY, _drawn(behaviour.prepare_time, draw))
    if task.desired_state is TaskState.READY and state is TaskState.READY:
        return None
    if state < TaskState.RUNNING:
        fails = _starts_badly(behaviour) and _fails(behaviour, draw)
        return Step(TaskState.FAILED if fails else TaskState.RUNNING, _drawn(behaviour.start_time, draw))
    if not _starts_badly(behaviour) and _fails(behaviour, draw):
        return Step(TaskState.FAILED, _drawn(behaviour.fails_after, draw))
    if behaviour.run_time is not None:
        return Step(TaskState.COMPLETE, _drawn(behaviour.run_time, draw))
    return None


def _starts_badly(behaviour: Behaviour) -> bool:
    return behaviour.fails_after is None or behaviour.fails_after.most_ns == 0


def _fails(behaviour: Behaviour, draw: Draw) -> bool:
    probability = behaviour.failure_probability or 0.0
    return probability > 0 and draw() < probability


def _drawn(span: Span | None, draw: Draw) -> int:
    if span is None:
        return 0
    width_ns = span.most_ns - span.least_ns
    return span.least_ns + (round(width_ns * draw()) if width_ns else 0)
