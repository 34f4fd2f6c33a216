"""Which task of a service would be better placed elsewhere, asked of the scheduler's own rules. Pure.

A task is taken off its node in thought, and the node looked for that the scheduler would give it now. To go there is a move when
that place is strictly emptier: of the branches of the preference tree where the two places part, the new one holds fewer of the
service's tasks than the old one without the task; below the last branch the node does, or holds as many, and fewer in all. So each
move lowers the sum of the squares of these counts on the level where the places part, and changes none above: moving comes to an
end, and no task moves back. It also means that the successor will be given such a place, as the scheduler does not count what is to
move either (`scheduler/moving.py`).

Tasks of jobs come and go: what they add to a node is no reason to move.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from pyswarm_common.errors import NotFound
from pyswarm_common.objects import Node, Service, Task
from pyswarm_manager.orchestrator.rebalance.room import Room, fill, needs_room
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.constraints import label_of
from pyswarm_manager.scheduler.filters import FILTERS
from pyswarm_manager.scheduler.groups import GroupMaker
from pyswarm_manager.scheduler.moving import MovingTasks, takes_room
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.scheduler.task_group import TaskGroup
from pyswarm_manager.store.tables import View

Path = tuple[str, ...]
"""The values of a node's labels along the levels of the preference tree."""
_OF_THE_NODE_ALONE = ("ready", "constraints", "platform")
"""Filters whose answer does not depend on what runs there."""


class Load:
    """All nodes as the moves that are thought of change them."""

    def __init__(self, view: View, now_ns: int) -> None:
        self.cluster = view.derived(ClusterLoad)
        self.groups = GroupMaker(view, self.cluster, now_ns)
        self._view = view
        self.nodes: dict[str, NodeInfo] = dict(self.cluster.nodes)
        """All nodes by id; tasks that are to move are still on theirs, and count in its total."""
        self.room = Room(self.cluster.nodes, self.cluster)
        self._leaving = view.derived(MovingTasks).by_node
        self._of_jobs: Counter[str] | None = None

    @property
    def has_moves(self) -> bool:
        """Whether any task of the cluster is to move."""
        return any(self._leaving.values())

    def ids_of_moving_services(self) -> set[str]:
        """Return the services of which tasks are to move, and may be in the way of others that want room."""
        moving = self._view.derived(MovingTasks)
        groups = (self.groups.make(s.id, s.task_spec_id) for s in self._view.services if moving.of_service(s.id))
        return {group.service_id for group in groups if group is not None and needs_room(group)}

    def lasting_on(self, node_id: str) -> int:
        """Return how many tasks a node has without those of jobs."""
        if self._of_jobs is None:
            jobs = (service for service in self._view.services if service.spec.is_job)
            tasks = (task for job in jobs for task in self._view.tasks.of_service(job.id))
            self._of_jobs = Counter(task.node_id for task in tasks if takes_room(task))
        return self.nodes[node_id].task_count - self._of_jobs[node_id]

    def reserve(self, node_id: str, group: TaskGroup) -> None:
        """Count one more task of the group on a node; what was known of it before stays as it was."""
        info = self.nodes[node_id] = self.nodes[node_id].copy()
        fill(info, group)
        self.room.claim(group, node_id)

    def give_back(self, info: NodeInfo, group: TaskGroup) -> None:
        """Undo the latest `reserve` of this node, which was like this before."""
        self.nodes[info.id] = info
        self.room.give_up(group, info.id)

    def count_leaving(self, node_id: str, change: int) -> None:
        """Note that one more task is to leave a node, or one less."""
        self._leaving[node_id] += change


