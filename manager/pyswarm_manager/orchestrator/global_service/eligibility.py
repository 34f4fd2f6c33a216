"""Which nodes a global service has a task on. Pure.

    node                                    task that is there      new task
    active, suitable                        stays                   yes
    paused                                  stays                   no
    drained, down, or not suitable          is told to stop         no
    removed from the cluster                is removed              no

Suitable: it satisfies the constraints and platforms that the service has now. A paused node keeps what it has even if it does not.
"""

from enum import Enum

from pyswarm_common.objects import Node, Service, Task
from pyswarm_common.specs import TaskTemplate
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator import restart
from pyswarm_manager.orchestrator.suitability import Suitability
from pyswarm_manager.store.tables import View


class Standing(Enum):
    """What becomes of a global service's task on a node."""

    WANTED = 1
    KEPT = 2
    UNWANTED = 3
    UNSUITABLE = 4
    """Unwanted because of the service's constraints or platforms."""
    GONE = 5


class Eligibility:
    """What one service asks of nodes."""

    def __init__(self, view: View, service: Service) -> None:
        spec = view.task_specs.get(service.task_spec_id)
        self._suitability = Suitability(spec.template if spec is not None else TaskTemplate())

    def standing(self, node: Node | None) -> Standing:
        """Return what becomes of the service's task on this node; None: on a node that was removed."""
        if node is None:
            return Standing.GONE
        if restart.is_node_unusable(node):
            return Standing.UNWANTED
        if node.spec.availability == "pause":
            return Standing.KEPT
        return Standing.WANTED if self._suitability.suits(node) else Standing.UNSUITABLE


def count_desired(view: View, service: Service) -> int:
    """Return on how many nodes a global service should have a task: the eligible ones, and paused ones that kept theirs."""
    eligibility = Eligibility(view, service)
    kept = {t.node_id for t in view.tasks.of_service(service.id) if _is_there(t)}
    standings = ((node.id, eligibility.standing(node)) for node in view.nodes)
    return sum(s is Standing.WANTED or (s is Standing.KEPT and node_id in kept) for node_id, s in standings)


def _is_there(task: Task) -> bool:
    return task.desired_state <= TaskState.RUNNING and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
