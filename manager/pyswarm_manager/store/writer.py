"""The one writer: runs queued functions in order on the head and commits their changes, many functions to a transaction.

Design
  * The head is a second set of tables: the mirror and what is under way. Functions run on it, so each sees what those before it
    did, committed or not; nobody can create a name twice or delete what another just referenced.
  * One transaction is in flight at a time. Functions queued meanwhile share the next one: the busier the store, the more of them an
    etcd round trip carries.
  * Results, and exceptions too, are delivered only when the batch is committed: what a function found may rest on what the
    functions ahead of it wrote.
  * Every transaction compares the fence. When the comparison fails, another manager leads: all that wait fail.
  * When etcd refuses for certain, the batch is undone in the head and tried again.
  * When the answer is lost, the writer takes the fence anew. From then on the lost transaction can no longer be committed, and the
    mirror, once it has reached the new fence, shows whether it was: if so the results stand, else the functions run again. So each
    function's changes happen exactly once, whatever the function is; it only must not mind being run more than once
    (change nothing but the transaction, choose ids beforehand).
  * The leader's heartbeat rides in the same transactions: a writer that cannot write does not look alive.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import OutcomeUnknown, PyswarmError, Unavailable
from pyswarm_common.waiting import wait_first
from pyswarm_manager.store.backend import Backend, Event, Put
from pyswarm_manager.store.batch import Batch, QueuedUpdate
from pyswarm_manager.store.fence import FenceLost, FenceTaker, HeldFence
from pyswarm_manager.store.mirror import Mirror
from pyswarm_manager.store.records import Codec
from pyswarm_manager.store.tables import Tables
from pyswarm_manager.store.transaction import Transaction

_log = structlog.get_logger(__name__)
HEARTBEAT_PERIOD_S = 1.0
RETRY_PAUSE_S = 0.1
MAX_BATCH_RUN_S = 0.02
"""How long the functions of one batch may hold up the event loop; a single function can take longer."""
MAX_BATCH_UPDATES = 256


class Writer:
    """Runs and commits updates while this manager holds the fence."""

    def __init__(self, backend: Backend, mirror: Mirror, codec: Codec, fences: FenceTaker, clock: Clock) -> None:
        self.confirmed_s = clock.monotonic_s()
        """When the last acknowledged heartbeat was sent, on this manager's clock."""
        self._backend = backend
        self._mirror = mirror
        self._codec = codec
        self._fences = fences
        self._clock = clock
        self._head = Tables()
        self._queue: deque[QueuedUpdate] = deque()
        self._in_flight: Batch | None = None
        self._sent_fence_revision = 0
        self._work = asyncio.Event()
        self._heartbeat_is_due = False
        self.is_stopping = False
        """Whether `run` returns after the batch under way."""

    def wake(self) -> None:
        """Let `run` look at `is_stopping`."""
        self._work.set()

    def submit(self, function: Callable[[Transaction], Any]) -> "asyncio.Future[Any]":
        """Queue a function; the future gets what it returns or raises once its changes are committed."""
        update = QueuedUpdate(function, asyncio.get_running_loop().create_future())
        self._queue.append(update)
        self._work.set()
        return update.future

    async def run(self, fence: HeldFence, raft_term: int, on_ready: Callable[[], None]) -> None:
        """Write under this fence until it is lost (FenceLost) or `is_stopping`."""
        self.confirmed_s = fence.asked_s
        await self._mirror.wait_revision(fence.revision)
        self._head = self._mirror.tables.copy()
        self._heartbeat_is_due = self._clock.monotonic_s() - self.confirmed_s >= HEARTBEAT_PERIOD_S
        self._work.set()
        on_ready()
        await wait_first(self._tick_heartbeats(), self._write_batches(fence, raft_term))

    def fail_all(self, error: PyswarmError, unknown: OutcomeUnknown) -> None:
        """Fail what waits: with `error` when it was certainly not committed, else with `unknown`."""
        batch, self._in_flight = self._in_flight, None
        if batch is not None:
            self._fail_in_flight(batch, error, unknown)
        queue, self._queue = self._queue, deque()
        for update in queue:
            update.fail(error)

    def _fail_in_flight(self, batch: Batch, error: PyswarmError, unknown: OutcomeUnknown) -> None:
        is_settled = self._mirror.fence_revision > self._sent_fence_revision
        was_committed = batch.was_committed(self._mirror.tables)
        for update in batch.updates:
            if was_committed:
                update.deliver()
            elif is_settled:
                update.fail(error)
            else:
                update.fail(unknown)

    async def _tick_heartbeats(self) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_PERIOD_S)
            self._heartbeat_is_due = True
            self._work.set()

    async def _write_batches(self, fence: HeldFence, raft_term: int) -> None:
        while not self.is_stopping:
            await self._work.wait()
            self._work.clear()
            while (self._queue or self._heartbeat_is_due) and not self.is_stopping:
                fence = await self._write_batch(fence, raft_term)

    async def _write_batch(self, fence: HeldFence, raft_term: int) -> HeldFence:
        """Run, commit and deliver one batch; returns the fence, which may be a new epoch. Raises FenceLost."""
        batch = self._build_batch()
        operations, self._mirror.offers = batch.operations()
        if not operations and not self._heartbeat_is_due:
            self._deliver(batch)
            await asyncio.sleep(0)
            return fence
        sent_s = self._clock.monotonic_s()
        has_heartbeat = self._heartbeat_is_due  # it may fall due again while this commit is under way
        if has_heartbeat:
            operations.append(self._fences.heartbeat())
            self._heartbeat_is_due = False
        self._in_flight, self._sent_fence_revision = batch, fence.revision
        try:
            result = await self._backend.commit([fence.compare], operations)
        except OutcomeUnknown as error:
            _log.warning("store.outcome_unknown", error=error.message, updates=len(batch.updates))
            return await self._settle(batch, raft_term)
        except Unavailable as error:
            _log.info("store.commit_refused", error=error.message)
            self._put_back(batch)
            self._heartbeat_is_due |= has_heartbeat
            await self._clock.sleep(RETRY_PAUSE_S)
            return fence
        except PyswarmError as error:
            self._in_flight = None
            self._heartbeat_is_due |= has_heartbeat
            batch.undo()
            for update in batch.updates:
                update.fail(error)
            return fence
        if not result.succeeded:
            self._put_back(batch)
            raise FenceLost("another manager took the fence")
        if has_heartbeat:
            self.confirmed_s = sent_s
        batch.note_committed(result.revision)
        await self._bring_mirror_to(result.revision, operations)
        self._deliver(batch)
        return fence

    def _build_batch(self) -> Batch:
        batch = Batch(self._head, self._codec)
        started_s = self._clock.monotonic_s()
        while self._queue and len(batch.updates) < MAX_BATCH_UPDATES:
            if self._queue[0].future.done():
                self._queue.popleft()  # its caller gave up
                continue
            transaction = Transaction(self._head, self._clock.now_ns(), self._mirror.version_base)
            if not batch.run(self._queue[0], transaction):
                break
            self._queue.popleft()
            if self._clock.monotonic_s() - started_s > MAX_BATCH_RUN_S:
                break
        return batch

    async def _bring_mirror_to(self, revision: int, operations: list[Any]) -> None:
        mirror = self._mirror
        if mirror.is_loaded and mirror.revision == revision - 1:
            mirror.apply(Event(o.key, o.value if isinstance(o, Put) else None, revision) for o in operations)
        await mirror.wait_revision(revision)
        mirror.offers = {}

    async def _settle(self, batch: Batch, raft_term: int) -> HeldFence:
        """Find out whether a batch whose answer was lost was committed, under a new epoch."""
        fence = await self._fences.renew(raft_term)
        await self._mirror.wait_revision(fence.revision)
        self.confirmed_s, self._heartbeat_is_due = fence.asked_s, False
        self._head = self._mirror.tables.copy()
        if batch.was_committed(self._mirror.tables):
            self._deliver(batch)
        else:
            self._in_flight = None
            self._queue.extendleft(reversed(batch.updates))
        return fence

    def _put_back(self, batch: Batch) -> None:
        self._in_flight = None
        batch.undo()
        self._queue.extendleft(reversed(batch.updates))

    def _deliver(self, batch: Batch) -> None:
        self._in_flight = None
        for update in batch.updates:
            update.deliver()
