"""The shell of orphaning: which nodes an event makes it look at."""

from collections.abc import Iterable

from pyswarm_common.objects import Node
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.dispatcher.orphaning.decide import all_node_ids, decide
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class Orphaning(ControlLoop):
    """Gives up the tasks of nodes that were removed, or have been down for a day."""

    watched = (Node,)
    pause_s = 0.05

    def all_keys(self, view: View) -> Iterable[str]:
        """All nodes, also removed ones that left tasks behind."""
        return all_node_ids(view)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A node that is gone or down."""
        node = view.nodes.get(change.item.id)
        return (change.item.id,) if node is None or node.status.state == "down" else ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, node_ids=keys)

    def _cost(self, key: str) -> int:
        return 1 + len(self._store.view.tasks.of_node(key))
