"""A `Backend` in memory, with faults to order, and a whole store on it that already leads: for tests and simulations.

`MemoryCluster` is the replicated log; each `MemoryBackend` is the view from one member. It keeps etcd's rules: one revision per
commit that changes something, no key twice in a commit, compaction, watches that replay history, a raft leader with a term.
"""

import asyncio
import bisect
import contextlib
import enum
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from pyswarm_common.clock import Clock
from pyswarm_common.errors import InvalidArgument, OutcomeUnknown, Unavailable
from pyswarm_common.waiting import wait_first
from pyswarm_manager.store.backend import (
    CommitResult,
    Compacted,
    Compare,
    Entry,
    Event,
    MemberStatus,
    Operation,
    Page,
    Put,
    Reading,
)
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.store import Store

PAGE_ENTRIES = 1000


class LostAnswer(enum.Enum):
    """What became of a commit whose answer is lost."""

    COMMITTED = "it was committed"
    DROPPED = "it never reached the log"
    LATE = "it reaches the log after the next commit"


class MemoryCluster:
    """The state that all members share, and the faults."""

    def __init__(self, member_ids: Sequence[int] = (1,)) -> None:
        self.members = list(member_ids)
        self.data_keys = DataKeys.generate()
        self.leader_id = self.members[0]
        self.raft_term = 1
        self.revision = 1
        self.compacted_revision = 0
        self.entries: dict[str, Entry] = {}
        self.history: list[Event] = []
        self.lost_answers: list[LostAnswer | None] = []
        """What happens to the answers of the next commits, one each; None: nothing."""
        self.refusals = 0
        """How many of the next commits fail for certain."""
        self.blind_members: set[int] = set()
        """Members that see no raft leader, though there is one."""
        self.has_alarm = False
        self.commit_count = 0
        self.is_answering = asyncio.Event()
        """Cleared: commits and linearizable reads hang."""
        self.is_answering.set()
        self.changed = asyncio.Event()
        self._late: list[tuple[Sequence[Compare], Sequence[Operation]]] = []
        self._broken_watches = 0

    def elect(self, member_id: int) -> None:
        """Make a member the raft leader of a new term; 0: there is none."""
        self.leader_id = member_id
        self.raft_term += 1
        self.notify()

    def break_watches(self) -> None:
        """Let every watch fail as if its member had gone silent."""
        self._broken_watches += 1
        self.notify()

    def raise_alarm(self) -> None:
        """Refuse writes until the alarm is disarmed, as etcd does when its space is used up."""
        self.has_alarm = True
        self.notify()

    @property
    def broken_watches(self) -> int:
        """How often watches were broken."""
        return self._broken_watches

    def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> CommitResult:
        """Carry out a commit as the log does."""
        if any(self._mod_revision(key) != expected for key, expected in compares):
            return CommitResult(False, self.revision)
        events = [self._event(operation) for operation in operations]
        changes = [event for event in events if event.value is not None or event.key in self.entries]
        if changes:
            self.revision += 1
            self.commit_count += 1
        for event in changes:
            if event.value is None:
                del self.entries[event.key]
            else:
                self.entries[event.key] = Entry(event.key, event.value, event.mod_revision)
        self.history += changes
        self.notify()
        return CommitResult(True, self.revision)

    def commit_with_faults(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> CommitResult:
        """Carry out a commit, or what the next ordered fault says. Raises OutcomeUnknown, Unavailable."""
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("refused to order")
        fault = self.lost_answers.pop(0) if self.lost_answers else None
        if fault is LostAnswer.LATE:
            self._late.append((compares, operations))
        if fault in (LostAnswer.LATE, LostAnswer.DROPPED):
            raise OutcomeUnknown("the answer was lost")
        result = self.commit(compares, operations)
        late, self._late = self._late, []
        for late_compares, late_operations in late:
            self.commit(late_compares, late_operations)
        if fault is LostAnswer.COMMITTED:
            raise OutcomeUnknown("the answer was lost")
        return result

    def compact(self, revision: int) -> None:
        """Forget the history before `revision`."""
        self.compacted_revision = max(self.compacted_revision, min(revision, self.revision))
        self.history = [event for event in self.history if event.mod_revision >= self.compacted_revision]
        self.notify()

    def events_from(self, revision: int) -> list[Event]:
        """Return all changes from `revision` on. Raises Compacted."""
        if revision < self.compacted_revision:
            raise Compacted(f"the history before {self.compacted_revision} is gone")
        return self.history[bisect.bisect_left(self.history, revision, key=lambda e: e.mod_revision) :]

    def _event(self, operation: Operation) -> Event:
        return Event(operation.key, operation.value if isinstance(operation, Put) else None, self.revision + 1)

    def _mod_revision(self, key: str) -> int:
        entry = self.entries.get(key)
        return entry.mod_revision if entry is not None else 0

    def notify(self) -> None:
        """Wake watches and statuses."""
        self.changed.set()
        self.changed = asyncio.Event()


class MemoryBackend:
    """A `Backend` for one member of a `MemoryCluster`."""

    def __init__(self, cluster: MemoryCluster | None = None, member_id: int = 1) -> None:
        self.cluster = cluster if cluster is not None else MemoryCluster()
        self.member_id = member_id
        self._old_pages: dict[int, list[Entry]] = {}

    async def read_page(self, start_key: str, revision: int = 0) -> Page:
        """Return entries from `start_key` on. Raises Compacted."""
        await asyncio.sleep(0)
        cluster = self.cluster
        if revision and revision < cluster.compacted_revision:
            raise Compacted(f"revision {revision} is gone")
        if not revision or revision == cluster.revision:
            entries = sorted(cluster.entries.values())
            self._old_pages = {cluster.revision: entries}
        else:
            entries = self._old_pages[revision]
        page = [entry for entry in entries if entry.key >= start_key]
        return Page(page[:PAGE_ENTRIES], revision or cluster.revision, len(page) > PAGE_ENTRIES)

    async def read(self, key: str) -> Reading:
        """Return a key's entry, linearizable."""
        await asyncio.sleep(0)
        await self.cluster.is_answering.wait()
        return Reading(self.cluster.entries.get(key), self.cluster.revision)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> CommitResult:
        """Carry out all operations in one revision if all comparisons hold."""
        await asyncio.sleep(0)
        await self.cluster.is_answering.wait()
        keys = [operation.key for operation in operations]
        if len(set(keys)) != len(keys):
            raise InvalidArgument("duplicate key given in transaction")
        if self.cluster.has_alarm:
            raise OutcomeUnknown("database space exceeded")
        result = self.cluster.commit_with_faults(compares, operations)
        await asyncio.sleep(0)
        return result

    async def watch(self, start_revision: int) -> AsyncGenerator[Sequence[Event], None]:
        """Report all changes from `start_revision` on. Raises Compacted, Unavailable."""
        cluster = self.cluster
        broken = cluster.broken_watches
        while True:
            changed = cluster.changed
            events = cluster.events_from(start_revision)
            if cluster.broken_watches != broken:
                raise Unavailable("the watch is silent")
            if events:
                start_revision = events[-1].mod_revision + 1
                yield events
            else:
                await changed.wait()

    async def statuses(self) -> AsyncIterator[MemberStatus | None]:
        """Report the member's status now and after each change."""
        last: MemberStatus | None = None
        while True:
            changed = self.cluster.changed
            status = MemberStatus(
                member_id=self.member_id,
                leader_id=self.cluster.leader_id if self.member_id not in self.cluster.blind_members else 0,
                raft_term=self.cluster.raft_term,
                has_alarm=self.cluster.has_alarm,
            )
            if status != last:
                last = status
                yield status
            await changed.wait()

    async def member_ids(self) -> Sequence[int]:
        """Return the ids of all members."""
        return tuple(self.cluster.members)

    async def voter_ids(self) -> Sequence[int]:
        """Return the ids of the members that vote: all."""
        return tuple(self.cluster.members)

    async def move_leader(self, member_id: int) -> None:
        """Elect another member. Raises Unavailable when this one does not lead, or the other one is blind."""
        await asyncio.sleep(0)
        if self.cluster.leader_id != self.member_id or member_id in self.cluster.blind_members:
            raise Unavailable("not leader, or the other member does not answer")
        self.cluster.elect(member_id)

    async def compact(self, revision: int) -> None:
        """Forget the history before `revision`."""
        self.cluster.compact(revision)

    async def defragment(self) -> None:
        """Do nothing: memory has no file."""

    async def alarmed_member_ids(self) -> Sequence[int]:
        """Return this member when the alarm is on."""
        return (self.member_id,) if self.cluster.has_alarm else ()

    async def disarm_alarm(self, member_id: int) -> None:
        """Allow writes again."""
        self.cluster.has_alarm = False
        self.cluster.notify()


@asynccontextmanager
async def memory_store(clock: Clock, cluster: MemoryCluster | None = None, node_id: str = "manager") -> AsyncIterator[Store]:
    """Run a real store on memory, for tests of loops and routes: it is loaded and leads when the block begins."""
    backend = MemoryBackend(cluster)
    store = Store(backend, backend.cluster.data_keys, node_id, clock)
    running = asyncio.create_task(store.run())
    try:
        await wait_first(running, store.wait_leader())
        yield store
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
