"""The scheduler's shell: which events may let a pending task find a node."""

from collections.abc import Iterable

from pyswarm_common.objects import Node, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.scheduler.decide import PENDING_TASKS, decide
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class Scheduler(ControlLoop):
    """Gives pending tasks their nodes."""

    watched = (Node, Task)
    pause_s = 0.01

    def all_keys(self, view: View) -> Iterable[str]:
        """The one key there is."""
        return (PENDING_TASKS,)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """The one key, when a task became pending; while some are, also when a node changed or a task left its node."""
        if not view.tasks.unplaced(TaskState.PENDING):
            return ()
        match change.after or change.before:
            case Task() as task:
                is_wanted = task.status.state is TaskState.PENDING or change.after is None or not _counts(task)
                return (PENDING_TASKS,) if is_wanted else ()
            case Node():
                return (PENDING_TASKS,)
        return ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit)


def _counts(task: Task) -> bool:
    """Whether the task takes up room on its node."""
    return task.desired_state <= TaskState.RUNNING and task.status.state <= TaskState.RUNNING
