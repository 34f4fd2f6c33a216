"""The replicated orchestrator's shell: which services an event makes it look at."""

from collections.abc import Iterable

from pyswarm_common.ids import new_id
from pyswarm_common.objects import Node, Service, Task
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.orchestrator.attention import node_matters, task_matters
from pyswarm_manager.orchestrator.replicated.decide import all_service_ids, decide
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class ReplicatedOrchestrator(ControlLoop):
    """Keeps replicated services at their number of tasks."""

    watched = (Service, Task, Node)

    def all_keys(self, view: View) -> Iterable[str]:
        """All services, also deleted ones that left tasks behind."""
        return all_service_ids(view)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A service itself; the service of a task that matters now; those with tasks on a node that is another one now."""
        match change.item:
            case Service() as service:
                return (service.id,)
            case Task() as task if task.service_id and task_matters(change):
                return (task.service_id,)
            case Node() as node if node_matters(change):
                return sorted({task.service_id for task in view.tasks.of_node(node.id) if task.service_id})
        return ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, new_id=new_id, service_ids=keys)
