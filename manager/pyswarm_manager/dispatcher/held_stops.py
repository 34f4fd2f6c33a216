"""Which tasks are not told to stop yet, because nodes may still send them connections; pure.

A running task that is to stop leaves the network views at once. Until every node that held such a view has said that the next one
is in force, its own node is told to go on running it: so no balancer sends a connection to a task that has got its stop signal.
Nodes whose session has ended are not waited for, as nobody can tell them anything, and none is for longer than `LONGEST_HOLD_S`.

All this is forgotten when the leader changes: the next one tells each node at once what it wants.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from pyswarm_common.objects import Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.view_content import is_backend

LONGEST_HOLD_S = 0.5
"""A node applies a view within some ten milliseconds. One that takes longer is paused, starved or cut off; it would hold up each
step of an update, and as many requests fail there for other reasons."""

Barrier: TypeAlias = tuple[str, int]
"""A network's id and the version of its view that its nodes have to reach."""


def stops_serving(before: Task | None, after: Task | None) -> bool:
    """Whether the change tells a task to stop that views may name as a backend."""
    if before is None or after is None or after.is_terminal:
        return False
    return after.desired_state > TaskState.RUNNING and is_backend(before)


class HeldStops:
    """The held tasks, each with the barriers that it waits for, and each barrier with the nodes that have not reached it."""

    def __init__(self) -> None:
        self._barriers_of: dict[str, set[Barrier]] = {}
        self._waiting: dict[Barrier, set[str]] = {}
        """By barrier the tasks that wait for it."""
        self._missing: dict[Barrier, set[str]] = {}
        """By barrier the nodes that have not reached it; never empty."""

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._barriers_of

    def __len__(self) -> int:
        return len(self._barriers_of)

    def hold(self, network_ids_of: Mapping[str, Collection[str]], missing: Mapping[Barrier, Collection[str]]) -> list[str]:
        """Hold tasks, given with their networks, until the nodes that are missing there have come; returns those that are held.

        `missing`: for the present versions of these networks, at most one each, the nodes that hold an older one.
        """
        held: list[str] = []
        for task_id, network_ids in network_ids_of.items():
            barriers = {barrier for barrier, nodes in missing.items() if nodes and barrier[0] in network_ids}
            for barrier in barriers:
                self._missing.setdefault(barrier, set()).update(missing[barrier])
                self._waiting.setdefault(barrier, set()).add(task_id)
            if barriers:
                self._barriers_of.setdefault(task_id, set()).update(barriers)
                held.append(task_id)
        return held

    def missing_for(self, task_ids: Iterable[str]) -> list[str]:
        """Return the nodes that those of the tasks that are held wait for, sorted."""
        barriers = {barrier for task_id in task_ids for barrier in self._barriers_of.get(task_id, ())}
        return sorted({node_id for barrier in barriers for node_id in self._missing[barrier]})

    def reached(self, node_id: str, versions: Mapping[str, int]) -> list[str]:
        """The node has applied these versions, by network id; returns the tasks that need not be held any more."""
        come = [b for b, nodes in self._missing.items() if node_id in nodes and versions.get(b[0], -1) >= b[1]]
        return self._pass(node_id, come)

    def keep_waiting_for(self, node_id: str, network_ids: Collection[str] = ()) -> list[str]:
        """The node holds views of no other networks than these; returns the tasks that need not be held any more."""
        left = [b for b, nodes in self._missing.items() if node_id in nodes and b[0] not in network_ids]
        return self._pass(node_id, left)

    def release(self, task_ids: Iterable[str]) -> list[str]:
        """Hold these tasks no longer, whoever is missing; returns those that were held."""
        released = [task_id for task_id in task_ids if task_id in self._barriers_of]
        for task_id in released:
            for barrier in self._barriers_of.pop(task_id):
                waiting = self._waiting[barrier]
                waiting.discard(task_id)
                if not waiting:
                    del self._waiting[barrier]
                    self._missing.pop(barrier, None)
        return released

    def _pass(self, node_id: str, barriers: Iterable[Barrier]) -> list[str]:
        released: list[str] = []
        for barrier in barriers:
            nodes = self._missing[barrier]
            nodes.discard(node_id)
            if nodes:
                continue
            del self._missing[barrier]
            for task_id in sorted(self._waiting.pop(barrier)):
                left = self._barriers_of[task_id]
                left.discard(barrier)
                if not left:
                    del self._barriers_of[task_id]
                    released.append(task_id)
        return released
