"""What a control loop's pure `decide` returns, and the draft in which it gathers that.

A decide function looks at some *keys* (mostly service ids), spends at most `limit` store operations, and returns `Decisions`:
what to create, update and delete, the keys that it had no room for, and the times at which a key wants to be looked at again.
The loop (`loops.py`) applies them inside `store.update`, on the very head that they were decided on. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from pyswarm_common.objects import AnyObject, Task, TaskStatus
from pyswarm_common.state_times import with_state_time
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.causes import with_reason
from pyswarm_manager.store.tables import ObjectT, View

DEFAULT_LIMIT = 400
"""Operations of one decide: a transaction takes 500, and task specs that lose their last reference are deleted in it too."""
LEAST_LIMIT = 2
"""Operations that every decide must be given to get on: a task and its successor change together."""


class Writes(Protocol):
    """The part of a store transaction that changes things."""

    def create(self, item: ObjectT) -> Any:
        """Add an object."""
        ...

    def update(self, item: ObjectT) -> Any:
        """Replace the object with this id."""
        ...

    def delete(self, type_: type[ObjectT], object_id: str) -> Any:
        """Remove an object."""
        ...


@dataclass(frozen=True)
class Decisions:
    """What to change, and what to look at again."""

    created: tuple[AnyObject, ...] = ()
    updated: tuple[AnyObject, ...] = ()
    deleted: tuple[AnyObject, ...] = ()
    unfinished: tuple[str, ...] = ()
    """Keys for which the limit left no room."""
    wake_at_ns: dict[str, int] = field(default_factory=dict)
    """When a key should be looked at again without any event, in wall time."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be changed."""
        return not (self.created or self.updated or self.deleted)

    def apply_to(self, tx: Writes) -> None:
        """Carry the changes out."""
        for item in self.created:
            tx.create(item)  # type: ignore[type-var]
        for item in self.updated:
            tx.update(item)  # type: ignore[type-var]
        for item in self.deleted:
            tx.delete(type(item), item.id)  # type: ignore[type-var]


class Draft:
    """Decisions under construction: counts operations, keeps the last form of each object."""

    def __init__(self, view: View, limit: int | None) -> None:
        self._view = view
        self._room = limit
        self._created: dict[str, AnyObject] = {}
        self._updated: dict[str, AnyObject] = {}
        self._deleted: dict[str, AnyObject] = {}
        self._unfinished: dict[str, None] = {}
        self._wake_at_ns: dict[str, int] = {}

    def has_room(self, operations: int = 1) -> bool:
        """Whether so many more operations fit."""
        return self._room is None or self._room >= operations

    @property
    def room(self) -> int | None:
        """How many more operations fit; None: any number."""
        return self._room

    def create(self, item: AnyObject) -> None:
        """Note a new object; a task that replaces another one is given the reason."""
        self._spend(1)
        self._created[item.id] = with_reason(item, self._view) if isinstance(item, Task) else item

    def update(self, item: AnyObject) -> None:
        """Note an object's new form; nothing is noted when it is no different."""
        table: Any = self._view.table(type(item))
        if item.id in self._updated:
            self._updated[item.id] = item
        elif table.get(item.id) != item:
            self._spend(1)
            self._updated[item.id] = item

    def delete(self, item: AnyObject, operations: int = 1) -> None:
        """Note an object's end; `operations` counts what goes with it."""
        self._spend(operations)
        self._deleted[item.id] = item

    def postpone(self, keys: Iterable[str]) -> None:
        """Note keys that there was no room for."""
        self._unfinished.update(dict.fromkeys(keys))

    def wake(self, key: str, at_ns: int) -> None:
        """Note that `key` wants to be looked at again at that time."""
        self._wake_at_ns[key] = min(at_ns, self._wake_at_ns.get(key, at_ns))

    def finish(self) -> Decisions:
        """Return what was gathered."""
        return Decisions(
            created=tuple(self._created.values()),
            updated=tuple(self._updated.values()),
            deleted=tuple(self._deleted.values()),
            unfinished=tuple(self._unfinished),
            wake_at_ns=dict(self._wake_at_ns),
        )

    def _spend(self, operations: int) -> None:
        if self._room is not None:
            self._room -= operations


def with_status(task: Task, state: TaskState, now_ns: int, message: str, error: str = "") -> Task:
    """Return the task as a manager moves it on to `state`."""
    status = TaskStatus(state=state, at_ns=now_ns, message=message, error=error)
    return msgspec.structs.replace(task, status=status, state_times=with_state_time(task.state_times, state, now_ns))


def age_key(task: Task) -> tuple[int, int, str]:
    """Sort key: older tasks first, ties by id."""
    return task.created_at_ns, task.spec_generation, task.id


def succession_key(task: Task) -> tuple[int, int, str]:
    """Sort key within one slot or node: earlier tasks first. A later generation is newer, whatever two leaders' clocks said."""
    return task.spec_generation, task.created_at_ns, task.id
