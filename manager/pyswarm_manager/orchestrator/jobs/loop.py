"""The job orchestrator's shell: which jobs an event makes it look at."""

from collections.abc import Iterable

from pyswarm_common.ids import new_id
from pyswarm_common.objects import Node, Service, Task
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.orchestrator.attention import node_matters
from pyswarm_manager.orchestrator.jobs.decide import all_job_ids, decide
from pyswarm_manager.orchestrator.restart import is_node_unusable
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class JobOrchestrator(ControlLoop):
    """Runs jobs until they have completed."""

    watched = (Service, Task, Node)

    def all_keys(self, view: View) -> Iterable[str]:
        """All jobs."""
        return all_job_ids(view)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A job itself; the job of a task that matters now; global jobs when a node changed, and others that had tasks on it."""
        match change.item:
            case Service() as service if service.spec.is_job:
                return (service.id,)
            case Task() as task if task.job_iteration is not None and _matters(change.after):
                return (task.service_id,)
            case Node() as node if node_matters(change):
                here = set()
                if is_node_unusable(view.nodes.get(node.id)):
                    here = {task.service_id for task in view.tasks.of_node(node.id) if task.job_iteration is not None}
                return sorted(here | {service.id for service in view.services if service.spec.mode_name == "global-job"})
        return ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, new_id=new_id, service_ids=keys)


def _matters(task: object) -> bool:
    """Whether a task's new form may ask for something: it is gone, has ended, or has to go."""
    return not isinstance(task, Task) or task.is_terminal or bool(task.rejection)
