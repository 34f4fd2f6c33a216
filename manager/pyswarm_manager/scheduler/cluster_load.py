"""What the scheduler keeps beside the tables: nodes with what is left of them, in the order of their load, and what is pending.

Made from the tables once and told of each change (`store/derived.py`), because a leader decides in many small transactions:
looking through 1,000 nodes and 100,000 tasks for each would cost more than the placements. Only read by those who decide;
what they place goes into a copy of their own (`placing.py`) and comes back as a change of the tables.

Kept small: nodes count, not tasks. Of a task there is an entry while it is pending, while it holds a port or a generic resource,
and when it failed. Counts by service are made when a service is looked at, and kept only for large services.
"""

import weakref
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping

from pyswarm_common.objects import AnyObject, Node, Task, TaskSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.scheduler.attributes import AttributeIndex
from pyswarm_manager.scheduler.demand import NO_TEMPLATE_DEMAND, TemplateDemand, template_demand
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.scheduler.pending import PendingTasks, is_pending
from pyswarm_manager.store.tables import Table, View

LARGE_SERVICE_TASKS = 32
"""From this many tasks on the counts of a service are kept."""
_ASSIGNED = int(TaskState.ASSIGNED)
_RUNNING = int(TaskState.RUNNING)
_FAILED = (TaskState.FAILED, TaskState.REJECTED)


