"""Which manager leads, as far as this one can find out: from its own etcd member, and while that is cut off from the others.

A manager whose etcd is down, frozen or without a raft leader may still reach the other managers' node ports, and they may well have
a leader. What they say is hearsay: it only decides whom to ask. A manager that does not lead says so and changes nothing.
"""

from collections.abc import Callable

from pyswarm_common.clock import Clock
from pyswarm_manager.store.store import Store

LOOK_PERIOD_S = 0.1


class LeaderView:
    """Who leads. `told` returns the node that the other managers name, "" for none (`PeerHealth.told_leader`)."""

    def __init__(self, store: Store, clock: Clock, told: Callable[[], str] = lambda: "") -> None:
        self._store = store
        self._clock = clock
        self._told = told

    @property
    def node_id(self) -> str | None:
        """The node that leads; None when that is not known. Hearsay never says that it is this one."""
        if not self._store.is_leaderless:
            return self._store.leader_node_id
        told = self._told()
        return told if told not in ("", self._store.node_id) else None

    @property
    def address(self) -> str:
        """The node port (host:port) of the manager that leads; "" when that is this one, or unknown."""
        node = self._store.view.nodes.get(self.node_id or "")
        return node.manager.address if node is not None and node.manager is not None and node.id != self._store.node_id else ""

    @property
    def is_leaderless(self) -> bool:
        """Whether neither this manager nor those that it reaches know of a leader: nothing can be changed now.

        False also while the others still name this manager: they will elect another one in a moment.
        """
        return self._store.is_leaderless and not self._told()

    @property
    def is_told(self) -> bool:
        """Whether another manager names a leader."""
        return self._told() != ""

    @property
    def is_cut_off(self) -> bool:
        """Whether this manager's own etcd knows no leader, though others do."""
        return self._store.is_leaderless and self.node_id is not None

    async def wait_other_than(self, node_id: str | None) -> None:
        """Return when another node than this one leads, or none is known to."""
        while self.node_id == node_id:
            if self._store.is_leaderless:
                await self._clock.sleep(LOOK_PERIOD_S)
            else:
                await self._store.wait_leader_other_than(node_id)
