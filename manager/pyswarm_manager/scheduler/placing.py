"""One round of placements: nodes as they fill up, on top of the load that the view knows. Pure.

A group takes its nodes one after the other, always the best that is suitable at that moment (`TaskGroup.rank`; before that the
levels of its preference tree). Nobody looks at all nodes for that if it can be avoided:
  * Nodes without a task of the service come first, and those stand in the order of their load already: they are gone through from
    the front until enough are suitable. A service of one task mostly takes the first or second node.
  * Only when they are used up, the others are put into a heap; whether one is suitable is asked when it comes to the top.
  * Nodes that the constraints exclude are left out of that order from the start.
What no node took, no node will take in this round, as nodes only fill up: that is remembered by what was asked for.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pyswarm_common.specs import GenericResource
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.constraints import Constraint, label_of
from pyswarm_manager.scheduler.demand import TemplateDemand
from pyswarm_manager.scheduler.filters import FILTERS, Check, Filter
from pyswarm_manager.scheduler.load_order import Entry, LoadOrder
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.scheduler.task_group import Rank, TaskGroup


class Placed(NamedTuple):
    """A node for one task, and what the task gets of it."""

    node_id: str
    generic_resources: tuple[GenericResource, ...] = ()


class Placing:
    """Nodes by what is left of them after the placements of this round."""

    def __init__(self, load: ClusterLoad) -> None:
        self.load = load
        self.looks = 0
        """How many nodes were looked at for groups that found none: the costly part."""
        self._infos: dict[str, NodeInfo] = {}
        self._moves: list[str] = []
        """Ids of the nodes that got something, in order."""
        self._orders: dict[tuple[Constraint, ...] | None, LoadOrder] = {}
        """By constraints: the available nodes that satisfy them."""
        self._refused: set[TemplateDemand] = set()
        self._summaries: dict[TemplateDemand, str] = {}

    def info(self, node_id: str) -> NodeInfo | None:
        """Return a node as it is now; only to be read."""
        return self._infos.get(node_id) or self.load.nodes.get(node_id)

    def known_info(self, node_id: str) -> NodeInfo:
        """Return a node that there is as it is now; only to be read."""
        return self._infos.get(node_id) or self.load.nodes[node_id]

    def all_infos(self) -> Iterable[NodeInfo]:
        """Return all nodes as they are now; only to be read."""
        return (self._infos.get(node_id, info) for node_id, info in self.load.nodes.items())

    def place(self, group: TaskGroup, wanted: int) -> list[Placed]:
        """Place so many tasks, or as many as find a node; returns their nodes in order."""
        if wanted <= 0:
            return []
        filters = filters_of(group)
        is_shared = not any(one.concerns_service for one in filters)
        if is_shared and self._refused and group.demand in self._refused:
            return []
        checks = [one.check(group, self.load) for one in filters if not one.makes_candidates]
        round_ = _GroupRound(self, group, checks)
        placed = round_.place(wanted)
        if len(placed) < wanted:
            self.looks += len(self.load.nodes)
            if is_shared:
                self._refused.add(group.demand)
        return placed

    def place_on(self, group: TaskGroup, node_id: str) -> Placed | None:
        """Place one task on this node, or return None when it is not suitable."""
        info = self.info(node_id)
        if info is None or not all(one.check(group, self.load)(info) for one in filters_of(group)):
            return None
        return self.put(group, info)

    def refusal(self, group: TaskGroup) -> str:
        """Return why no node takes another task, in Swarm's words: the filter that refused most nodes first."""
        filters = filters_of(group)
        is_shared = not any(one.concerns_service for one in filters)
        summary = self._summaries.get(group.demand) if is_shared else None
        if summary is None:
            self.looks += len(self.load.nodes)
            summary = _summary(filters, [one.check(group, self.load) for one in filters], self.all_infos())
            if is_shared:
                self._summaries[group.demand] = summary
        return summary

    def refusal_on(self, group: TaskGroup, node_ids: Sequence[str]) -> str:
        """Return why these nodes do not take another task."""
        infos = [info for node_id in node_ids if (info := self.info(node_id)) is not None]
        if not infos:
            return f"no suitable node (node {', '.join(node_ids)} not found)"
        filters = filters_of(group)
        return _summary(filters, [one.check(group, self.load) for one in filters], infos)

    def put(self, group: TaskGroup, info: NodeInfo) -> Placed:
        """Put one task on a node that suits it."""
        node_id = info.id
        own = self._infos.get(node_id)
        if own is None:
            own = self._infos[node_id] = info.copy()
        generic: tuple[GenericResource, ...] = ()
        if group.demand.generic:
            generic = tuple(r for kind, amount in group.demand.generic for r in own.choose(kind, amount))
        own.reserve(group.demand)
        if generic or group.service.host_ports:
            own.hold(group.service.host_ports, generic)
        group.counts[node_id] = group.counts.get(node_id, 0) + 1
        self._moves.append(node_id)
        if self._summaries:
            self._summaries.clear()
        return Placed(node_id, generic)

    def candidates(self, group: TaskGroup) -> Sequence[Entry]:
        """Return the available nodes that the constraints allow, in the order of their load."""
        constraints = group.demand.constraints
        order = self._orders.get(constraints)
        if order is None:
            order = self._orders[constraints] = self._make_order(constraints)
        return order.entries(self._moves, self._task_count)

    def _make_order(self, constraints: tuple[Constraint, ...] | None) -> LoadOrder:
        if not constraints:
            return LoadOrder([] if constraints is None else self.load.order.copy())
        sets = [(self.load.attributes.nodes_equal_to(c, self.load.all_nodes), c.is_equal) for c in constraints]
        equal = sorted((ids for ids, is_equal in sets if is_equal), key=len)
        excluded = [ids for ids, is_equal in sets if not is_equal]
        if not equal:
            return LoadOrder([entry for entry in self.load.order if not any(entry[1] in ids for ids in excluded)])
        allowed = set(equal[0]).intersection(*equal[1:]).difference(*excluded)
        infos = (self.load.nodes[node_id] for node_id in allowed)
        return LoadOrder(sorted((info.task_count, info.id) for info in infos if info.is_available))

    def _task_count(self, node_id: str) -> int:
        return self.known_info(node_id).task_count


