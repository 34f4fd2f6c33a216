"""A transaction under construction: the functions that share it, and the joined writes of their changes.

Changes of one object by several functions become one write (etcd refuses a key twice); an object that came and went within
the batch needs none. A function goes in whole or waits for the next batch.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import AnyObject
from pyswarm_manager.store.backend import Delete, Operation, Put
from pyswarm_manager.store.envelope import OVERHEAD_BYTES
from pyswarm_manager.store.records import Codec, object_key, parse_object_key
from pyswarm_manager.store.tables import Table, Tables
from pyswarm_manager.store.transaction import Transaction

MAX_CHANGES = 500
"""Objects that one function, and one transaction, may change; heartbeat and fence come on top (etcd: `--max-txn-ops`).

What a commit costs beside its objects is a round trip, an fsync, and one look of a loop at all that its decision rests on. With
100, thirty thousand tasks took the leader twice the CPU time; with more, a single batch would hold up the event loop too long.
"""
MAX_BYTES = 1 << 20
"""Bytes that one function, and one transaction, may write (etcd's limit is 1.5 MiB)."""


class TransactionTooLarge(InvalidArgument):
    """One function changes more than a transaction can hold: cut the work into several updates."""


@dataclass(eq=False)
class QueuedUpdate:
    """A function waiting for its turn, and its caller's future."""

    function: Callable[[Transaction], Any]
    future: "asyncio.Future[Any]"
    result: Any = None
    error: Exception | None = None

    def deliver(self) -> None:
        """Give the caller what the function returned or raised."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)

    def fail(self, error: Exception) -> None:
        """Tell the caller that there will be no result."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False)
class _Write:
    table: Table[Any]
    object_id: str
    base_version: int
    """The object's version before the batch; 0: there was none."""
    after: AnyObject | None
    plaintext: bytes | None
    """None: delete, or nothing when there was none."""

    @property
    def is_needed(self) -> bool:
        return self.base_version != 0 or self.after is not None

    @property
    def size_bytes(self) -> int:
        return OVERHEAD_BYTES + len(self.plaintext) if self.plaintext is not None else 0


@dataclass(eq=False)
class Batch:
    """The updates of one transaction, in order, and their writes by key."""

    head: Tables
    codec: Codec
    updates: list[QueuedUpdate] = field(default_factory=list)
    _writes: dict[str, _Write] = field(default_factory=dict)
    _transactions: list[Transaction] = field(default_factory=list)
    _size_bytes: int = 0
    _count: int = 0

    def run(self, update: QueuedUpdate, transaction: Transaction) -> bool:
        """Run one function on the head and add its changes; False: it did not fit and was undone."""
        update.error = None
        try:
            update.result = update.function(transaction)
            transaction.finish()
            if not self._add(transaction):
                transaction.undo()
                return False
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the caller's, delivered with the batch)
            transaction.undo()
            update.error = error
        self.updates.append(update)
        return True

    def operations(self) -> tuple[list[Operation], dict[str, tuple[bytes, AnyObject]]]:
        """Return the sealed writes, and for the mirror which object each value holds."""
        operations: list[Operation] = []
        offers: dict[str, tuple[bytes, AnyObject]] = {}
        for key, write in self._writes.items():
            if write.plaintext is not None and write.after is not None:
                value = self.codec.seal(key, write.plaintext)
                operations.append(Put(key, value))
                offers[key] = (value, write.after)
            elif write.is_needed:
                operations.append(Delete(key))
        return operations, offers

    def was_committed(self, mirror: Tables) -> bool:
        """Tell from a mirror that is past this batch's fence whether it was committed.

        All writes are one step and nobody else writes objects, so the first one tells for all: its object's version is
        still the one that it had before, or not.
        """
        for key, write in self._writes.items():
            table = mirror.table_of_kind(parse_object_key(key)[0])
            if write.is_needed and table is not None:
                return table.version_of(write.object_id) != write.base_version
        return False

    def note_committed(self, revision: int) -> None:
        """Give the changed objects in the head their version."""
        for write in self._writes.values():
            if write.after is not None:
                write.table.set_version(write.object_id, revision)

    def undo(self) -> None:
        """Take all changes back from the head."""
        for transaction in reversed(self._transactions):
            transaction.undo()

    def _add(self, transaction: Transaction) -> bool:
        added = {object_key(*touched): self._write(*touched, transaction) for touched in transaction.touched()}
        replaced = [self._writes[key] for key in added if key in self._writes]
        size = self._size_bytes + sum(w.size_bytes for w in added.values()) - sum(w.size_bytes for w in replaced)
        count = self._count + sum(w.is_needed for w in added.values()) - sum(w.is_needed for w in replaced)
        if count > MAX_CHANGES or size > MAX_BYTES:
            if not self._writes:
                raise TransactionTooLarge(
                    f"the update changes {count} objects with {size} bytes; at most {MAX_CHANGES} objects and {MAX_BYTES} bytes fit"
                )
            return False
        self._writes.update(added)
        self._size_bytes, self._count = size, count
        self._transactions.append(transaction)
        return True

    def _write(self, type_: type[AnyObject], object_id: str, transaction: Transaction) -> _Write:
        table: Table[Any] = self.head.table(type_)
        after = table.get(object_id)
        earlier = self._writes.get(object_key(type_, object_id))
        base = earlier.base_version if earlier is not None else transaction.version_before(type_, object_id)
        return _Write(table, object_id, base, after, self.codec.encode(after) if after is not None else None)
