"""Which node each pending task gets. Pure.

Identical tasks are a group (one service, one task spec). A decision takes the groups in the order of their oldest task: first
those whose tasks have their node already and are only to be confirmed, for they have no choice; then the others. Tasks that find
no node learn which filters refused how many; that is said last, of the nodes as they are then, so that a second decision has
nothing to add.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from pyswarm_common.objects import Task, TaskStatus
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.state_times import packed_state_time
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.dependencies import why_held
from pyswarm_manager.scheduler.groups import GroupMaker, with_gifts
from pyswarm_manager.scheduler.pending import PendingGroup
from pyswarm_manager.scheduler.placing import Placed, Placing
from pyswarm_manager.scheduler.task_group import TaskGroup
from pyswarm_manager.store.tables import View

PENDING_TASKS = ""
"""The key that stands for all pending tasks; other keys are the ids of services."""
WAITING = "pending task scheduling"
ASSIGNED = "scheduler assigned task to node"
CONFIRMED = "scheduler confirmed task can run on preassigned node"
REASON_REFRESH_NS = 30 * SECOND_NS
"""How long a reason stays when nothing but its numbers has changed: in a busy cluster they change all the time."""
MAXIMUM_LOOKS = 50_000
"""Looks at nodes in vain after which a decision about some keys leaves the rest for the next one (some 20 ms)."""


def decide(view: View, now_ns: int, limit: int | None = DEFAULT_LIMIT, keys: Iterable[str] | None = None) -> Decisions:
    """Return the pending tasks with their nodes, or with the reason why they have none.

    `keys` are ids of services, or PENDING_TASKS for all. Without keys a decision is about all tasks and goes through all of them,
    however long that takes.
    """
    wanted = None if keys is None else list(keys)
    scheduling = _Scheduling(view, now_ns, limit, None if wanted is None else MAXIMUM_LOOKS)
    scheduling.run(None if wanted is None or PENDING_TASKS in wanted else wanted)
    return scheduling.draft.finish()


class _Scheduling:
    """One decision."""

    def __init__(self, view: View, now_ns: int, limit: int | None, maximum_looks: int | None) -> None:
        self.draft = Draft(view, limit)
        self._view = view
        self._load = view.derived(ClusterLoad)
        self._placing = Placing(self._load)
        self._maker = GroupMaker(view, self._load, now_ns)
        self._now_ns = now_ns
        self._maximum_looks = maximum_looks
        self._assigned = TaskStatus(state=TaskState.ASSIGNED, at_ns=now_ns, message=ASSIGNED)
        self._confirmed = TaskStatus(state=TaskState.ASSIGNED, at_ns=now_ns, message=CONFIRMED)
        self._state_time = packed_state_time(TaskState.ASSIGNED, now_ns)
        self._refused: list[tuple[PendingGroup, TaskGroup, Iterable[str]]] = []

    def run(self, service_ids: Iterable[str] | None) -> None:
        """Place, confirm, then explain."""
        pending = self._load.pending.groups(service_ids)
        held = why_held(self._view, (group.service_id for group in pending))
        for place, group in enumerate(pending):
            if not self.draft.has_room() or self._is_tired():
                self.draft.postpone(group.service_id for group in pending[place:])
                break
            if group.service_id in held:
                continue
            made = self._maker.make(group.service_id, group.task_spec_id)
            if made is not None:
                (self._confirm if group.is_preassigned else self._place)(group, made)
        if held:
            self._hold(pending, held)
        for group, made, task_ids in self._refused:
            self._explain(group, made, task_ids)

    def _is_tired(self) -> bool:
        return self._maximum_looks is not None and self._placing.looks >= self._maximum_looks

    def _place(self, pending: PendingGroup, group: TaskGroup) -> None:
        room = self.draft.room
        wanted = len(pending) if room is None else min(len(pending), room)
        task_ids = pending.ids()
        placed = self._placing.place(group, wanted)
        for place, task_id in zip(placed, task_ids, strict=False):
            task = self._view.tasks.must_get(task_id)
            self._assign(task, self._assigned, group, place)
        if len(placed) < wanted:
            self._refused.append((pending, group, pending.ids(len(placed))))
        elif len(placed) < len(pending):
            self.draft.postpone([pending.service_id])

    def _confirm(self, pending: PendingGroup, group: TaskGroup) -> None:
        refused = []
        for task_id in pending.ids():
            if not self.draft.has_room():
                self.draft.postpone([pending.service_id])
                break
            task = self._view.tasks.must_get(task_id)
            place = self._placing.place_on(group, task.node_id)
            if place is None:
                refused.append(task_id)
            else:
                self._assign(task, self._confirmed, group, place)
        if refused:
            self._refused.append((pending, group, refused))

    def _assign(self, task: Task, status: TaskStatus, group: TaskGroup, place: Placed) -> None:
        assigned = msgspec.structs.replace(
            task, node_id=place.node_id, status=status, state_times=task.state_times + self._state_time
        )
        self.draft.update(with_gifts(assigned, place, group, self._load, self._now_ns))

    def _explain(self, pending: PendingGroup, group: TaskGroup, task_ids: Iterable[str]) -> None:
        summary = "" if pending.is_preassigned else self._placing.refusal(group)
        for task_id in task_ids:
            task = self._view.tasks.must_get(task_id)
            if not self._note_why(task, summary or self._placing.refusal_on(group, [task.node_id])):
                return

    def _hold(self, pending: Iterable[PendingGroup], reasons: Mapping[str, str]) -> None:
        """Note why the tasks of services that wait for others are not placed."""
        for group in pending:
            if group.service_id in reasons:
                for task_id in group.ids():
                    if not self._note_why(self._view.tasks.must_get(task_id), reasons[group.service_id]):
                        break

    def _note_why(self, task: Task, error: str) -> bool:
        """Write into a task that has no node why; False when there is no room."""
        if task.status.error == error and task.status.message == WAITING:
            return True
        if not self.draft.has_room():
            self.draft.postpone([task.service_id])
            return False
        refresh_ns = task.updated_at_ns + REASON_REFRESH_NS
        if self._now_ns < refresh_ns <= self._now_ns + REASON_REFRESH_NS and without_numbers(task.status.error) == without_numbers(
            error
        ):
            self.draft.wake(task.service_id, refresh_ns)
            return True
        status = msgspec.structs.replace(task.status, message=WAITING, error=error)
        self.draft.update(msgspec.structs.replace(task, status=status))
        return True


@lru_cache(maxsize=1024)
def without_numbers(reason: str) -> frozenset[str]:
    """Return the parts of a reason without their numbers of nodes, in no order: what is to be told at once when it changes."""
    return frozenset(re.sub(r"\d+ nodes?", "", reason.removesuffix(")").rpartition("no suitable node (")[2]).split("; "))
