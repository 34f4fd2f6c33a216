"""In which order nodes would be taken, as a sort key: levels of preference first, then the group's rank. Pure.

For those who compare nodes without placing anything. The least key is the node that `placing.py` would take next.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from pyswarm_manager.scheduler.constraints import label_of
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.scheduler.task_group import Rank, TaskGroup

RankKey = tuple[tuple[tuple[int, int, str], ...], Rank]
"""Per level of preference the number of the service's tasks in the branch, minus the number of those that are to leave it, and the
branch's value; then the rank in the last branch."""


def rank_key(group: TaskGroup, infos: Iterable[NodeInfo]) -> Callable[[NodeInfo], RankKey]:
    """Return the sort key of nodes among all these nodes, as the group's counts are now."""
    spreads = group.demand.spreads
    branches: Counter[tuple[str, ...]] = Counter()
    leaving: Counter[tuple[str, ...]] = Counter()
    if spreads:
        for info in infos:
            path = _path(info, spreads)
            for depth in range(1, len(path) + 1 if group.count_on(info.id) else 0):
                branches[path[:depth]] += group.counts.get(info.id, 0)
                leaving[path[:depth]] += group.moving.get(info.id, 0)

    def key(info: NodeInfo) -> RankKey:
        path = _path(info, spreads)
        parts = [path[:depth] for depth in range(1, len(path) + 1)]
        return tuple((branches[part], -leaving[part], part[-1]) for part in parts), group.rank(info)

    return key


def _path(info: NodeInfo, spreads: Iterable[str]) -> tuple[str, ...]:
    return tuple(label_of(info.node, label) or "" for label in spreads)
