"""The global orchestrator's shell: which services and nodes an event makes it look at."""

from collections.abc import Iterable

from pyswarm_common.ids import new_id
from pyswarm_common.objects import Node, Service, Task
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.orchestrator.attention import node_matters, task_matters
from pyswarm_manager.orchestrator.global_service.decide import decide, global_service_ids, node_key
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class GlobalOrchestrator(ControlLoop):
    """Keeps one task of each global service on each node that suits it."""

    watched = (Service, Task, Node)

    def all_keys(self, view: View) -> Iterable[str]:
        """All global services."""
        return global_service_ids(view)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A global service itself; that of a task that matters now; a node on which other services may have a task now."""
        match change.item:
            case Service() as service if _is_global(service):
                return (service.id,)
            case Task() as task if not task.slot and task_matters(change):
                service_of_task = view.services.get(task.service_id)
                return (task.service_id,) if service_of_task is not None and _is_global(service_of_task) else ()
            case Node() as node if node_matters(change):
                return (node_key(node.id),)
        return ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, new_id=new_id, keys=keys)

    def _cost(self, key: str) -> int:
        view = self._store.view
        return 1 + max(len(view.tasks.of_service(key)), len(view.nodes)) if key in view.services else 1 + len(view.services)


def _is_global(service: Service) -> bool:
    return service.spec.mode_name == "global"
