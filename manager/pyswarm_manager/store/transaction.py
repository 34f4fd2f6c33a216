"""What a queued function works on: the head to read, and three ways to change it.

Changes go into the head at once, so the function (and those after it) sees them; each is noted with what was there before, so
that they can be taken back: when the function raises, when it does not fit into the transaction under construction, or when
that transaction turns out not to have been committed.

A task spec goes with its last reference: when a function's changes leave one without any task or service, it is deleted
with them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from pyswarm_common.errors import AlreadyExists, OutOfSequence
from pyswarm_common.objects import AnyObject, Cluster, Config, Network, Node, Secret, Service, Task, TaskSpec
from pyswarm_manager.store.derived import DerivedT
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import ObjectT, ServiceTable, Table, Tables, TaskTable


class _Undo(NamedTuple):
    table: Table[Any]
    object_id: str
    before: AnyObject | None
    version: int


class Transaction:
    """A `View` of the head that can also be changed. For use inside the function given to `store.update` only."""

    def __init__(self, head: Tables, now_ns: int, version_base: int = 0) -> None:
        self._head = head
        self._now_ns = now_ns
        self._version_base = version_base
        self._undo: list[_Undo] = []
        self._touched: dict[tuple[type[AnyObject], str], int] = {}
        self._dropped_specs: set[str] = set()

    @property
    def now_ns(self) -> int:
        """The time that this transaction's changes carry, in nanoseconds since the epoch."""
        return self._now_ns

    @property
    def cluster(self) -> Cluster:
        """The one cluster object. Raises NotFound before it was stored."""
        return self._head.cluster

    @property
    def nodes(self) -> Table[Node]:
        """All nodes."""
        return self._head.nodes

    @property
    def networks(self) -> Table[Network]:
        """All networks."""
        return self._head.networks

    @property
    def services(self) -> ServiceTable:
        """All services."""
        return self._head.services

    @property
    def task_specs(self) -> Table[TaskSpec]:
        """All task specs."""
        return self._head.task_specs

    @property
    def tasks(self) -> TaskTable:
        """All tasks."""
        return self._head.tasks

    @property
    def secrets(self) -> Table[Secret]:
        """All secrets."""
        return self._head.secrets

    @property
    def configs(self) -> Table[Config]:
        """All configs."""
        return self._head.configs

    def table(self, type_: type[ObjectT]) -> Table[ObjectT]:
        """Return the table of one type of object."""
        return self._head.table(type_)

    def derived(self, type_: type[DerivedT]) -> DerivedT:
        """Return what is kept beside the head under this type."""
        return self._head.derived(type_)

    def create(self, item: ObjectT) -> ObjectT:
        """Add an object; returns it with its times set. Raises AlreadyExists when its id is taken."""
        table = self._head.table(type(item))
        if item.id in table:
            raise AlreadyExists(f"{table.noun} {item.id} already exists")
        return self._put(table, msgspec.structs.replace(item, created_at_ns=self._now_ns, updated_at_ns=self._now_ns))

    def update(self, item: ObjectT, expected_index: int | None = None) -> ObjectT:
        """Replace the object with this id; returns it with its times set.

        `expected_index` is the version index that the caller's change is based on. Raises NotFound, OutOfSequence.
        """
        table = self._head.table(type(item))
        before = table.must_get(item.id)
        version = table.version_of(item.id)
        if expected_index is not None and (version == 0 or expected_index != self._version_base + version):
            raise OutOfSequence()  # version 0: changed by an update ahead of this one, so nobody can have seen it yet
        return self._put(table, msgspec.structs.replace(item, created_at_ns=before.created_at_ns, updated_at_ns=self._now_ns))

    def delete(self, type_: type[ObjectT], object_id: str) -> ObjectT:
        """Remove an object; returns it. Raises NotFound."""
        table = self._head.table(type_)
        before = table.must_get(object_id)
        self._note(table, type_, object_id, before)
        table.delete(object_id)
        return before

    def finish(self) -> None:
        """Delete the task specs whose last reference went. For the writer, after the function returned."""
        for task_spec_id in sorted(self._dropped_specs):
            used = self.tasks.count_with_task_spec(task_spec_id) or self.services.count_with_task_spec(task_spec_id)
            if not used and task_spec_id in self.task_specs:
                self.delete(TaskSpec, task_spec_id)

    def touched(self) -> Iterator[tuple[type[AnyObject], str]]:
        """Return the type and id of every object that was changed, in the order of first change. For the writer."""
        return iter(self._touched)

    def version_before(self, type_: type[AnyObject], object_id: str) -> int:
        """Return the store revision of a touched object before this transaction; 0: there was none. For the writer."""
        return self._touched[type_, object_id]

    def changes(self) -> list[Change]:
        """Return every object that was changed, as it was and as it is, in the order of first change. For simulations."""
        befores: dict[tuple[int, str], tuple[Table[Any], AnyObject | None]] = {}
        for table, object_id, before, _ in self._undo:
            befores.setdefault((id(table), object_id), (table, before))
        found = (Change(before, table.get(object_id)) for (_, object_id), (table, before) in befores.items())
        return [change for change in found if change.before is not None or change.after is not None]

    def undo(self) -> None:
        """Take all changes back. For the writer."""
        for table, object_id, before, version in reversed(self._undo):
            if before is None:
                table.delete(object_id)
            else:
                table.put(before, version)
        self._undo.clear()
        self._touched.clear()

    def _put(self, table: Table[ObjectT], item: ObjectT) -> ObjectT:
        self._note(table, type(item), item.id, table.get(item.id))
        table.put(item, 0)
        return item

    def _note(self, table: Table[Any], type_: type[AnyObject], object_id: str, before: AnyObject | None) -> None:
        self._undo.append(_Undo(table, object_id, before, table.version_of(object_id)))
        self._touched.setdefault((type_, object_id), table.version_of(object_id))
        if isinstance(before, Task):
            self._dropped_specs.add(before.task_spec_id)
        elif isinstance(before, Service):
            self._dropped_specs.update((before.task_spec_id, before.previous_task_spec_id))