class _GroupRound:
    """The placements of one group."""

    def __init__(self, placing: Placing, group: TaskGroup, checks: Sequence[Check]) -> None:
        self._placing = placing
        self._group = group
        self._checks = checks

    def place(self, wanted: int) -> list[Placed]:
        """Place so many tasks, or as many as find a node."""
        group = self._group
        placed: list[Placed] = []
        candidates = self._placing.candidates(group)
        if not group.service.packs and not group.demand.spreads and 2 * len(group.counts) <= len(candidates):
            placed = self._place_on_fresh(wanted, candidates)
        if len(placed) < wanted:
            tree = self._tree(self._placing.candidates(group))
            while len(placed) < wanted and (one := tree.place()) is not None:
                placed.append(one)
        return placed

    def take(self, node_id: str) -> Placed | None:
        """Put a task on a node; None when that is not suitable."""
        info = self._placing.known_info(node_id)
        for check in self._checks:
            if not check(info):
                return None
        return self._placing.put(self._group, info)

    def ranks(self, entries: Sequence[Entry]) -> list[Rank]:
        """Return the places of nodes that no preference tells apart."""
        group = self._group
        if group.service.packs or group.failures:
            return [self.rank(node_id) for _, node_id in entries]
        count_of = group.counts.get
        return [(False, count_of(node_id, 0), task_count, node_id) for task_count, node_id in entries]

    def rank(self, node_id: str) -> Rank:
        """Return the place of a node as it is now."""
        return self._group.rank(self._placing.known_info(node_id))

    def _place_on_fresh(self, wanted: int, candidates: Sequence[Entry]) -> list[Placed]:
        """Go through the nodes that have nothing of the service, in the order of their load."""
        placed: list[Placed] = []
        group, counts = self._group, self._group.counts
        for _, node_id in candidates:
            if node_id in counts or (group.failures and group.is_faulty(node_id)):
                continue
            one = self.take(node_id)
            if one is not None:
                placed.append(one)
                if len(placed) == wanted:
                    break
        return placed

    def _tree(self, entries: Sequence[Entry]) -> "_Tree":
        spreads = self._group.demand.spreads
        if not spreads:
            return _Leaf(self, entries)
        with_tasks = [(count, node_id) for node_id, count in self._group.counts.items() if node_id in self._placing.load.nodes]
        moving = [(count, node_id) for node_id, count in self._group.moving.items() if node_id in self._placing.load.nodes]
        return self._level(spreads, entries, with_tasks, moving)

    def _level(
        self, spreads: Sequence[str], entries: Sequence[Entry], with_tasks: Sequence[Entry], moving: Sequence[Entry]
    ) -> "_Tree":
        """One level of preferences. Nodes that are not available still count: their tasks are in their branch.

        `entries` have the task counts of nodes, `with_tasks` and `moving` the numbers of the service's tasks there.
        """
        if not spreads:
            return _Leaf(self, entries)
        counted, left = self._by_label(spreads[0], with_tasks), self._by_label(spreads[0], moving)
        branches = []
        for value, members in self._by_label(spreads[0], entries).items():
            own, leaving = counted.get(value, []), left.get(value, [])
            child = self._level(spreads[1:], members, own, leaving)
            branches.append((sum(count for count, _ in own), -sum(count for count, _ in leaving), value, child))
        return _Branches(branches)

    def _by_label(self, descriptor: str, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
        by_value: dict[str, list[Entry]] = {}
        for entry in entries:
            node = self._placing.load.nodes[entry[1]].node
            by_value.setdefault(label_of(node, descriptor) or "", []).append(entry)
        return by_value


class _Leaf:
    """Nodes that no preference tells apart."""

    def __init__(self, round_: _GroupRound, entries: Sequence[Entry]) -> None:
        self._round = round_
        self._heap = round_.ranks(entries)
        heapq.heapify(self._heap)

    def place(self) -> Placed | None:
        """Put one task on the best suitable node; None when none is left."""
        heap = self._heap
        while heap:
            node_id = heap[0][3]
            placed = self._round.take(node_id)
            if placed is not None:
                heapq.heapreplace(heap, self._round.rank(node_id))
                return placed
            heapq.heappop(heap)
        return None


class _Branches:
    """One level of the preference tree: the values of a label, each with what is below.

    Of branches with equally many tasks one is first that tasks are to leave, so that these may move to another node in it.
    """

    def __init__(self, children: Iterable[tuple[int, int, str, "_Tree"]]) -> None:
        self._heap = list(children)
        heapq.heapify(self._heap)

    def place(self) -> Placed | None:
        """Put one task into the branch that has the fewest; None when no node is left."""
        while self._heap:
            count, leaving, value, child = self._heap[0]
            placed = child.place()
            if placed is not None:
                heapq.heapreplace(self._heap, (count + 1, leaving, value, child))
                return placed
            heapq.heappop(self._heap)
        return None


_Tree = _Leaf | _Branches


def filters_of(group: TaskGroup) -> list[Filter]:
    """Return the filters that have something to say about a group."""
    return [one for one in FILTERS if one.applies(group)]


def _summary(filters: Sequence[Filter], checks: Sequence[Callable[[NodeInfo], bool]], infos: Iterable[NodeInfo]) -> str:
    refusals = [0] * len(filters)
    for info in infos:
        for place, check in enumerate(checks):
            if not check(info):
                refusals[place] += 1
                break
    by_count = sorted((-count, place) for place, count in enumerate(refusals) if count)
    reasons = "; ".join(filters[place].explain(-negative) for negative, place in by_count)
    return f"no suitable node ({reasons})" if reasons else "no suitable node"
