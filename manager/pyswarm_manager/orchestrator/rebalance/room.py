"""Whether tasks of several services that move at once all get the room meant for them, whoever is placed first. Pure.

The scheduler takes services in another order than the rebalancer looks at them. Were there room for one task alone on the best
node, the service that was not meant to have it could take it, and the other one would go to a worse place than it left. So each
node that a task is to move to must have room for it beside all that the other services move, wherever these are meant to go. (What
the moves of one service take from each other, `Moves.are_places_for_all` knows.)

Services that reserve nothing, and publish no port on the node, are in nobody's way.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyswarm_manager.scheduler.filters import FILTERS, Check, Nodes
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.scheduler.task_group import TaskGroup

MOST_SERVICES = 8
"""How many services that need room move at once at most: a look must not take long."""
_FILTERS = tuple(one for one in FILTERS if one.depends_on_load and one.name != "max replicas")


def needs_room(group: TaskGroup) -> bool:
    """Whether a task of this group takes anything of its node that another one may want."""
    return any(one.applies(group) for one in _FILTERS)


def fill(info: NodeInfo, group: TaskGroup, times: int = 1) -> None:
    """Let so many more tasks of the group have what they need of this node, whether it is there or not."""
    generic = [resource for kind, amount in group.demand.generic for resource in info.choose(kind, times * amount)]
    info.reserve(group.demand, times)
    info.hold(group.service.host_ports, generic)


@dataclass
class _Claims:
    """What one service is to get: so many places on which nodes."""

    group: TaskGroup
    checks: list[Check]
    by_node: Counter[str] = field(default_factory=Counter)


class Room:
    """The places that moving tasks are meant to get."""

    def __init__(self, infos: Mapping[str, NodeInfo], nodes: Nodes) -> None:
        self._infos = infos
        """Nodes by id, without any of those tasks."""
        self._nodes = nodes
        self._claims: dict[str, _Claims] = {}

    def claim(self, group: TaskGroup, node_id: str) -> None:
        """Note that a task of the group is to go to this node."""
        if not needs_room(group):
            return
        claims = self._claims.get(group.service_id)
        if claims is None:
            checks = [one.check(group, self._nodes) for one in _FILTERS if one.applies(group)]
            claims = self._claims[group.service_id] = _Claims(group, checks)
        claims.by_node[node_id] += 1

    def give_up(self, group: TaskGroup, node_id: str) -> None:
        """Forget it again."""
        claims = self._claims.get(group.service_id)
        if claims is None:
            return
        claims.by_node[node_id] -= 1
        if not claims.by_node[node_id]:
            del claims.by_node[node_id]
            if not claims.by_node:
                del self._claims[group.service_id]

    def is_kept(self) -> bool:
        """Whether each of the places stays free until its task comes, and no more services than `MOST_SERVICES` wait for theirs."""
        if len(self._claims) > MOST_SERVICES:
            return False
        return len(self._claims) < 2 or all(self._is_kept_for(claims) for claims in self._claims.values())

    def _is_kept_for(self, claims: _Claims) -> bool:
        others = [other for other in self._claims.values() if other is not claims]
        for node_id, count in claims.by_node.items():
            info = self._infos[node_id].copy()
            for other in others:
                fill(info, other.group, other.by_node.total())
            if count > 1:
                fill(info, claims.group, count - 1)
            if not all(check(info) for check in claims.checks):
                return False
        return True
