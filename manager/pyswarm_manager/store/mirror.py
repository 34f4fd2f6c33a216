"""The mirror: all objects in memory, as committed, fed by one list and one watch.

Design
  * One watch over everything that pyswarm stores gives every revision there is, in order. So "the mirror is at revision R"
    means that it contains everything up to R, and a read index is just "wait until the mirror is at R".
  * Progress notifications only show that the member is alive. They must not advance the revision: before 3.4.25 and 3.5.8 etcd
    may send them ahead of the events that they cover (etcd issue 15220).
  * The events of one batch are applied without a pause, so a reader that does not await sees whole transactions.
  * The leader's own commits are applied as soon as etcd acknowledged them, when the mirror is at the revision just before; the
    watch brings them again and they are skipped. Its objects are taken from the writer (`offers`) instead of decoded
    again: that saves the time, and head and mirror share them.
  * When the history that the watch needs was compacted away, everything is listed again and compared with the tables, so that
    subscribers hear of what changed meanwhile; they need not know that a reload happened.
"""

import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import Unavailable
from pyswarm_common.objects import AnyObject
from pyswarm_manager.store.backend import Backend, Compacted, Entry, Event, Page
from pyswarm_manager.store.records import (
    FENCE_KEY,
    LEADER_KEY,
    OBJECTS_PREFIX,
    VERSION_BASE_KEY,
    Codec,
    Fence,
    parse_object_key,
)
from pyswarm_manager.store.subscription import Change, Subscription
from pyswarm_manager.store.tables import Tables
from pyswarm_manager.store.waiting import Waiters

_log = structlog.get_logger(__name__)
RETRY_PAUSE_S = 0.1
FREEZE_OBJECTS = 10_000
"""From this many objects on, the garbage collector is told to leave what was loaded alone."""


