"""The constraint enforcer's shell: which nodes an event makes it look at."""

from collections.abc import Iterable

from pyswarm_common.objects import Node
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.orchestrator.constraint_enforcer.decide import decide
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View


class ConstraintEnforcer(ControlLoop):
    """Finds the tasks that their nodes may keep no longer.

    Only nodes are watched: the scheduler places tasks on nodes that suit them at that moment, so only a node's change can make
    it otherwise.
    """

    watched = (Node,)
    pause_s = 0.05

    def all_keys(self, view: View) -> Iterable[str]:
        """All nodes."""
        return sorted(node.id for node in view.nodes)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A node that is there."""
        return () if change.after is None else (change.after.id,)

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, node_ids=keys)

    def _cost(self, key: str) -> int:
        return 1 + len(self._store.view.tasks.of_node(key))
