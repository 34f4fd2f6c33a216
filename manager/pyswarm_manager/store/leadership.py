"""When this manager leads: it takes the fence, writes under it, and knows when to stop.

It takes the fence when
  1. its own member becomes raft leader in a new term (or is raft leader and the fence is still ours): so leadership follows raft's
     elections, which are quicker than any lease; or
  2. the leader's heartbeat stood still for 3 s of this manager's clock, and a linearizable read confirms that: the rule for a
     leader that hangs while its member lives. While there is no raft leader nobody's heartbeat can move, so the manager that is
     elected then has 1 s to take the fence before others may.

It stops when
  * it sees the fence in other hands, or a write's comparison fails;
  * its last acknowledged heartbeat was sent 3 s ago: by then others may have taken over, though no word of it came through;
  * its member has seen no raft leader for 1 s: writes fail at once then, instead of waiting.
Stopping late harms nothing, because the fence guards every write; these rules only keep callers from waiting.
"""

import asyncio
from collections.abc import Callable

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import Unavailable
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
ELECTED_PRIORITY_S = 1.0
NO_LEADER_MESSAGE = (
    "The swarm does not have a leader. It's possible that too few managers are online. "
    "Make sure more than half of the managers are online."
)


def no_leader() -> Unavailable:
    """Return Docker's error for a swarm that cannot be changed now."""
    return Unavailable(NO_LEADER_MESSAGE, grpc_code="Unknown")


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
        self._term_led = 0
        self._silent: tuple[Fence | None, int] = (None, 0)
        """The fence and the heartbeat's revision when the leader was found silent."""
        self._waiters = Waiters()

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

    async def _take_and_lead(self) -> None:
        await wait_first(self._wait_elected(), self._wait_leader_silent())
        asked_s = self._clock.monotonic_s()
        term = self._member.raft_term
        fence = await self._fences.take(term, self._elected_rule() if self._is_elected() else self._silence_rule())
        if fence is None:
            return
        _log.info("store.leading", epoch=fence.epoch, raft_term=term)
        try:
            await wait_first(
                self._writer.run(fence, term, asked_s, lambda: self._begin(fence)),
                self._until_fence_taken(),
                self._until_silent(),
                self._until_leaderless(),
            )
        except FenceLost as lost:
            _log.warning("store.leadership_lost", epoch=fence.epoch, reason=str(lost))
        finally:
            self._end()

    def _is_elected(self) -> bool:
        fence_is_ours = self._mirror.fence is not None and self._mirror.fence.node == self._node_id
        return self._member.is_leader and (fence_is_ours or self._member.raft_term != self._term_led)

    def _elected_rule(self) -> Callable[[Fence | None], bool]:
        self._term_led = term = self._member.raft_term
        return lambda _: self._member.is_leader and self._member.raft_term == term

    def _silence_rule(self) -> Callable[[Fence | None], bool]:
        silent, heartbeat_revision = self._silent

        def may_take(found: Fence | None) -> bool:
            if found is not None and found.node == self._node_id:
                return True  # an earlier attempt of ours worked, but its answer was lost
            return found == silent and self._mirror.heartbeat_revision == heartbeat_revision

        return may_take

    async def _wait_elected(self) -> None:
        await self._member.wait_until(self._is_elected)

    async def _wait_leader_silent(self) -> None:
        while True:
            await self._member.wait_has_leader()
            until_s = max(self._mirror.leader_seen_s + LEADER_SILENCE_S, self._member.leader_since_s + ELECTED_PRIORITY_S)
            remaining_s = until_s - self._clock.monotonic_s()
            if remaining_s > 0:
                await self._clock.sleep(remaining_s)
                continue
            self._silent = (self._mirror.fence, self._mirror.heartbeat_revision)
            if await self._is_confirmed_silent():
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

    async def _until_fence_taken(self) -> None:
        await self._mirror.wait_fence_of_other(self._node_id)
        raise FenceLost("another manager took the fence")

    async def _until_silent(self) -> None:
        while (remaining_s := self._writer.confirmed_s + LEADER_SILENCE_S - self._clock.monotonic_s()) > 0:
            await self._clock.sleep(remaining_s)
        raise FenceLost(f"no heartbeat was acknowledged for {LEADER_SILENCE_S:g} s")

    async def _until_leaderless(self) -> None:
        await self._member.wait_leaderless_for(LEADERLESS_S)
        raise FenceLost(f"there has been no raft leader for {LEADERLESS_S:g} s")

    def _begin(self, fence: HeldFence) -> None:
        self.current = Leadership(fence.epoch)
        self._waiters.check()

    def _end(self) -> None:
        leadership, self.current = self.current, None
        if leadership is not None:
            leadership.end()
        self._writer.fail_all(no_leader())
