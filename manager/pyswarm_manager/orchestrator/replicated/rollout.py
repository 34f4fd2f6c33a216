"""Brings a service's tasks to its present task spec: one slot at a time, the old task stops before the new one starts. Pure.

The next slot's turn comes when every slot that has been renewed runs (or has completed); so a task spec that does not work
stops at the first slot. Slots that do not run anyway go first.
"""

from collections.abc import Iterable

from pyswarm_common.objects import Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.replicated.slots import Slot


def next_slot(service: Service, slots: Iterable[Slot]) -> Slot | None:
    """Return the slot whose turn it is to be renewed; None when there is none, or it is not the time yet."""
    outdated: list[Slot] = []
    for slot in slots:
        if is_outdated(service, slot.newest):
            outdated.append(slot)
        elif not _has_settled(slot):
            return None
    return min(outdated, key=lambda s: (s.is_running, s.number), default=None)


def is_outdated(service: Service, task: Task) -> bool:
    """Whether the task was made from another task spec than the service has now."""
    return task.spec_generation < service.spec_generation and task.task_spec_id != service.task_spec_id


def _has_settled(slot: Slot) -> bool:
    return slot.is_running or (slot.current is None and slot.newest.status.state is TaskState.COMPLETE)
