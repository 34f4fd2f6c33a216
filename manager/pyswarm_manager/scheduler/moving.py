"""Tasks that are to move elsewhere and still run: beside their successors they are not counted as tasks of their service. Pure.

A task that the rebalancer marked (`Task.must_move`) goes on until its successor runs. Counted both ways, its service would seem to
have one task more where the old one is, and the successor would go to another branch of the preference tree than the one it leaves.
What it reserves and holds on its node, its place in the node's total and towards the most replicas per node, it keeps until it is
told to stop.
"""

from collections import Counter
from collections.abc import Mapping

from pyswarm_common.objects import AnyObject, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.tables import View

_NONE: Mapping[str, int] = {}


class MovingTasks:
    """A derived index (`store/derived.py`): how many tasks of which service are to move from which node."""

    def __init__(self, view: View) -> None:
        self.is_stale = False
        self._by_service: dict[str, Counter[str]] = {}
        for task in view.tasks:
            self._count(task, 1)

    def of_service(self, service_id: str) -> Mapping[str, int]:
        """Return how many of a service's tasks are to move, by node id."""
        return self._by_service.get(service_id, _NONE)

    def take_off(self, service_id: str, counts: dict[str, int]) -> None:
        """Take a service's moving tasks off these counts of its tasks by node id; nodes left with none are taken out."""
        for node_id, moving in self.of_service(service_id).items():
            left = counts.get(node_id, 0) - moving
            if left > 0:
                counts[node_id] = left
            else:
                counts.pop(node_id, None)

    @property
    def by_node(self) -> Counter[str]:
        """How many tasks of all services are to move, by node id."""
        return sum(self._by_service.values(), Counter())

    def note(self, before: AnyObject | None, after: AnyObject | None) -> None:
        """Follow a change."""
        if isinstance(before, Task) and before.must_move:
            self._count(before, -1)
        if isinstance(after, Task) and after.must_move:
            self._count(after, 1)

    def _count(self, task: Task, change: int) -> None:
        if not task.must_move or not takes_room(task):
            return
        counts = self._by_service.setdefault(task.service_id, Counter())
        counts[task.node_id] += change
        if not counts[task.node_id]:
            del counts[task.node_id]
            if not counts:
                del self._by_service[task.service_id]


def takes_room(task: Task) -> bool:
    """Whether the task is on a node, and runs there or should."""
    return (
        bool(task.node_id)
        and task.desired_state <= TaskState.RUNNING
        and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
    )
