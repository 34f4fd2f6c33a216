"""The pending tasks in groups of identical ones, each group in the order of age. Pure.

A group has the tasks of one service with one task spec that are to be placed, or those of them that have their node already and
are only to be confirmed. It holds keys instead of tasks: 100,000 pending tasks cost some 15 MB.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from pyswarm_common.objects import Task
from pyswarm_common.task_states import TaskState

Entry = tuple[int, int, str]
"""When a task was created, its slot, its id."""
_RUNNING = int(TaskState.RUNNING)
_COMPACT_FROM = 64


def is_pending(task: Task) -> bool:
    """Whether the scheduler has to find a node for it, or to confirm the one it has."""
    return task.status.state is TaskState.PENDING and task.desired_state <= _RUNNING


class PendingGroup:
    """Pending tasks that are alike, sorted. Taking from the front is cheap, also from 100,000."""

    __slots__ = ("_entries", "_start", "is_preassigned", "service_id", "task_spec_id")

    def __init__(self, service_id: str, task_spec_id: str, is_preassigned: bool) -> None:
        self.service_id = service_id
        self.task_spec_id = task_spec_id
        self.is_preassigned = is_preassigned
        self._entries: list[Entry] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._entries) - self._start

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PendingGroup) and self.sort_key() == other.sort_key() and list(self.ids()) == list(other.ids())

    def sort_key(self) -> tuple[bool, Entry]:
        """Return a key that no other group has: those that are only to be confirmed first, then those with the oldest task."""
        return not self.is_preassigned, self._entries[self._start]

    def ids(self, start: int = 0) -> Iterator[str]:
        """Return the ids of the tasks, the oldest first, from this place on."""
        entries = self._entries
        return (entries[place][2] for place in range(self._start + start, len(entries)))

    def add(self, task: Task) -> None:
        """Take one more in."""
        entry = _entry(task)
        entries = self._entries
        if not entries or entry > entries[-1]:
            entries.append(entry)
        elif self._start and entry < entries[self._start]:
            self._start -= 1  # a placement that was taken back
            entries[self._start] = entry
        else:
            insort(entries, entry, self._start)

    def discard(self, task: Task) -> None:
        """Take one out."""
        entries, entry = self._entries, _entry(task)
        if entries[self._start] != entry:
            del entries[bisect_left(entries, entry, self._start)]
            return
        self._start += 1
        if self._start >= _COMPACT_FROM and 2 * self._start >= len(entries):
            del entries[: self._start]
            self._start = 0


class PendingTasks:
    """All groups, by service."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._groups: dict[str, list[PendingGroup]] = {}
        for task in sorted((t for t in tasks if is_pending(t)), key=_entry):
            self.add(task)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PendingTasks) and self.groups(None) == other.groups(None)

    def groups(self, service_ids: Iterable[str] | None) -> list[PendingGroup]:
        """Return the groups of these services (None: of all), in the order of their keys."""
        wanted = self._groups.keys() if service_ids is None else dict.fromkeys(service_ids)
        found = [group for service_id in wanted for group in self._groups.get(service_id, ())]
        if len(found) > 1:
            found.sort(key=PendingGroup.sort_key)
        return found

    def add(self, task: Task) -> None:
        """Take one more in."""
        group = self._find(task)
        if group is None:
            group = PendingGroup(task.service_id, task.task_spec_id, bool(task.node_id))
            self._groups.setdefault(task.service_id, []).append(group)
        group.add(task)

    def discard(self, task: Task) -> None:
        """Take one out."""
        group = self._find(task)
        assert group is not None
        group.discard(task)
        if not len(group):
            groups = self._groups[task.service_id]
            if len(groups) == 1:
                del self._groups[task.service_id]
            else:
                groups[:] = [one for one in groups if one is not group]

    def _find(self, task: Task) -> PendingGroup | None:
        for group in self._groups.get(task.service_id, ()):
            if group.task_spec_id == task.task_spec_id and group.is_preassigned == bool(task.node_id):
                return group
        return None


def _entry(task: Task) -> Entry:
    return task.created_at_ns, task.slot, task.id
