"""What became of the tasks that an update made: they began to run, failed early, or neither yet. Pure.

A failure is a task of the service's present generation that ended by itself within `monitor` after it began to run, or before. Both
times are of one clock, its agent's. A unit fails once at most, however often its task is restarted. As the history of a unit may be
short, or none, a task carries what became of the unit's earlier ones of its generation (`Task.earlier_outcome`).
"""

from typing import Literal, TypeAlias

from pyswarm_common.objects import Service, Task
from pyswarm_common.state_times import read_state_times
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.update.units import KeyT, Unit

EarlierOutcome: TypeAlias = Literal["", "ran", "failed"]

_ENDED_BY_ITSELF = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


def failed_early(task: Task, monitor_ns: int) -> bool:
    """Whether the task ended by itself before it had run for `monitor_ns`."""
    if task.status.state not in _ENDED_BY_ITSELF or task.rejection:
        return False
    began_ns = _began_ns(task)
    return began_ns is None or task.status.at_ns - began_ns <= monitor_ns


def has_begun(task: Task) -> bool:
    """Whether the task got as far as running, or failed on its way."""
    state = task.status.state
    if state is TaskState.RUNNING or (state in _ENDED_BY_ITSELF and not task.rejection):
        return True
    return state.is_terminal and _began_ns(task) is not None


def outcome_for_successor(service: Service, task: Task, monitor_ns: int) -> EarlierOutcome:
    """Return what a successor of this task, made for the service as it is now, has to carry."""
    if task.spec_generation != service.spec_generation:
        return ""
    if task.earlier_outcome == "failed" or failed_early(task, monitor_ns):
        return "failed"
    return "ran" if has_begun(task) else task.earlier_outcome


def failure_of(service: Service, unit: Unit[KeyT], monitor_ns: int) -> Task | None:
    """Return the task by which the unit has failed in the present update: the latest that is still known; None if it has not."""
    generation = service.spec_generation
    own = [t for t in unit.tasks if t.spec_generation == generation and (t.is_terminal or t.earlier_outcome == "failed")]
    if not own:
        return None
    failed = [task for task in own if failed_early(task, monitor_ns)]
    if failed:
        return max(failed, key=lambda t: (t.status.at_ns, t.id))
    return next((task for task in own if task.earlier_outcome == "failed"), None)


def begun_at_ns(service: Service, unit: Unit[KeyT]) -> int | None:
    """Return when the unit's first task of this generation was known to run or to have failed; None: not yet.

    In nanoseconds of the clock of whoever led then, as that is when the next unit's delay begins; 0 when it was long ago.
    """
    generation = service.spec_generation
    own = [task for task in unit.tasks if task.spec_generation == generation]
    if any(task.earlier_outcome for task in own):
        return 0
    begun = [task.updated_at_ns for task in own if has_begun(task)]
    if begun:
        return min(begun)
    current = unit.current  # made from this very task spec, in an earlier generation
    is_kept = current is not None and current.spec_generation != generation and has_begun(current)
    return 0 if is_kept else None


def _began_ns(task: Task) -> int | None:
    return next((at_ns for state, at_ns in read_state_times(task.state_times) if state is TaskState.RUNNING), None)
