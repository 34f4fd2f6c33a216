"""Whose turn it is among the slots whose tasks the rebalancer marked to move (`Task.must_move`). Pure.

As many moves are under way at once as the service's update parallelism says; none begins while the service is updated.
"""

from collections.abc import Collection

from pyswarm_common.objects import Service
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.replicated.slots import Slot
from pyswarm_manager.orchestrator.update import plan


def slots_to_move(service: Service, slots: Collection[Slot]) -> frozenset[int]:
    """Return the numbers of the slots whose task may be moved now."""
    marked = [slot.key for slot in slots if _is_marked(slot)]
    if not marked or plan.is_updating(service):
        return frozenset()
    parallelism = plan.config_in_force(service).parallelism
    free = max(0, parallelism - sum(map(_is_moving, slots))) if parallelism else len(marked)
    return frozenset(sorted(marked)[:free])


def _is_marked(slot: Slot) -> bool:
    task = slot.current
    return task is not None and task.must_move and not slot.elders and task.status.state is TaskState.RUNNING


def _is_moving(slot: Slot) -> bool:
    """Whether the slot's task takes the place of a marked one, and does not run yet."""
    current = slot.current
    if current is None or current.status.state >= TaskState.RUNNING:
        return False
    return any(task.must_move and current.cause == task.id for task in (*slot.elders, *slot.past))