class Moves:
    """One service on those nodes. Of its tasks those that are marked to move are taken off already."""

    def __init__(self, group: TaskGroup, load: Load) -> None:
        self._group = group
        self._load = load
        self._moving = group.moving = dict(group.moving)
        filters = [one for one in FILTERS if one.applies(group)]
        lasting = [one.check(group, load.cluster) for one in filters if one.name in _OF_THE_NODE_ALONE]
        self._checks = [one.check(group, load.cluster) for one in filters if one.name not in _OF_THE_NODE_ALONE]
        spreads = group.demand.spreads
        self._path_of: dict[str, Path] = dict.fromkeys(load.nodes, ())
        if spreads:
            self._path_of = {node_id: _path(info.node, spreads) for node_id, info in load.nodes.items()}
        self._usable: dict[Path, list[str]] = {}
        """Nodes that suit the service as far as that does not depend on what runs there, by branch."""
        for node_id, info in load.nodes.items():
            if all(check(info) for check in lasting):
                self._usable.setdefault(self._path_of[node_id], []).append(node_id)
        self._branches: Counter[Path] = Counter()
        """The service's tasks by branch, without those that are to move."""
        self._left: Counter[Path] = Counter()
        """Those that are to move, by the branch that they leave."""
        for counter, by_node in ((self._branches, group.counts), (self._left, group.moving)):
            for node_id, count in by_node.items():
                self._count_in(counter, node_id, count)

    @property
    def may_be_uneven(self) -> bool:
        """Whether the service has so many tasks on a node, or preferences, that its spread may be uneven."""
        return bool(self._group.demand.spreads) or max(self._group.counts.values(), default=0) > 1

    @property
    def is_room_kept(self) -> bool:
        """Whether no other service takes from these moves what is meant for them, nor they from others."""
        return not needs_room(self._group) or self._load.room.is_kept()

    def target(self, source_id: str) -> NodeInfo | None:
        """Return the node that a task taken off this one would be given; None when that is this one again, or a bad one."""
        chosen = self._first_place()
        if chosen is None or chosen.id == source_id or source_id not in self._path_of or self._group.is_faulty(chosen.id):
            return None
        return chosen

    def are_places_for_all(self, targets: Sequence[NodeInfo]) -> bool:
        """Whether the scheduler would fill the same nodes if none of those was there yet that were put on them, in this order."""
        for info in reversed(targets):
            self.take_from(info)
        filled: list[NodeInfo] = []
        while len(filled) < len(targets) and (place := self._first_place()) is not None:
            filled.append(place)
            self.put_on(place)
        for info in reversed(filled):
            self.take_from(info)
        for info in targets:
            self.put_on(info)
        return sorted(info.id for info in filled) == sorted(info.id for info in targets)

    def _first_place(self) -> NodeInfo | None:
        for path in sorted(self._usable, key=self._branch_rank):
            infos = [self._load.nodes[node_id] for node_id in self._usable[path]]
            if self._checks:
                infos = [info for info in infos if all(check(info) for check in self._checks)]
            if infos:
                return min(infos, key=self._group.rank)
        return None

    def is_emptier(self, target_id: str, source_id: str) -> bool:
        """Whether the target, or its branch, has fewer of the service's tasks than the place that the task was taken off."""
        there, here = self._parting_counts(target_id, source_id)
        return there < here

    def is_emptier_in_all(self, target_id: str, source_id: str) -> bool:
        """Whether the target is as empty of the service's tasks, stands in the same branch, and has fewer tasks in all.

        The tasks of others that are to move count where they still are: a mark is not taken back because others got or lost theirs.
        """
        there, here = self._parting_counts(target_id, source_id)
        is_beside = self._path_of[target_id] == self._path_of[source_id]
        return is_beside and there == here and self._staying_on(target_id) < self._staying_on(source_id)

    def sources(self, tasks: Iterable[Task]) -> Iterator[Collection[Task]]:
        """Yield, fullest branch first, the tasks of each branch's fullest usable node: no others gain more by moving."""
        by_node: dict[str, list[Task]] = {}
        for task in tasks:
            by_node.setdefault(task.node_id, []).append(task)
        fullest = []
        for path, node_ids in self._usable.items():
            used = (
                (self._group.counts.get(node_id, 0), self._load.nodes[node_id].task_count, node_id)
                for node_id in node_ids
                if node_id in by_node
            )
            if (found := max(used, default=None)) is not None:
                fullest.append(([self._branches[part] for part in _parts(path)], found))
        for _, (_, _, node_id) in sorted(fullest, reverse=True):
            yield by_node[node_id]

    def take_off(self, node_id: str) -> None:
        """Count one task of the service less there."""
        self._count(node_id, -1)
        self._count_leaving(node_id, 1)

    def put_back(self, node_id: str) -> None:
        """Count it again."""
        self._count(node_id, 1)
        self._count_leaving(node_id, -1)

    def put_on(self, info: NodeInfo) -> None:
        """Count one task of the service more there."""
        self._count(info.id, 1)
        self._load.reserve(info.id, self._group)

    def take_from(self, info: NodeInfo) -> None:
        """Undo the latest `put_on` of this node."""
        self._count(info.id, -1)
        self._load.give_back(info, self._group)

    def _branch_rank(self, path: Path) -> list[tuple[int, int, str]]:
        """The place of a branch among all, as the scheduler's tree of preferences gives it."""
        return [(self._branches[part], -self._left[part], part[-1]) for part in _parts(path)]

    def _parting_counts(self, target_id: str, source_id: str) -> tuple[int, int]:
        """The service's tasks in the branches where the ways to both nodes part, or on the nodes themselves."""
        for part, source_part in zip(_parts(self._path_of[target_id]), _parts(self._path_of[source_id]), strict=True):
            if part != source_part:
                return self._branches[part], self._branches[source_part]
        return self._group.counts.get(target_id, 0), self._group.counts.get(source_id, 0)

    def _staying_on(self, node_id: str) -> int:
        return self._load.lasting_on(node_id) - self._moving.get(node_id, 0)

    def _count(self, node_id: str, change: int) -> None:
        counts = self._group.counts
        counts[node_id] = counts.get(node_id, 0) + change
        if not counts[node_id]:
            del counts[node_id]
        self._count_in(self._branches, node_id, change)

    def _count_leaving(self, node_id: str, change: int) -> None:
        self._moving[node_id] = self._moving.get(node_id, 0) + change
        self._count_in(self._left, node_id, change)
        self._load.count_leaving(node_id, change)

    def _count_in(self, counter: Counter[Path], node_id: str, change: int) -> None:
        for part in _parts(self._path_of.get(node_id, ())):
            counter[part] += change


def moves_of(service: Service, load: Load) -> Moves:
    """Return the moves of a service's present task spec. Raises NotFound when that is gone."""
    group = load.groups.make(service.id, service.task_spec_id)
    if group is None:
        raise NotFound(f"task spec {service.task_spec_id} not found")
    return Moves(group, load)


def _path(node: Node, spreads: Iterable[str]) -> Path:
    return tuple(label_of(node, label) or "" for label in spreads)


def _parts(path: Path) -> list[Path]:
    """The branches on the way: of (a, b, c) these are (a), (a, b) and (a, b, c)."""
    return [path[:depth] for depth in range(1, len(path) + 1)]
