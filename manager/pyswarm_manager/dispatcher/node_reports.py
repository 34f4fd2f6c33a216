"""What agents report, and that they do not, written into the store: what the functions of its transactions do."""

from collections.abc import Iterable

import msgspec

from pyswarm_common import wire
from pyswarm_common.errors import NotFound
from pyswarm_common.objects import NodeDescription, NodeStatus, TaskStatus
from pyswarm_common.state_times import with_state_time
from pyswarm_common.task_states import TaskState, Writer, may_write
from pyswarm_manager.store.transaction import Transaction


def mark_ready(tx: Transaction, node_id: str, description: NodeDescription) -> None:
    """The node has a session, and describes itself so. Raises NotFound when it was removed."""
    node = tx.nodes.get(node_id)
    if node is None:
        raise NotFound(f"node {node_id} is not part of the cluster any more")
    address = description.address or node.status.address or description.data_path_address
    since_ns = node.status.since_ns if node.status.state == "ready" else tx.now_ns
    status = NodeStatus(state="ready", address=address, since_ns=since_ns)
    if node.status != status or node.description != description:
        tx.update(msgspec.structs.replace(node, status=status, description=description))


def mark_down(tx: Transaction, node_ids: Iterable[str]) -> None:
    """Nothing was heard of these nodes for too long."""
    for node_id in node_ids:
        node = tx.nodes.get(node_id)
        if node is not None and node.status.state != "down":
            status = NodeStatus(state="down", message="heartbeat failure", address=node.status.address, since_ns=tx.now_ns)
            tx.update(msgspec.structs.replace(node, status=status))


def write_statuses(tx: Transaction, node_id: str, updates: Iterable[wire.TaskStatusUpdate]) -> None:
    """The node says this of its tasks; what is no news, or about others' tasks, is left out."""
    for update in updates:
        task = tx.tasks.get(update.task_id)
        if task is not None and task.node_id == node_id and _is_news(task.status, update.status):
            status = _as_rejection(task.rejection, update.status) if task.rejection else update.status
            times = with_state_time(task.state_times, status.state, status.at_ns)
            tx.update(msgspec.structs.replace(task, status=status, state_times=times))


def _as_rejection(reason: str, reported: TaskStatus) -> TaskStatus:
    """A task that was stopped because its node may keep it no longer is rejected; one that ended by itself before that is not."""
    if reported.state is not TaskState.SHUTDOWN:
        return reported
    return msgspec.structs.replace(reported, state=TaskState.REJECTED, message="task rejected by constraint enforcer", error=reason)


def _is_news(before: TaskStatus, after: TaskStatus) -> bool:
    is_now_unhealthy = before.state is after.state is TaskState.RUNNING and bool(after.error) and not before.error
    return is_now_unhealthy or may_write(Writer.AGENT, before.state, after.state)
