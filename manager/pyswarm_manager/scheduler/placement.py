"""Nodes as the scheduler sees them, groups of identical tasks, and the order in which nodes are taken. Pure.

A group's suitable nodes stand in a tree, one level per preference: at each level the branch with the fewest tasks of the
service is next, and below the last the node with the fewest tasks of the service, then with the fewest in all, then with the
lowest id.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Node, Task
from pyswarm_common.specs import Placement, ResourceAmounts, TaskTemplate
from pyswarm_manager.scheduler.constraints import Constraint, label_of, parse_constraints
from pyswarm_manager.store.tables import View

_NO_PLACEMENT = Placement()
_NO_RESERVATION = ResourceAmounts()


@dataclass(slots=True)
class NodeInfo:
    """A node with what is left of it, kept up while tasks are placed. Tasks that ended or were told to stop do not count."""

    node: Node
    free_nano_cpus: int
    free_memory_bytes: int
    task_count: int = 0
    service_counts: dict[str, int] = field(default_factory=dict)
    """Tasks by service, for the services that have tasks to place."""


@dataclass
class TaskGroup:
    """Tasks of one service made from one task spec: what suits one of them suits all."""

    service_id: str
    template: TaskTemplate
    tasks: list[Task] = field(default_factory=list)

    @cached_property
    def placement(self) -> Placement:
        """Its rules of placement."""
        return self.template.placement or _NO_PLACEMENT

    @cached_property
    def reservation(self) -> ResourceAmounts:
        """What each task must find free."""
        return reservation_of(self.template)

    @cached_property
    def constraints(self) -> tuple[Constraint, ...] | None:
        """Its constraints; None when they cannot be understood."""
        try:
            return parse_constraints(self.placement.constraints or ())
        except InvalidArgument:
            return None

    def put_on(self, info: NodeInfo) -> None:
        """Count one more of its tasks on that node."""
        info.task_count += 1
        info.service_counts[self.service_id] = info.service_counts.get(self.service_id, 0) + 1
        info.free_nano_cpus -= self.reservation.nano_cpus
        info.free_memory_bytes -= self.reservation.memory_bytes

    def remove_from(self, info: NodeInfo) -> None:
        """Count one less of its tasks on that node."""
        info.task_count -= 1
        info.service_counts[self.service_id] = info.service_counts.get(self.service_id, 0) - 1
        info.free_nano_cpus += self.reservation.nano_cpus
        info.free_memory_bytes += self.reservation.memory_bytes


def reservation_of(template: TaskTemplate) -> ResourceAmounts:
    """Return what a task of this template must find free."""
    return (template.resources.reservations if template.resources else None) or _NO_RESERVATION


def node_infos(view: View, service_ids: Iterable[str]) -> list[NodeInfo]:
    """Return all nodes, by id, with the tasks that they carry; counts by service only for `service_ids`."""
    wanted = frozenset(service_ids)
    reservations: dict[str, ResourceAmounts] = {}
    infos: list[NodeInfo] = []
    for node in sorted(view.nodes, key=lambda n: n.id):
        resources = node.description.resources
        info = NodeInfo(node, resources.nano_cpus, resources.memory_bytes)
        for (service_id, task_spec_id), count in view.tasks.load_of(node.id).items():
            reservation = reservations.get(task_spec_id)
            if reservation is None:
                spec = view.task_specs.get(task_spec_id)
                reservation = reservations[task_spec_id] = reservation_of(spec.template) if spec else _NO_RESERVATION
            info.task_count += count
            info.free_nano_cpus -= count * reservation.nano_cpus
            info.free_memory_bytes -= count * reservation.memory_bytes
            if service_id in wanted:
                info.service_counts[service_id] = info.service_counts.get(service_id, 0) + count
        infos.append(info)
    return infos


Take = Callable[[NodeInfo], bool]
"""Puts a task on a node; returns whether the node can take another one."""


class _Leaf:
    """Nodes that no preference tells apart."""

    def __init__(self, nodes: Iterable[NodeInfo], service_id: str) -> None:
        self._service_id = service_id
        self._heap = [(n.service_counts.get(service_id, 0), n.task_count, n.node.id, n) for n in nodes]
        heapq.heapify(self._heap)

    def place(self, take: Take) -> NodeInfo | None:
        """Put one task on the best node; returns it, or None when no node is left."""
        if not self._heap:
            return None
        of_service, _, node_id, info = self._heap[0]
        if take(info):
            heapq.heapreplace(self._heap, (of_service + 1, info.task_count, node_id, info))
        else:
            heapq.heappop(self._heap)
        return info


class _Branches:
    """One level of the preference tree: the values of a label, each with what is below."""

    def __init__(self, children: Iterable[tuple[int, str, "Tree"]]) -> None:
        self._heap = list(children)
        heapq.heapify(self._heap)

    def place(self, take: Take) -> NodeInfo | None:
        """Put one task into the branch that has the fewest; returns the node, or None when no node is left."""
        while self._heap:
            count, value, child = self._heap[0]
            info = child.place(take)
            if info is not None:
                heapq.heapreplace(self._heap, (count + 1, value, child))
                return info
            heapq.heappop(self._heap)
        return None


Tree = _Leaf | _Branches


def build_tree(group: TaskGroup, all_nodes: Sequence[NodeInfo], suitable: Sequence[NodeInfo]) -> Tree:
    """Return the group's preference tree. Nodes that are not suitable still count: their tasks are in their branch."""
    spreads = [p.spread.spread_descriptor for p in group.placement.preferences or () if p.spread is not None]
    return _build_level(group.service_id, spreads, all_nodes, suitable)


def _build_level(service_id: str, spreads: Sequence[str], all_nodes: Iterable[NodeInfo], suitable: Iterable[NodeInfo]) -> Tree:
    if not spreads:
        return _Leaf(suitable, service_id)
    all_by_value = _by_label(spreads[0], all_nodes)
    return _Branches(
        (
            sum(n.service_counts.get(service_id, 0) for n in all_by_value[value]),
            value,
            _build_level(service_id, spreads[1:], all_by_value[value], members),
        )
        for value, members in _by_label(spreads[0], suitable).items()
    )


def _by_label(descriptor: str, nodes: Iterable[NodeInfo]) -> dict[str, list[NodeInfo]]:
    by_value: dict[str, list[NodeInfo]] = {}
    for info in nodes:
        by_value.setdefault(label_of(info.node, descriptor) or "", []).append(info)
    return by_value
