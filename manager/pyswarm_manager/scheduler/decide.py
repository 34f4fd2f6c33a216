"""Which node each pending task gets. Pure.

Tasks are grouped by service and task spec; each group filters the nodes once, builds its preference tree and takes nodes from
it. Only the filters that depend on load are asked again after each placement. Who finds no node learns which filters refused
how many.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from pyswarm_common.objects import Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft
from pyswarm_manager.scheduler.filters import FILTERS, Filter
from pyswarm_manager.scheduler.placement import NodeInfo, TaskGroup, build_tree, node_infos
from pyswarm_manager.store.tables import View

PENDING_TASKS = ""
"""The one key of the scheduler's decisions."""
WAITING = "pending task scheduling"
ASSIGNED = "scheduler assigned task to node"
CONFIRMED = "scheduler confirmed task can run on preassigned node"


def decide(view: View, now_ns: int, limit: int | None = DEFAULT_LIMIT) -> Decisions:
    """Return the pending tasks with their nodes, or with the reason why they have none."""
    draft = Draft(view, limit)
    groups, preassigned = _group(view)
    if groups or preassigned:
        nodes = node_infos(view, {group.service_id for group in (*groups, *preassigned)})
        scheduling = _Scheduling(draft, nodes, now_ns)
        # Preassigned tasks first: they have no choice.
        if not all(scheduling.confirm(group) for group in preassigned) or not all(scheduling.place(group) for group in groups):
            draft.postpone([PENDING_TASKS])
    return draft.finish()


def _group(view: View) -> tuple[list[TaskGroup], list[TaskGroup]]:
    """The tasks to place and, in groups of their own, those that have their node already; both in the order of their age."""
    free: dict[tuple[str, str], TaskGroup] = {}
    preassigned: dict[tuple[str, str], TaskGroup] = {}
    pending = [t for t in view.tasks.unplaced(TaskState.PENDING) if t.desired_state <= TaskState.RUNNING]
    pending.sort(key=lambda t: (t.created_at_ns, t.service_id, t.slot, t.id))
    for task in pending:
        groups = preassigned if task.node_id else free
        key = (task.service_id, task.task_spec_id)
        group = groups.get(key)
        if group is None:
            spec = view.task_specs.get(task.task_spec_id)
            if spec is None:
                continue
            group = groups[key] = TaskGroup(task.service_id, spec.template)
        group.tasks.append(task)
    return list(free.values()), list(preassigned.values())


class _Scheduling:
    """One decide: the nodes as they fill up."""

    def __init__(self, draft: Draft, nodes: Sequence[NodeInfo], now_ns: int) -> None:
        self._draft = draft
        self._nodes = nodes
        self._by_id = {info.node.id: info for info in nodes}
        self._now_ns = now_ns
        self._assigned = TaskStatus(state=TaskState.ASSIGNED, at_ns=now_ns, message=ASSIGNED)

    def place(self, group: TaskGroup) -> bool:
        """Place a group's tasks; False when the limit left no room for some."""
        if not self._draft.has_room():
            return False
        filters = [f for f in FILTERS if f.applies(group)]
        refusals: Counter[Filter] = Counter()
        suitable = [info for info in self._nodes if _is_suitable(filters, group, info, refusals)]
        tree = build_tree(group, self._nodes, suitable)
        again = [f for f in filters if f.depends_on_load]

        def take(info: NodeInfo) -> bool:
            group.put_on(info)
            return not again or _is_suitable(again, group, info, refusals)

        for position, task in enumerate(group.tasks):
            if not self._draft.has_room():
                return False
            info = tree.place(take)
            if info is None:
                return self._explain(group.tasks[position:], explanation(refusals))
            self._draft.update(msgspec.structs.replace(task, node_id=info.node.id, status=self._assigned))
        return True

    def confirm(self, group: TaskGroup) -> bool:
        """Check that tasks can run on the nodes that they were given; False when the limit left no room for some."""
        filters = [f for f in FILTERS if f.applies(group)]
        status = msgspec.structs.replace(self._assigned, message=CONFIRMED)
        for task in group.tasks:
            if not self._draft.has_room():
                return False
            refusals: Counter[Filter] = Counter()
            info = self._by_id.get(task.node_id)
            if info is None:
                self._explain([task], f"no suitable node (node {task.node_id} not found)")
                continue
            group.remove_from(info)
            if _is_suitable(filters, group, info, refusals):
                self._draft.update(msgspec.structs.replace(task, status=status))
                group.put_on(info)
            else:
                self._explain([task], explanation(refusals))
        return True

    def _explain(self, tasks: Sequence[Task], error: str) -> bool:
        for task in tasks:
            if not self._draft.has_room():
                return False
            status = msgspec.structs.replace(task.status, message=WAITING, error=error)
            self._draft.update(msgspec.structs.replace(task, status=status))
        return True


def _is_suitable(filters: Sequence[Filter], group: TaskGroup, info: NodeInfo, refusals: Counter[Filter]) -> bool:
    """Whether no filter refuses the node; counts the first that does."""
    for one in filters:
        if not one.check(group, info):
            refusals[one] += 1
            return False
    return True


def explanation(refusals: Counter[Filter]) -> str:
    """Return why there is no node, in Swarm's words: the filter that refused most nodes first."""
    by_count = sorted(refusals.items(), key=lambda item: (-item[1], FILTERS.index(item[0])))
    reasons = "; ".join(one.explain(count) for one, count in by_count)
    return f"no suitable node ({reasons})" if reasons else "no suitable node"
