"""Where a service kept failing lately: from its tasks in the view, and from what later tasks of a slot remember. Pure.

Five failures within five minutes put a node behind all others (SwarmKit's figures). The history limit leaves fewer tasks than
that per slot, so a task that is placed takes along what failed in its slot before. Only failures under the same task spec count: a
service that was changed may do better. A task that its node may keep no longer (`Task.rejection`) is rejected without any fault.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pyswarm_common.objects import Task, TaskFailure
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.scheduler.task_group import FAULTY_FAILURES

FAILURE_WINDOW_NS = 5 * 60 * SECOND_NS
MAXIMUM_REMEMBERED = 50
"""What one task takes along at most."""


def recent_failures(tasks: Iterable[Task], now_ns: int) -> Mapping[str, int]:
    """Return how often these tasks of a service failed lately, by node id."""
    return Counter(failure.node_id for failure in _failures(tasks, now_ns).values())


def failures_to_remember(tasks: Iterable[Task], task: Task, now_ns: int) -> tuple[TaskFailure, ...]:
    """Return what a task that is placed takes along: what failed in its slot, the newest five of each node, oldest first.

    Tasks of a global service have no slot, but their node.
    """
    in_slot = (t for t in tasks if t.slot == task.slot and (task.slot or t.node_id == task.node_id))
    newest_first = sorted(_failures(in_slot, now_ns).values(), key=lambda f: (-f.at_ns, f.task_id))
    per_node: Counter[str] = Counter()
    kept = []
    for failure in newest_first:
        per_node[failure.node_id] += 1
        if per_node[failure.node_id] <= FAULTY_FAILURES:
            kept.append(failure)
    return tuple(reversed(kept[:MAXIMUM_REMEMBERED]))


def _failures(tasks: Iterable[Task], now_ns: int) -> dict[str, TaskFailure]:
    """Recent failures by the id of the task that failed. A clock that was set back makes none of them older than it is."""
    found: dict[str, TaskFailure] = {}
    for failure in _all_failures(tasks):
        known = found.get(failure.task_id, failure)
        found[failure.task_id] = max(known, failure, key=lambda f: (f.at_ns, f.node_id))
    return {task_id: failure for task_id, failure in found.items() if abs(now_ns - failure.at_ns) < FAILURE_WINDOW_NS}


def _all_failures(tasks: Iterable[Task]) -> Iterator[TaskFailure]:
    for task in tasks:
        yield from task.recent_failures
        if task.status.state in (TaskState.FAILED, TaskState.REJECTED) and task.node_id and not task.rejection:
            yield TaskFailure(task_id=task.id, node_id=task.node_id, at_ns=task.status.at_ns)