class ClusterLoad:
    """A derived index over a view's nodes and tasks."""

    def __init__(self, view: View) -> None:
        self.is_stale = False
        self.nodes: dict[str, NodeInfo] = {node.id: NodeInfo(node) for node in view.nodes}
        self.order: list[tuple[int, str]]
        """Task count and id of the nodes that are available, sorted."""
        self.attributes = AttributeIndex()
        self.pending = PendingTasks(view.tasks.unplaced(TaskState.PENDING))
        self.failures: dict[tuple[str, str], dict[str, Task]] = {}
        """By service id and task spec id: tasks by id that failed, or remember failures."""
        self._counts: dict[str, dict[str, int]] = {}
        # Weak, so that tables that are given up go at once, without waiting for the garbage collector.
        self._task_specs: weakref.ref[Table[TaskSpec]] = weakref.ref(view.task_specs)
        self._tasks = weakref.ref(view.tasks)
        for node_id, info in self.nodes.items():
            for task in view.tasks.of_node(node_id):
                self._count_on_node(info, task, 1)
        for task in view.tasks:
            if task.recent_failures or task.status.state in _FAILED:
                self._note_failure(task)
        self.order = sorted((info.task_count, node_id) for node_id, info in self.nodes.items() if info.is_available)

    def all_nodes(self) -> Iterator[Node]:
        """Return all nodes."""
        return (info.node for info in self.nodes.values())

    def counts_of(self, view: View, service_id: str) -> Mapping[str, int]:
        """Return how many tasks of a service, that run there or should, the nodes have; nodes without any are not in it."""
        counts = self._counts.get(service_id)
        if counts is None:
            counts = {}
            tasks = view.tasks.of_service(service_id)
            for task in tasks:
                if _counts(task):
                    counts[task.node_id] = counts.get(task.node_id, 0) + 1
            if len(tasks) > LARGE_SERVICE_TASKS:
                self._counts[service_id] = counts
        return counts

    def note(self, before: AnyObject | None, after: AnyObject | None) -> None:
        """Follow a change."""
        if self.is_stale:
            return
        if isinstance(before, Task) or isinstance(after, Task):
            self._note_task(before, after)  # type: ignore[arg-type]
        elif isinstance(before, Node) or isinstance(after, Node):
            self._note_node(before, after)  # type: ignore[arg-type]
        elif isinstance(before, TaskSpec) or isinstance(after, TaskSpec):
            task_spec_id = (before or after).id  # type: ignore[union-attr]
            tasks = self._tasks()
            if tasks is None or tasks.count_with_task_spec(task_spec_id):
                self.is_stale = True  # it came after its tasks, or went before them

    def _note_node(self, before: Node | None, after: Node | None) -> None:
        self.attributes.note(before, after)
        if before is None:
            assert after is not None
            self.nodes[after.id] = NodeInfo(after)
            tasks = self._tasks()
            if tasks is None or tasks.of_node(after.id):
                self.is_stale = True  # it came after its tasks
            self._enter_order(self.nodes[after.id])
            return
        info = self.nodes[before.id]
        self._leave_order(info)
        if after is None:
            del self.nodes[before.id]
        else:
            info.replace_node(after)
            self._enter_order(info)

    def _note_task(self, before: Task | None, after: Task | None) -> None:
        if before is None or after is None or not _takes_the_same(before, after):
            if before is not None:
                self._note_one(before, -1)
            if after is not None:
                self._note_one(after, 1)
        if before is not None and (before.recent_failures or before.status.state in _FAILED):
            self._forget_failure(before)
        if after is not None and (after.recent_failures or after.status.state in _FAILED):
            self._note_failure(after)

    def _note_one(self, task: Task, times: int) -> None:
        if is_pending(task):
            (self.pending.add if times > 0 else self.pending.discard)(task)
        elif task.node_id and (info := self.nodes.get(task.node_id)) is not None:
            self._count_placed(info, task, times)

    def _count_placed(self, info: NodeInfo, task: Task, times: int) -> None:
        task_count = info.task_count
        self._count_on_node(info, task, times)
        if info.task_count == task_count:
            return
        if info.is_available:
            del self.order[bisect_left(self.order, (task_count, info.node.id))]
            insort(self.order, (info.task_count, info.node.id))
        counts = self._counts.get(task.service_id)
        if counts is not None:
            count = counts.get(task.node_id, 0) + times
            if count:
                counts[task.node_id] = count
            else:
                del counts[task.node_id]
                if not counts:
                    del self._counts[task.service_id]

    def _count_on_node(self, info: NodeInfo, task: Task, times: int) -> None:
        state = task.status.state
        if state < _ASSIGNED or state > _RUNNING or task.attached_container_id:
            return
        if task.desired_state <= _RUNNING:
            info.reserve(self._demand_of(task), times)
        if task.host_ports or task.generic_resources:
            info.hold(task.host_ports, task.generic_resources, times)

    def _demand_of(self, task: Task) -> TemplateDemand:
        specs = self._task_specs()
        spec = specs.get(task.task_spec_id) if specs is not None else None
        return NO_TEMPLATE_DEMAND if spec is None else template_demand(spec.template_json)

    def _note_failure(self, task: Task) -> None:
        self.failures.setdefault((task.service_id, task.task_spec_id), {})[task.id] = task

    def _forget_failure(self, task: Task) -> None:
        key = (task.service_id, task.task_spec_id)
        tasks = self.failures.get(key)
        if tasks is not None and tasks.pop(task.id, None) is not None and not tasks:
            del self.failures[key]

    def _enter_order(self, info: NodeInfo) -> None:
        if info.is_available:
            insort(self.order, (info.task_count, info.node.id))

    def _leave_order(self, info: NodeInfo) -> None:
        if info.is_available:
            del self.order[bisect_left(self.order, (info.task_count, info.node.id))]


def _takes_the_same(before: Task, after: Task) -> bool:
    """Whether nothing changed for the scheduler: most changes of a task are reports of its life on its node."""
    if before.status.state < _ASSIGNED or after.status.state < _ASSIGNED:
        return False
    was_over, is_over = before.status.state > _RUNNING, after.status.state > _RUNNING
    was_wanted, is_wanted = before.desired_state <= _RUNNING, after.desired_state <= _RUNNING
    return (
        was_over == is_over
        and (was_over or was_wanted == is_wanted)
        and before.node_id == after.node_id
        and before.service_id == after.service_id
        and before.task_spec_id == after.task_spec_id
        and before.host_ports == after.host_ports
        and before.generic_resources == after.generic_resources
    )


def _counts(task: Task) -> bool:
    """Whether it is placed, runs or will, and should."""
    return _ASSIGNED <= task.status.state <= _RUNNING and task.desired_state <= _RUNNING and bool(task.node_id)
