"""Which changes of tasks and nodes may ask an orchestrator for something: what its shell looks at again. Pure."""

from pyswarm_common.objects import Node, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.causes import CAUSES_OF_NEW_UNITS
from pyswarm_manager.store.subscription import Change


def task_matters(change: Change) -> bool:
    """Whether a task's new form may ask for something: it is gone, has ended, has to go or to move, or takes over from another.

    A task that takes over from one that still runs lets that go when it runs, or finds no node; in an update it lets others follow.
    One that was on its way out already (desired REMOVE) belongs to no slot: the end of a large service asks for no look per task.
    """
    before, task = change.before, change.after
    if isinstance(before, Task) and before.desired_state is TaskState.REMOVE:
        return False
    if not isinstance(task, Task):
        return True
    status = task.status
    if status.state.is_terminal or task.rejection or task.must_move:
        return True
    has_news = status.state is TaskState.RUNNING or (status.state < TaskState.ASSIGNED and bool(status.error))
    return has_news and task.cause not in CAUSES_OF_NEW_UNITS


def node_matters(change: Change) -> bool:
    """Whether anything of a node changed that decides about the tasks on it."""
    return _what_counts(change.before) != _what_counts(change.after)


def _what_counts(node: object) -> object:
    if not isinstance(node, Node):
        return None
    description = node.description
    nature = description.architecture, description.os, description.hostname, description.engine_labels
    return node.spec.availability, node.spec.labels, node.role, node.status.state, node.status.address, nature
