"""Which tasks their nodes may keep no longer: labels, role, platform or resources of the node changed. Pure.

A task's observed state is its agent's to say while its container may live. So the enforcer only writes the reason into the task
(`Task.rejection`): its orchestrator tells it to stop and replaces it as its restart policy says, its agent stops the container, and
the report of that makes it REJECTED with the reason as its error.

The rules are SwarmKit's (`manager/orchestrator/constraintenforcer`):
* Only active nodes: a drained one loses its tasks anyway, a paused one keeps what it has.
* Constraints and platforms: a task has to go when its node satisfies neither those that the task was made with nor those that its
  service has now. (Either alone would interfere with an update of the constraints: that replaces tasks at its own pace.)
* Resources: the reservations of the tasks on a node are counted in the order of their age; who finds too little left has to go.

The decisions' keys are node ids.
"""

from collections.abc import Iterable, Iterator

import msgspec

from pyswarm_common.objects import Node, Task
from pyswarm_common.specs import TaskTemplate
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft, age_key
from pyswarm_manager.orchestrator.constraint_enforcer.room import Room
from pyswarm_manager.orchestrator.suitability import NO_LONGER_MEETS_CONSTRAINTS, Suitability
from pyswarm_manager.store.tables import View


def decide(view: View, now_ns: int, limit: int | None = DEFAULT_LIMIT, *, node_ids: Iterable[str] | None = None) -> Decisions:
    """Return the tasks on these nodes (None: all) that have to go, with the reason written into them."""
    del now_ns
    draft = Draft(view, limit)
    demands = _Demands(view)
    ids = list(node_ids if node_ids is not None else sorted(node.id for node in view.nodes))
    for position, node_id in enumerate(ids):
        node = view.nodes.get(node_id)
        for task in _to_reject(view, node, demands) if node is not None and _is_enforced(node) else ():
            if not draft.has_room():
                draft.postpone(ids[position:])
                return draft.finish()
            draft.update(msgspec.structs.replace(task, rejection=NO_LONGER_MEETS_CONSTRAINTS))
    return draft.finish()


def _is_enforced(node: Node) -> bool:
    return node.spec.availability == "active" and node.status.state != "down"


def _to_reject(view: View, node: Node, demands: "_Demands") -> Iterator[Task]:
    room = Room(node.description.resources)
    for task in sorted(filter(_holds_node, view.tasks.of_node(node.id)), key=age_key):
        if not demands.suit(task, node) or not room.take(demands.template_of(task.task_spec_id), task.generic_resources):
            yield task


def _holds_node(task: Task) -> bool:
    """Whether the task is there and may stay as far as its orchestrator is concerned. Attachments take nothing of their node."""
    is_wanted = task.desired_state <= TaskState.RUNNING and not task.rejection and not task.attached_container_id
    return is_wanted and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


class _Demands:
    """What task specs ask of nodes, each parsed once."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._parsed: dict[str, tuple[TaskTemplate, Suitability]] = {}

    def template_of(self, task_spec_id: str) -> TaskTemplate:
        return self._of(task_spec_id)[0]

    def suit(self, task: Task, node: Node) -> bool:
        if self._of(task.task_spec_id)[1].suits(node):
            return True
        service = self._view.services.get(task.service_id)
        return service is not None and self._of(service.task_spec_id)[1].suits(node)

    def _of(self, task_spec_id: str) -> tuple[TaskTemplate, Suitability]:
        known = self._parsed.get(task_spec_id)
        if known is None:
            spec = self._view.task_specs.get(task_spec_id)
            template = spec.template if spec is not None else TaskTemplate()
            known = self._parsed[task_spec_id] = (template, Suitability(template))
        return known
