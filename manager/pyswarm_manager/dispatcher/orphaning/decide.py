"""Which tasks are given up as ORPHANED: what they hold is free again, and the reaper may delete them. Pure.

* Tasks on a node that was removed from the cluster: nobody will ever report how they ended.
* Tasks on a node that has been down for `ORPHAN_AFTER_NS`.

Attachments of single containers are deleted instead: nothing makes others in their place.

The node object says since when it is down, so the count goes on under another leader. That time is of the clock of whoever wrote
it: when it lies in the future of this manager's clock, or is not known, it is taken as now.

The decisions' keys are node ids. A node that is gone is a key as long as tasks name it.
"""

from collections.abc import Iterable

import msgspec

from pyswarm_common.objects import Node, Task
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft, with_status
from pyswarm_manager.store.tables import View

ORPHAN_AFTER_NS = 24 * 3600 * SECOND_NS
"""How long a node is down before its tasks are given up (SwarmKit `dispatcher/dispatcher.go`)."""
CLOCK_TOLERANCE_NS = SECOND_NS
NODE_DELETED = "Task belonged to a node that has been deleted"
NODE_DOWN = "Task belonged to a node that has been down for too long"


def decide(view: View, now_ns: int, limit: int | None = DEFAULT_LIMIT, *, node_ids: Iterable[str] | None = None) -> Decisions:
    """Return the tasks of these nodes (None: all that tasks or nodes name) that are given up."""
    draft = Draft(view, limit)
    ids = list(node_ids if node_ids is not None else all_node_ids(view))
    for position, node_id in enumerate(ids):
        node = view.nodes.get(node_id)
        message = _reason(draft, node, now_ns) if node is not None else NODE_DELETED
        if message is None:
            draft.postpone(ids[position:])
            break
        for task in _held_by(view, node_id) if message else ():
            operations = 2 if task.attached_container_id else 1
            if not draft.has_room(operations):
                draft.postpone(ids[position:])
                return draft.finish()
            if task.attached_container_id:
                draft.delete(task, operations)  # with its task spec: it has no history that a reaper would keep
            else:
                draft.update(with_status(task, TaskState.ORPHANED, now_ns, message))
    return draft.finish()


def all_node_ids(view: View) -> list[str]:
    """Return the ids of all nodes, and of removed ones that tasks still name."""
    ids = {node.id for node in view.nodes}
    ids.update(task.node_id for task in view.tasks if task.node_id)
    return sorted(ids)


def _reason(draft: Draft, node: Node, now_ns: int) -> str | None:
    """Why the node's tasks are given up now; "" when they are not; None when the limit leaves no room to note the time."""
    if node.status.state != "down":
        return ""
    since_ns = node.status.since_ns
    if not since_ns or since_ns > now_ns + CLOCK_TOLERANCE_NS:
        if not draft.has_room():
            return None
        since_ns = now_ns
        draft.update(msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, since_ns=now_ns)))
    if now_ns - since_ns >= ORPHAN_AFTER_NS:
        return NODE_DOWN
    draft.wake(node.id, since_ns + ORPHAN_AFTER_NS)
    return ""


def _held_by(view: View, node_id: str) -> list[Task]:
    tasks = view.tasks.of_node(node_id)
    return sorted((t for t in tasks if TaskState.ASSIGNED <= t.status.state <= TaskState.RUNNING), key=lambda t: t.id)
