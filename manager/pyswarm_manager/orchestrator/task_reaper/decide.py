"""Which tasks are to be deleted. Pure.

* A task that was marked for removal, or whose service is gone, once it has ended: it is terminal, never reached a node, or
  its node is removed or down (a node that comes back gets its complete set of tasks and clears away what is not in it).
* Of each slot (of global services: of each node), what exceeds the cluster's task history limit, oldest first; as in Swarm the
  limit counts the slot's present task too. The newest task of a slot always stays: when it has ended for good, it is the
  orchestrator's mark that it needs no successor. Of jobs: see `job_history.py`.

A negative limit keeps all history.
"""

from collections import Counter
from collections.abc import Iterable

from pyswarm_common.objects import Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft, succession_key
from pyswarm_manager.orchestrator.restart import is_node_gone
from pyswarm_manager.orchestrator.task_reaper.job_history import beyond_job_history
from pyswarm_manager.store.tables import View


def decide(view: View, now_ns: int, limit: int | None = DEFAULT_LIMIT, *, service_ids: Iterable[str] | None = None) -> Decisions:
    """Return the deletions among the tasks of these services (None: all). The decisions' keys are service ids."""
    del now_ns
    draft = Draft(view, limit)
    ids = list(service_ids if service_ids is not None else sorted({task.service_id for task in view.tasks}))
    deleted_of_spec: Counter[str] = Counter()
    for position, service_id in enumerate(ids):
        for task in _deletable(view, service_id):
            # A task spec goes with its last task, in the same transaction: 2 operations.
            is_last = deleted_of_spec[task.task_spec_id] + 1 == view.tasks.count_with_task_spec(task.task_spec_id)
            operations = 2 if is_last else 1
            if not draft.has_room(operations):
                draft.postpone(ids[position:])
                return draft.finish()
            deleted_of_spec[task.task_spec_id] += 1
            draft.delete(task, operations)
    return draft.finish()


def _deletable(view: View, service_id: str) -> list[Task]:
    tasks = sorted(view.tasks.of_service(service_id), key=succession_key)
    if service_id not in view.services:
        return [task for task in tasks if _has_ended(view, task)]
    removed = [task for task in tasks if task.desired_state is TaskState.REMOVE and _has_ended(view, task)]
    service = view.services.must_get(service_id)
    if service.spec.is_job:
        kept = view.cluster.task_history_limit
        return removed + beyond_job_history(service, tasks, kept, has_ended=lambda task: _has_ended(view, task))
    return removed + _beyond_history(view, tasks)


def _beyond_history(view: View, tasks: list[Task]) -> list[Task]:
    """Of tasks in the order of their age, those that the history limit has no place for."""
    kept = view.cluster.task_history_limit
    if kept < 0:
        return []
    slots: dict[int | str, list[Task]] = {}
    for task in tasks:
        if task.desired_state is not TaskState.REMOVE:
            slots.setdefault(task.slot or task.node_id, []).append(task)
    beyond: list[Task] = []
    for members in slots.values():
        if (excess := len(members) - max(kept, 1)) > 0:
            old = [t for t in members[:-1] if t.desired_state is TaskState.SHUTDOWN and _has_ended(view, t)]
            beyond += old[:excess]
    return beyond


def _has_ended(view: View, task: Task) -> bool:
    state = task.status.state
    return state.is_terminal or state < TaskState.ASSIGNED or is_node_gone(view.nodes.get(task.node_id))
