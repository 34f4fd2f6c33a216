"""The allocator's shell: which services an event makes it look at; networks and new tasks are looked at every time."""

from collections.abc import Iterable

from pyswarm_common.clock import Clock
from pyswarm_common.objects import Network, Node, Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.decide import NEW_TASKS, NODES, decide, last_addresses
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class Allocator(ControlLoop):
    """Gives networks, nodes, services and tasks their numbers and addresses."""

    watched = (Network, Node, Service, Task)

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock)
        self._last_given: dict[str, int] = {}
        """A hint only: where to go on in each network, better than what the store's newest task tells."""

    def all_keys(self, view: View) -> Iterable[str]:
        """All services, and what lies beside them."""
        return (NEW_TASKS, NODES, *sorted(service.id for service in view.services))

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A service itself; for networks and tasks the key under which all new tasks are looked at, for nodes that of all nodes."""
        match change.item:
            case Service() as service:
                return (service.id,)
            case Network() as network:
                return self._keys_of_network(change, network, view)
            case Node():
                return (NEW_TASKS, NODES) if change.before is None or change.after is None else ()
            case Task() as task if self._matters(change, task, view):
                return (NEW_TASKS,)
        return ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, service_ids=keys, last_given=self._last_given)

    def after_commit(self, decisions: Decisions) -> None:
        """Remember the addresses given last."""
        self._last_given.update(last_addresses(decisions))

    def _keys_of_network(self, change: Change, network: Network, view: View) -> Iterable[str]:
        if change.after is None:
            self._last_given.pop(network.id, None)
        if network.spec.ingress and (change.before is None or change.after is None):
            return self.all_keys(view)  # whoever publishes ports has, or had, a place on it
        return (NEW_TASKS,)

    def _matters(self, change: Change, task: Task, view: View) -> bool:
        """Whether a task wants addresses, or freed some that another may be waiting for."""
        if change.before is None:
            return task.status.state is TaskState.NEW
        is_freed = change.after is None or task.is_terminal
        return is_freed and bool(task.attachments) and bool(view.tasks.unplaced(TaskState.NEW))
