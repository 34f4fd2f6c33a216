"""A service's tasks by slot; which numbers new slots get, and which slots go first. Pure."""

import heapq
from collections.abc import Iterable
from typing import TypeAlias

from pyswarm_common.objects import Task
from pyswarm_manager.orchestrator.update.units import Unit, group_units

Slot: TypeAlias = Unit[int]


def group_slots(tasks: Iterable[Task]) -> dict[int, Slot]:
    """Return the slots in use, by number; tasks on their way out (desired REMOVE) are in none."""
    return group_units(tasks, lambda task: task.slot)


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
    for slot in sorted(slots, key=lambda s: s.key):
        working = slot.working
        if working is not None:
            by_node.setdefault(working.node_id, []).append(slot)
        else:
            idle.append(slot)
    chosen = idle[::-1][:count]
    heap = [(-len(members), -members[-1].key, node_id) for node_id, members in by_node.items()]
    heapq.heapify(heap)
    while heap and len(chosen) < count:
        node_id = heap[0][2]
        members = by_node[node_id]
        chosen.append(members.pop())
        if members:
            heapq.heapreplace(heap, (-len(members), -members[-1].key, node_id))
        else:
            heapq.heappop(heap)
    return chosen