class Mirror:
    """The committed state. Everything here is for the store's own parts; others read `store.view`."""

    def __init__(self, backend: Backend, codec: Codec, clock: Clock) -> None:
        self.tables = Tables()
        self.revision = 0
        self.compactable_revision = 0
        """A late revision without deletions: etcd forgets the deletions of the very revision that it compacts to (issue 19179)."""
        self.is_loaded = False
        self.fence: Fence | None = None
        self.fence_revision = 0
        self.heartbeat_revision = 0
        self.leader_seen_s = clock.monotonic_s()
        """When, on this manager's clock, the fence or the leader's heartbeat last changed."""
        self.version_base = 0
        self.offers: dict[str, tuple[bytes, AnyObject]] = {}
        """What the writer has under way: key → value and object."""
        self._backend = backend
        self._codec = codec
        self._clock = clock
        self._waiters = Waiters()
        self._subscriptions: list[Subscription] = []

    async def run(self) -> None:
        """Load, then follow; for ever. Raises EnvelopeError when a value cannot be opened."""
        while True:
            try:
                if not self.is_loaded:
                    await self._load()
                await self._follow()
            except Compacted:
                _log.warning("store.history_compacted", revision=self.revision)
                self.is_loaded = False
            except Unavailable as error:
                _log.info("store.watch_interrupted", error=error.message)
                await self._clock.sleep(RETRY_PAUSE_S)

    async def wait_loaded(self) -> None:
        """Return once everything was read for the first time."""
        await self._waiters.until(lambda: self.is_loaded)

    async def wait_revision(self, revision: int) -> None:
        """Return once every change up to `revision` is in the tables."""
        await self._waiters.until(lambda: self.is_loaded and self.revision >= revision)

    async def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Return once `predicate`, which looks at the mirror, holds."""
        await self._waiters.until(predicate)

    async def wait_fence_of_other(self, node: str, revision: int) -> None:
        """Return once the fence is seen in other hands than `node`'s, which took it at this revision."""
        await self._waiters.until(lambda: self.fence is not None and self.fence.node != node and self.fence_revision > revision)

    def subscribe(self, types: Iterable[type[AnyObject]]) -> Subscription:
        """Return a subscription to all later changes of these types (none given: all types)."""
        subscription = Subscription(types, on_close=self._subscriptions.remove)
        self._subscriptions.append(subscription)
        return subscription

    def apply(self, events: Iterable[Event]) -> None:
        """Take whole revisions in; those that are in already are skipped."""
        floor = self.revision
        changes: list[Change] = []
        last_deletion = 0
        for event in events:
            if event.mod_revision > floor:
                self._apply_one(event, changes)
                self.revision = event.mod_revision
                if event.value is None:
                    last_deletion = event.mod_revision
        if last_deletion != self.revision:
            self.compactable_revision = self.revision
        self._publish(changes)

    def _apply_one(self, event: Event, changes: list[Change]) -> None:
        if event.key.startswith(OBJECTS_PREFIX):
            self._apply_object(event, changes)
        elif event.key == FENCE_KEY:
            self.fence = self._codec.open_fence(event.value) if event.value is not None else None
            self.fence_revision = event.mod_revision
            self.leader_seen_s = self._clock.monotonic_s()
        elif event.key == LEADER_KEY:
            self.heartbeat_revision = event.mod_revision
            self.leader_seen_s = self._clock.monotonic_s()
        elif event.key == VERSION_BASE_KEY:
            self.version_base = self._codec.open_version_base(event.value) if event.value is not None else 0

    def _apply_object(self, event: Event, changes: list[Change]) -> None:
        kind, object_id = parse_object_key(event.key)
        table = self.tables.table_of_kind(kind)
        if table is None:
            return  # of a newer version than this manager
        after = self._open(event.key, event.value) if event.value is not None else None
        before = table.delete(object_id) if after is None else table.put(after, event.mod_revision)
        if before is not None or after is not None:
            changes.append(Change(before, after))

    def _open(self, key: str, value: bytes) -> AnyObject:
        offered = self.offers.get(key)
        if offered is not None and offered[0] == value:  # nonces differ, so equal bytes are this very write
            return offered[1]
        return self._codec.open_object(key, value)

    def _publish(self, changes: Sequence[Change]) -> None:
        if changes:
            for subscription in tuple(self._subscriptions):
                subscription.offer(changes)
        self._waiters.check()

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._backend.watch(self.revision + 1)) as batches:
            async for events in batches:
                self.apply(events)

    async def _load(self) -> None:
        if self.revision == 0:
            revision = await self._load_first()
        else:
            revision = await self._load_again()
        self.revision = revision
        self.is_loaded = True
        self._waiters.check()

    async def _load_first(self) -> int:
        """Fill the tables page by page, so that other work is not held up; nobody reads them yet."""
        self.tables = Tables()
        count = 0
        revision = 0
        async for page in self._pages():
            revision = page.revision
            count += len(page.entries)
            for entry in page.entries:
                self._apply_one(Event(*entry), [])
        if count >= FREEZE_OBJECTS:
            gc.freeze()
        return revision

    async def _load_again(self) -> int:
        """Bring the tables from an older revision to a new list, as one step."""
        entries: list[Entry] = []
        revision = 0
        async for page in self._pages():
            revision = page.revision
            entries += page.entries
        changes: list[Change] = []
        gone = {f"{OBJECTS_PREFIX}{kind}/{object_id}" for kind, object_id in self.tables.object_keys()}
        for entry in entries:
            gone.discard(entry.key)
            if entry.mod_revision != self._version_of(entry.key):
                self._apply_one(Event(*entry), changes)
        for key in sorted(gone):
            self._apply_one(Event(key, None, revision), changes)
        self.revision = revision
        self._publish(changes)
        return revision

    def _version_of(self, key: str) -> int:
        if not key.startswith(OBJECTS_PREFIX):
            return {FENCE_KEY: self.fence_revision, LEADER_KEY: self.heartbeat_revision}.get(key, 0)
        kind, object_id = parse_object_key(key)
        table = self.tables.table_of_kind(kind)
        return table.version_of(object_id) if table is not None else 0

    async def _pages(self) -> AsyncIterator[Page]:
        page = await self._backend.read_page("")
        yield page
        revision = page.revision
        while page.has_more:
            page = await self._backend.read_page(page.entries[-1].key + "\0", revision)
            yield Page(page.entries, revision, page.has_more)
