"""When this manager leads: it takes the fence, writes under it, and knows when to stop.

It takes the fence when
  1. its own member is raft leader and the fence is ours or of an earlier term: so leadership follows raft's elections, which are
     quicker than any lease. A fence that another took in this very term was taken by rule 2, and its holder keeps it; or
  2. the leader's heartbeat stood still for 3 s of this manager's clock: the rule for a leader that hangs while its member lives.
     The fence is taken only if no later heartbeat was committed, so however late this manager hears of them, none that lives
     loses it. While there is no raft leader nobody's heartbeat can move, so the manager that is elected then has 3 s as well.

It stops when
  * it sees the fence in other hands, or a write's comparison fails;
  * its last acknowledged heartbeat was sent 3 s ago: by then others may have taken over, though no word of it came through;
  * its member has seen no raft leader for 1 s: writes fail at once then, instead of waiting.
Stopping late harms nothing, because the fence guards every write; these rules only keep callers from waiting.

A manager that retires (handover.py) stops by itself and takes nothing until it resumes. A fence without a node belongs to whichever
manager's member is raft leader.
"""

import asyncio
from collections.abc import Callable

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import NotDone, OutcomeUnknown, Unavailable
from pyswarm_common.waiting import wait_first
from pyswarm_manager.store.backend import Backend
from pyswarm_manager.store.fence import FenceLost, FenceTaker, HeldFence
from pyswarm_manager.store.member_watch import MemberWatch
from pyswarm_manager.store.mirror import Mirror
from pyswarm_manager.store.records import LEADER_KEY, Fence
from pyswarm_manager.store.waiting import Waiters
from pyswarm_manager.store.writer import Writer

_log = structlog.get_logger(__name__)
LEADER_SILENCE_S = 3.0
LEADERLESS_S = 1.0
RETRY_PAUSE_S = 0.1
NO_LEADER_MESSAGE = (
    "The swarm does not have a leader. It's possible that too few managers are online. "
    "Make sure more than half of the managers are online."
)
WHAT_TO_DO = (
    " Containers go on meanwhile, and nothing was changed. Start the managers that are down and try again; if they are lost for "
    "good, run `pyswarm swarm init --force-new-cluster` on one that is left."
)


ANSWER_LOST = "The answer was lost: the change may or may not have happened; look before you repeat it."


def no_leader(trouble: str = "") -> NotDone:
    """Return Docker's error for a swarm that cannot be changed now; `trouble`: what this manager knows to be wrong with itself."""
    what_to_do = f" Containers go on meanwhile, and nothing was changed. On this manager: {trouble}." if trouble else WHAT_TO_DO
    return NotDone(NO_LEADER_MESSAGE + what_to_do, grpc_code="Unknown")


def answer_lost() -> OutcomeUnknown:
    """Return the error for a change that was under way when the swarm lost its leader."""
    return OutcomeUnknown(f"{NO_LEADER_MESSAGE} {ANSWER_LOST}", grpc_code="Unknown")


class Leadership:
    """One time of leading, from the moment updates can be made until it is lost."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        """The fence's epoch when it began."""
        self._lost = asyncio.Event()

    @property
    def is_lost(self) -> bool:
        """Whether it has ended."""
        return self._lost.is_set()

    async def wait_lost(self) -> None:
        """Return when it has ended."""
        await self._lost.wait()

    def end(self) -> None:
        """Mark it as lost. For LeadershipKeeper only."""
        self._lost.set()


