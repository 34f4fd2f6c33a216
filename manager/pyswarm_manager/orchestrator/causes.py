"""Why a task is made: what its `cause` says, and why it replaces another, as the cluster shows it at that moment. Pure, for all
orchestrators."""

import msgspec

from pyswarm_common.objects import Node, Task
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.tables import View

CREATED = "created"
SCALED = "scaled"
JOINED = "joined"
CAUSES_OF_NEW_UNITS = frozenset({CREATED, SCALED, JOINED})
"""`Task.cause` of the first task of a slot or node; all others name the task that they replace."""
_ENDS = {
    TaskState.COMPLETE: ReplacementReason.COMPLETED,
    TaskState.SHUTDOWN: ReplacementReason.STOPPED,
    TaskState.FAILED: ReplacementReason.FAILED,
    TaskState.REJECTED: ReplacementReason.REJECTED,
    TaskState.ORPHANED: ReplacementReason.ORPHANED,
}


def with_reason(successor: Task, view: View) -> Task:
    """Return a new task with the reason why it replaces the task that its `cause` names; unchanged when it names none."""
    before = view.tasks.get(successor.cause) if successor.cause else None
    if before is None:
        return successor
    return msgspec.structs.replace(successor, replacement_reason=why_replaced(before, view.nodes.get(before.node_id), successor))


def why_replaced(before: Task, node: Node | None, successor: Task) -> ReplacementReason:
    """Return what is the matter with a task that gets this successor. `node`: where it was; None: that is gone."""
    if before.rejection:
        return ReplacementReason.REJECTED
    has_ended = before.is_terminal and before.status.state is not TaskState.ORPHANED
    if before.node_id and node is None and not has_ended:  # tasks of a removed node are given up at once
        return ReplacementReason.NODE_REMOVED
    if before.status.state in _ENDS:
        return _ENDS[before.status.state]
    if node is not None and node.status.state == "down":
        return ReplacementReason.NODE_DOWN
    if node is not None and node.spec.availability == "drain":
        return ReplacementReason.NODE_DRAINED
    if successor.task_spec_id != before.task_spec_id:
        return ReplacementReason.UPDATED
    return ReplacementReason.REBALANCED if before.must_move else ReplacementReason.UNKNOWN
