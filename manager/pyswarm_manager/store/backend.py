"""What the store asks of the replicated log below it: a `Backend`, which is etcd (`EtcdBackend`) or a fake (`memory.py`).

A backend knows keys, values as opaque bytes, and revisions: every commit that changes something gets the next one. It does not know
objects, fences or leaders. tests/manager/store/test_store_backend_contract.py says what both must do.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from pyswarm_common.errors import PyswarmError


class Put(NamedTuple):
    """Store a value under a key."""

    key: str
    value: bytes


class Delete(NamedTuple):
    """Remove a key; nothing happens when it is absent."""

    key: str


Operation: TypeAlias = Put | Delete


class Compare(NamedTuple):
    """Demand that a key's last change has this revision (0: that the key is absent)."""

    key: str
    mod_revision: int


class Entry(NamedTuple):
    """A key, its value, and the revision of its last change."""

    key: str
    value: bytes
    mod_revision: int


class Event(NamedTuple):
    """A change that a watch reports; `value` None: the key was deleted."""

    key: str
    value: bytes | None
    mod_revision: int


class Page(NamedTuple):
    """A part of all entries in the order of their keys, as they were at `revision`."""

    entries: Sequence[Entry]
    revision: int
    has_more: bool


class Reading(NamedTuple):
    """A linearizable read of one key, and the store's revision at that moment."""

    entry: Entry | None
    revision: int

    @property
    def mod_revision(self) -> int:
        """The revision of the key's last change; 0 when it is absent."""
        return self.entry.mod_revision if self.entry is not None else 0


class CommitResult(NamedTuple):
    """Whether the comparisons held; `revision` is that of the commit when they did."""

    succeeded: bool
    revision: int


class MemberStatus(NamedTuple):
    """What the local member says of itself. `leader_id` 0: it sees no raft leader."""

    member_id: int
    leader_id: int
    raft_term: int
    is_learner: bool = False
    file_bytes: int = 0
    in_use_bytes: int = 0
    has_alarm: bool = False

    @property
    def is_leader(self) -> bool:
        """Whether the local member is the raft leader."""
        return self.leader_id != 0 and self.leader_id == self.member_id


class Compacted(PyswarmError):
    """The history asked for is gone: list everything again."""


class Backend(Protocol):
    """A replicated, ordered key-value store, seen from one of its members.

    Every method may raise Unavailable; from `commit` that means that nothing was or will be committed.
    """

    async def read_page(self, start_key: str, revision: int = 0) -> Page:
        """Return entries from `start_key` on, from the local member, at `revision` (0: its latest). Raises Compacted."""
        ...

    async def read(self, key: str) -> Reading:
        """Return a key's entry, linearizable: it includes every commit that was acknowledged before the call."""
        ...

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> CommitResult:
        """Carry out all operations in one revision if all comparisons hold. Raises OutcomeUnknown when the answer is lost."""
        ...

    def watch(self, start_revision: int) -> AsyncGenerator[Sequence[Event], None]:
        """Report all changes from `start_revision` on, in order; the events of one revision are never split.

        Raises Compacted, and Unavailable when the member is gone or silent (3 s).
        """
        ...

    def statuses(self) -> AsyncIterator[MemberStatus | None]:
        """Report the local member's status now and whenever it changed (or more often); None: it does not answer."""
        ...

    async def member_ids(self) -> Sequence[int]:
        """Return the ids of all members."""
        ...

    async def voter_ids(self) -> Sequence[int]:
        """Return the ids of the members that vote."""
        ...

    async def move_leader(self, member_id: int) -> None:
        """Let another member become raft leader; the local one must be it now. Returns when it is."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget the history before `revision`. Compacting twice is no error."""
        ...

    async def defragment(self) -> None:
        """Give the local member's unused file space back; it answers nothing meanwhile."""
        ...

    async def alarmed_member_ids(self) -> Sequence[int]:
        """Return the members that stopped writes because their space is used up."""
        ...

    async def disarm_alarm(self, member_id: int) -> None:
        """Allow writes again after a member's space was used up."""
        ...
