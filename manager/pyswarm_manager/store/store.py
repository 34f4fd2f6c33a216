"""The store as the manager's parts see it: a view to read, functions to write, subscriptions to follow, and who leads.

    store = Store(backend, data_keys, node_id, clock)
    group.create_task(store.run())              # in the manager's TaskGroup
    await store.wait_loaded()
    group.create_task(store.run_while_leading(loops))

    store.view.services.named("web")            # committed state, on every manager
    await store.update(lambda tx: tx.create(service))   # on the leader only
    with store.watch(Task) as subscription: ...

The parts: mirror.py (reading), writer.py with batch.py and transaction.py (writing), fence.py and leadership.py (who writes),
care.py (housekeeping), handover.py (a leader that goes), watchdog.py (one that hangs), backend.py (what lies below).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import Unavailable
from pyswarm_common.objects import AnyObject
from pyswarm_common.waiting import wait_first
from pyswarm_manager.store.backend import Backend
from pyswarm_manager.store.care import Care
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.fence import FenceTaker
from pyswarm_manager.store.handover import HandOver
from pyswarm_manager.store.leadership import LEADERLESS_S, Leadership, LeadershipKeeper, no_leader
from pyswarm_manager.store.member_watch import MemberWatch
from pyswarm_manager.store.mirror import Mirror
from pyswarm_manager.store.records import FENCE_KEY, Codec
from pyswarm_manager.store.subscription import Subscription
from pyswarm_manager.store.tables import Tables, View
from pyswarm_manager.store.transaction import Transaction
from pyswarm_manager.store.watchdog import LoopWatchdog
from pyswarm_manager.store.write_count import note_write
from pyswarm_manager.store.writer import Writer

_log = structlog.get_logger(__name__)
ResultT = TypeVar("ResultT")
READ_INDEX_TIMEOUT_S = 5.0
RETRY_PAUSE_S = 0.1


class Store:
    """The replicated store, on one manager.

    `node_id` is who takes the fence. `on_leader_hang` is called from another thread when the event loop hangs while this manager
    leads: give `EtcdMember.kill`.
    """

    def __init__(
        self,
        backend: Backend,
        data_keys: DataKeys,
        node_id: str,
        clock: Clock,
        on_leader_hang: Callable[[], None] | None = None,
    ) -> None:
        codec = Codec(data_keys)
        self.node_id = node_id
        self._backend = backend
        self._clock = clock
        self._mirror = Mirror(backend, codec, clock)
        self._member = MemberWatch(backend, clock)
        fences = FenceTaker(backend, codec, node_id, clock)
        self._writer = Writer(backend, self._mirror, codec, fences, clock)
        self._keeper = LeadershipKeeper(backend, self._mirror, self._member, fences, self._writer, node_id, clock)
        self._hand_over = HandOver(backend, self._mirror, self._member, fences, self._keeper, node_id, clock)
        self._care = Care(backend, self._mirror, self._member, clock)
        self._watchdog = LoopWatchdog(on_leader_hang, lambda: self.is_leader) if on_leader_hang is not None else None

        self.trouble: Callable[[], str] = lambda: ""
        """Says what is wrong with this manager, if it is known; told to those whose updates are refused."""

    async def run(self) -> None:
        """Run the store's parts until cancelled. Raises (in a group) what none of them can go on after, such as EnvelopeError."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._member.run())
            group.create_task(self._mirror.run())
            group.create_task(self._keeper.run())
            group.create_task(self._care.run())
            if self._watchdog is not None:
                group.create_task(self._watchdog.run())

    @property
    def view(self) -> View:
        """The committed state, as far as this manager has it. It changes only while the reader awaits."""
        return self._tables

    @property
    def _tables(self) -> Tables:
        return self._mirror.tables

    @property
    def revision(self) -> int:
        """The revision that the view is at."""
        return self._mirror.revision

    @property
    def version_base(self) -> int:
        """What is added to revisions to give version indexes. It rises when history is set back: by a restore, for one."""
        return self._mirror.version_base

    async def wait_loaded(self) -> None:
        """Return once the view holds what the cluster holds."""
        await self._mirror.wait_loaded()

    def watch(self, *types: type[AnyObject]) -> Subscription:
        """Return a subscription to all changes of these types (none given: of all) from now on; close it with `with`."""
        return self._mirror.subscribe(types)

    async def update(self, function: Callable[[Transaction], ResultT]) -> ResultT:
        """Run `function` on the head, in its turn; return its result once its changes are committed and in the view.

        The function must not await, and may run several times: it should change nothing but the transaction, and choose ids
        beforehand. What it raises is raised here, and its changes are undone. Raises NotDone when this manager does not lead or
        stops leading, OutcomeUnknown when it stops while the commit is under way, TransactionTooLarge beyond 500 objects or 1 MiB.
        """
        if self._keeper.current is None or self.is_leaderless:
            raise no_leader(self.trouble())
        result: ResultT = await self._writer.submit(function)
        note_write()
        return result

    def version_index(self, item: AnyObject) -> int:
        """Return the API's `Version.Index` of a stored object: pass it back as `expected_index`. 0 when it is not in the view."""
        version = self._tables.table(type(item)).version_of(item.id)  # type: ignore[type-var]
        return self._mirror.version_base + version if version else 0

    async def read_index(self) -> None:
        """Return once the view includes every write that was acknowledged before the call, on whichever manager.

        When there has been no raft leader for 1 s, as far as this manager's member knows, it returns at once, or as soon as that is
        so: reads then show what this manager last knew. That is so, too, when the member is down, frozen or cut off from the
        others; who wants to know what those have reads at their leader (`forwarding.leader_requests`). Raises Unavailable when the
        cluster has a leader but does not answer for 5 s.
        """
        deadline_s = self._clock.monotonic_s() + READ_INDEX_TIMEOUT_S
        while not self.is_leaderless:
            try:
                await wait_first(self._reach_read_index(), self._member.wait_leaderless_for(LEADERLESS_S))
            except Unavailable:
                if self._clock.monotonic_s() > deadline_s:
                    raise
                await self._clock.sleep(RETRY_PAUSE_S)
            else:
                return

    async def _reach_read_index(self) -> None:
        reading = await self._backend.read(FENCE_KEY)
        await self._mirror.wait_revision(reading.revision)

    @property
    def is_leader(self) -> bool:
        """Whether this manager leads: updates can be made."""
        return self._keeper.current is not None

    @property
    def leader_node_id(self) -> str | None:
        """The node that leads, as far as this manager knows; None when there has been no raft leader for 1 s."""
        if self._mirror.fence is None or self.is_leaderless:
            return None
        return self._mirror.fence.node or None

    @property
    def leader_address(self) -> str:
        """The node port (host:port) of the manager that leads; "" when that is this one, or unknown."""
        node = self._tables.nodes.get(self.leader_node_id or "")
        return node.manager.address if node is not None and node.manager is not None and node.id != self.node_id else ""

    @property
    def is_leaderless(self) -> bool:
        """Whether there has been no raft leader for 1 s, as far as this manager's member knows."""
        return self._member.leaderless_for_s >= LEADERLESS_S

    async def wait_leader_other_than(self, node_id: str | None) -> None:
        """Return when another manager than this one leads, or none has for 1 s."""
        await wait_first(
            self._mirror.wait_until(lambda: self.leader_node_id != node_id), self._member.wait_leaderless_for(LEADERLESS_S)
        )

    async def hand_over(self) -> bool:
        """Stop leading, until `resume_leading`, and let another manager lead; whether one does. Takes 5 s at most.

        The update under way is finished, those that wait raise NotDone, and this manager goes on reading.
        """
        return await self._hand_over.run()

    def excuse_member(self, seconds: float) -> None:
        """Let requests wait, instead of failing, while the local member is restarted on purpose; for this time at most."""
        self._member.excuse(seconds)

    def resume_leading(self) -> None:
        """After `hand_over`: lead again when it is this manager's turn."""
        self._keeper.resume()

    @property
    def is_serving(self) -> bool:
        """Whether this manager's etcd member answers."""
        return self._member.status is not None

    @property
    def has_alarm(self) -> bool:
        """Whether etcd refuses writes because a member's space is used up."""
        return self._member.has_alarm

    async def wait_leader(self) -> Leadership:
        """Return this manager's leadership once it leads; `await leadership.wait_lost()` returns when it does no more."""
        return await self._keeper.wait_current()

    async def run_while_leading(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work()` each time this manager leads, cancelled when it does no more; for ever.

        When `work` raises Unavailable (as updates do when the leadership ends) it is run again, if this manager still leads; what
        else it raises is raised here.
        """
        while True:
            leadership = await self.wait_leader()
            try:
                await wait_first(work(), leadership.wait_lost())
                await leadership.wait_lost()
            except* Unavailable as errors:  # an update that failed with the leadership, or just before it
                _log.info("store.leading_interrupted", reason=str(errors.exceptions[0]))
                await self._clock.sleep(RETRY_PAUSE_S)