class LeadershipKeeper:
    """Takes the fence when it should, and leads while it is held."""

    def __init__(
        self,
        backend: Backend,
        mirror: Mirror,
        member: MemberWatch,
        fences: FenceTaker,
        writer: Writer,
        node_id: str,
        clock: Clock,
    ) -> None:
        self.current: Leadership | None = None
        self._backend = backend
        self._mirror = mirror
        self._member = member
        self._fences = fences
        self._writer = writer
        self._node_id = node_id
        self._clock = clock
        self._silent: tuple[Fence | None, int] = (None, 0)
        """The fence and the heartbeat's revision when the leader was found silent."""
        self._waiters = Waiters()
        self._is_retired = False
        self._is_writing = False

    async def run(self) -> None:
        """Lead whenever it is this manager's turn, for ever."""
        await self._mirror.wait_loaded()
        try:
            while True:
                await self._take_and_lead()
        finally:
            self._end()

    async def wait_current(self) -> Leadership:
        """Return the leadership, once there is one."""
        await self._waiters.until(lambda: self.current is not None)
        assert self.current is not None
        return self.current

    async def retire(self) -> None:
        """Lead no more until `resume`: updates are refused at once; returns when the batch under way is settled."""
        self._is_retired = self._writer.is_stopping = True
        self._end_leadership()
        self._writer.wake()
        await self._waiters.until(lambda: not self._is_writing)

    def resume(self) -> None:
        """Lead again when it is this manager's turn."""
        self._is_retired = self._writer.is_stopping = False
        self._waiters.check()

    async def _take_and_lead(self) -> None:
        await self._waiters.until(lambda: not self._is_retired)
        await wait_first(self._wait_elected(), self._wait_leader_silent())
        term = self._member.raft_term
        if self._is_elected():
            fence = await self._fences.take(term, self._elected_rule(term))
        else:
            fence = await self._fences.take(term, self._silence_rule(), silent_since=self._silent[1])
        if fence is None:
            await self._clock.sleep(RETRY_PAUSE_S)  # until the mirror shows what was found
            return
        if self._is_retired:
            return
        _log.info("store.leading", epoch=fence.epoch, raft_term=term)
        self._is_writing = True
        try:
            await wait_first(
                self._writer.run(fence, term, lambda: self._begin(fence)),
                self._until_fence_taken(fence.revision),
                self._until_silent(),
                self._until_leaderless(),
            )
        except FenceLost as lost:
            _log.warning("store.leadership_lost", epoch=fence.epoch, reason=str(lost))
        finally:
            self._is_writing = False
            self._end()

    def _is_elected(self) -> bool:
        return self._member.is_leader and not self._is_retired and self._is_for_elected(self._mirror.fence, self._member.raft_term)

    def _is_for_elected(self, fence: Fence | None, term: int) -> bool:
        return fence is None or fence.node in (self._node_id, "") or fence.raft_term < term

    def _elected_rule(self, term: int) -> Callable[[Fence | None], bool]:
        def may_take(found: Fence | None) -> bool:
            return self._is_for_elected(found, term) and self._member.is_leader and self._member.raft_term == term

        return may_take

    def _silence_rule(self) -> Callable[[Fence | None], bool]:
        silent, heartbeat_revision = self._silent

        def may_take(found: Fence | None) -> bool:
            if found is not None and found.node == self._node_id:
                return True  # an earlier attempt of ours worked, but its answer was lost
            return found == silent and self._mirror.heartbeat_revision == heartbeat_revision and not self._is_retired

        return may_take

    async def _wait_elected(self) -> None:
        await wait_first(self._member.wait_until(self._is_elected), self._mirror.wait_until(self._is_elected))

    async def _wait_leader_silent(self) -> None:
        while True:
            await self._member.wait_has_leader()
            seen_s = max(self._mirror.leader_seen_s, self._member.leader_since_s)
            remaining_s = seen_s + LEADER_SILENCE_S - self._clock.monotonic_s()
            if remaining_s > 0:
                await self._clock.sleep(remaining_s)
                continue
            self._silent = (self._mirror.fence, self._mirror.heartbeat_revision)
            if await self._is_confirmed_silent() and not self._is_retired:
                return
            await self._clock.sleep(LEADERLESS_S)

    async def _is_confirmed_silent(self) -> bool:
        """Ask the cluster whether the heartbeat is really the one that the mirror has: its watch may be what stands still."""
        status = self._member.status
        if status is None or status.is_learner:
            return False
        try:
            reading = await self._backend.read(LEADER_KEY)
        except Unavailable:
            return False
        return reading.mod_revision == self._silent[1]

    async def _until_fence_taken(self, revision: int) -> None:
        await self._mirror.wait_fence_of_other(self._node_id, revision)
        raise FenceLost("another manager took the fence")

    async def _until_silent(self) -> None:
        while (remaining_s := self._writer.confirmed_s + LEADER_SILENCE_S - self._clock.monotonic_s()) > 0:
            await self._clock.sleep(remaining_s)
        raise FenceLost(f"no heartbeat was acknowledged for {LEADER_SILENCE_S:g} s")

    async def _until_leaderless(self) -> None:
        await self._member.wait_leaderless_for(LEADERLESS_S)
        raise FenceLost(f"there has been no raft leader for {LEADERLESS_S:g} s")

    def _begin(self, fence: HeldFence) -> None:
        if not self._is_retired:
            self.current = Leadership(fence.epoch)
            self._waiters.check()

    def _end(self) -> None:
        self._end_leadership()
        self._writer.fail_all(no_leader(), answer_lost())
        self._waiters.check()

    def _end_leadership(self) -> None:
        leadership, self.current = self.current, None
        if leadership is not None:
            leadership.end()
