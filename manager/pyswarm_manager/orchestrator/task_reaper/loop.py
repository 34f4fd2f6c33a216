"""The task reaper's shell: which services an event makes it look at."""

from collections.abc import Iterable

from pyswarm_common.objects import Cluster, Node, Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.orchestrator.restart import is_node_gone
from pyswarm_manager.orchestrator.task_reaper.decide import decide
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class TaskReaper(ControlLoop):
    """Deletes tasks that nobody needs."""

    watched = (Cluster, Node, Service, Task)
    pause_s = 0.1

    def all_keys(self, view: View) -> Iterable[str]:
        """All services that have tasks."""
        return sorted({task.service_id for task in view.tasks if task.service_id})

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A deleted service or a job; that of a task that ended; those with tasks on a lost node; all when settings changed."""
        match change.item:
            case Cluster():
                return self.all_keys(view)
            case Service() as service if change.after is None or service.spec.is_job:
                return (service.id,)
            case Task() as task if task.service_id and change.after is not None and _may_be_deleted(task):
                return (task.service_id,)
            case Node() as node if is_node_gone(view.nodes.get(node.id)):
                return sorted({task.service_id for task in view.tasks.of_node(node.id) if task.service_id})
        return ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, service_ids=keys)


def _may_be_deleted(task: Task) -> bool:
    return task.desired_state > TaskState.RUNNING or task.is_terminal
