"""The scheduler's shell: which events may let a pending task find a node."""

from collections.abc import Iterable

from pyswarm_common.objects import Node, Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import TASKS_PER_LOOK, ControlLoop
from pyswarm_manager.scheduler.decide import PENDING_TASKS, decide
from pyswarm_manager.scheduler.dependencies import touched_by
from pyswarm_manager.scheduler.pending import is_pending
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View

SERVICES_PER_LOOK = 500
"""Somewhat more than a look can place tasks; services whose tasks find no node cost no operation."""


class Scheduler(ControlLoop):
    """Gives pending tasks their nodes. Keys are ids of services, and PENDING_TASKS for all."""

    watched = (Node, Service, Task)
    pause_s = 0.01

    def all_keys(self, view: View) -> Iterable[str]:
        """All pending tasks."""
        return (PENDING_TASKS,)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """The service of a task that became pending, one that changed, and those that wait for it; while tasks are pending, all of
        them when a node changed or a task left its node."""
        if not view.tasks.unplaced(TaskState.PENDING):
            return ()
        match change.item:
            case Task() as task:
                if change.after is not None and is_pending(task):
                    return (task.service_id,)
                if change.after is None or not _counts(task):
                    return (PENDING_TASKS,)
            case Node():
                return (PENDING_TASKS,)
            case Service() as service:
                return (service.id, *touched_by(change, view))
        return touched_by(change, view)

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, keys)

    def _cost(self, key: str) -> int:
        return TASKS_PER_LOOK // SERVICES_PER_LOOK


def _counts(task: Task) -> bool:
    """Whether the task takes up room on its node."""
    return task.desired_state <= TaskState.RUNNING and task.status.state <= TaskState.RUNNING
