"""A service's tasks by slot: who holds each slot now, and who was there before. Pure."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyswarm_common.objects import Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import age_key


@dataclass
class Slot:
    """One slot. `current` is the newest task that should run; None when the slot's last task ended and needs no successor."""

    number: int
    current: Task | None = None
    past: list[Task] = field(default_factory=list)
    """Tasks that were told to stop, oldest first."""

    @property
    def newest(self) -> Task:
        """The task that stands for the slot."""
        return self.current or self.past[-1]

    @property
    def is_running(self) -> bool:
        """Whether the slot does its work now."""
        return self.current is not None and self.current.status.state is TaskState.RUNNING


def group_slots(tasks: Iterable[Task]) -> dict[int, Slot]:
    """Return the slots in use, by number; tasks on their way out (desired REMOVE) are in none."""
    slots: dict[int, Slot] = {}
    for task in sorted(tasks, key=age_key):
        if task.desired_state is TaskState.REMOVE:
            continue
        slot = slots.get(task.slot)
        if slot is None:
            slot = slots[task.slot] = Slot(task.slot)
        if task.desired_state <= TaskState.RUNNING:
            if slot.current is not None:
                slot.past.append(slot.current)
            slot.current = task
        else:
            slot.past.append(task)
    return slots


def lowest_free_numbers(taken: Iterable[int], count: int) -> list[int]:
    """Return the `count` lowest slot numbers, from 1, that are not taken."""
    used = set(taken)
    free: list[int] = []
    number = 1
    while len(free) < count:
        if number not in used:
            free.append(number)
        number += 1
    return free


def choose_surplus(slots: Iterable[Slot], count: int) -> list[Slot]:
    """Return the slots to give up: not running ones first, then from nodes with most of them; ties by the highest number."""
    by_node: dict[str, list[Slot]] = {}
    idle: list[Slot] = []
    for slot in sorted(slots, key=lambda s: s.number):
        if slot.current is not None and slot.is_running:
            by_node.setdefault(slot.current.node_id, []).append(slot)
        else:
            idle.append(slot)
    chosen = idle[::-1][:count]
    heap = [(-len(members), -members[-1].number, node_id) for node_id, members in by_node.items()]
    heapq.heapify(heap)
    while heap and len(chosen) < count:
        node_id = heap[0][2]
        members = by_node[node_id]
        chosen.append(members.pop())
        if members:
            heapq.heapreplace(heap, (-len(members), -members[-1].number, node_id))
        else:
            heapq.heappop(heap)
    return chosen
