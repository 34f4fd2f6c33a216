"""The rebalancer's shell: which services an event makes it look at."""

from collections.abc import Iterable

from pyswarm_common.objects import Node, Service, Task
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.service_labels import asks_to_rebalance
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.orchestrator.rebalance.decide import all_service_ids, decide
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class Rebalancer(ControlLoop):
    """Marks tasks that would be better placed elsewhere."""

    watched = (Node, Service, Task)
    pause_s = 0.2

    def all_keys(self, view: View) -> Iterable[str]:
        """All services that ask for it, and those with marks from when they did."""
        return all_service_ids(view)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A service that asks or asked; one whose task runs or is over; all that ask, when a node takes tasks now, or a task has
        moved."""
        match change.item:
            case Service() as service:
                asks = any(isinstance(one, Service) and asks_to_rebalance(one.spec.labels) for one in change)
                return (service.id,) if asks else ()
            case Task() as task:
                if task.replacement_reason is ReplacementReason.REBALANCED and task.status.state is TaskState.RUNNING:
                    return _all_that_ask(view)
                has_settled = change.after is None or task.status.state >= TaskState.RUNNING
                return (task.service_id,) if has_settled and _asks(view, task.service_id) else ()
            case Node():
                if _offer(change.after) not in (None, _offer(change.before)):
                    return _all_that_ask(view)
        return ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, service_ids=keys)

    def _cost(self, key: str) -> int:
        view = self._store.view  # all nodes are looked at for each service
        return 1 + len(view.tasks.of_service(key)) + len(view.nodes) // 2


def _all_that_ask(view: View) -> list[str]:
    return sorted(service.id for service in view.services if asks_to_rebalance(service.spec.labels))


def _asks(view: View, service_id: str) -> bool:
    service = view.services.get(service_id)
    return service is not None and asks_to_rebalance(service.spec.labels)


def _offer(node: object) -> object:
    """What decides whether tasks may be placed on a node that takes any; None when it takes none."""
    if not isinstance(node, Node) or node.status.state != "ready" or node.spec.availability != "active":
        return None
    description = node.description
    return (
        node.role,
        node.spec.labels,
        node.status.since_ns,
        description.hostname,
        description.engine_labels,
        description.resources,
    )
