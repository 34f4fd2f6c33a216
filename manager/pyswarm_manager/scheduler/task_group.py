"""Identical tasks that look for nodes: what suits one of them suits all. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyswarm_manager.scheduler.demand import NO_SERVICE_DEMAND, NO_TEMPLATE_DEMAND, ServiceDemand, TemplateDemand
from pyswarm_manager.scheduler.node_info import NodeInfo

FAULTY_FAILURES = 5
"""So many failures of a service on a node, lately, put the node behind all others (SwarmKit's `maxFailures`)."""
Rank = tuple[bool, float, int, str]
"""Whether the node is faulty, its place by the service's strategy, by the number of its tasks, and its id."""
_NONE: Mapping[str, int] = {}


@dataclass(slots=True)
class TaskGroup:
    """What the tasks ask for, and where tasks of their service are now."""

    service_id: str = ""
    demand: TemplateDemand = NO_TEMPLATE_DEMAND
    service: ServiceDemand = NO_SERVICE_DEMAND
    counts: dict[str, int] = field(default_factory=dict)
    """Tasks of the service by node id: those that run there or should, and those that were placed meanwhile."""
    failures: Mapping[str, int] = field(default_factory=lambda: _NONE)
    """Recent failures of the service by node id."""
    moving: Mapping[str, int] = field(default_factory=lambda: _NONE)
    """Tasks of the service by node id that are not in `counts`, as they are to move, but still run there."""

    def count_on(self, node_id: str) -> int:
        """Return how many tasks of the service a node has in truth."""
        return self.counts.get(node_id, 0) + self.moving.get(node_id, 0)

    def is_faulty(self, node_id: str) -> bool:
        """Whether the service kept failing on that node."""
        return self.failures.get(node_id, 0) >= FAULTY_FAILURES

    def rank(self, info: NodeInfo) -> Rank:
        """Return the node's place among those that no preference tells apart: the least is taken first."""
        node_id = info.id
        if self.service.packs:
            return self.is_faulty(node_id), -info.fullness, -info.task_count, node_id
        return self.is_faulty(node_id), self.counts.get(node_id, 0), info.task_count, node_id

    def ranks(self, infos: Iterable[NodeInfo]) -> list[Rank]:
        """Return the places of many nodes."""
        if self.service.packs or self.failures:
            return [self.rank(info) for info in infos]
        count_of = self.counts.get
        return [(False, count_of(info.id, 0), info.task_count, info.id) for info in infos]
