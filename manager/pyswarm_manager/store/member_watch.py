"""What the local member last said of itself: above all, whether there is a raft leader."""

from collections.abc import Callable

from pyswarm_common.clock import Clock
from pyswarm_common.waiting import wait_first
from pyswarm_manager.store.backend import Backend, MemberStatus
from pyswarm_manager.store.waiting import Waiters


class MemberWatch:
    """Follows the local member's status."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.status: MemberStatus | None = None
        """None: the member does not answer."""
        self.leader_since_s = clock.monotonic_s()
        """When, on this manager's clock, the present raft leader or term was first seen."""
        self._backend = backend
        self._clock = clock
        self._leaderless_since_s: float | None = clock.monotonic_s()
        self._excused_until_s = 0.0
        self._waiters = Waiters()

    @property
    def is_leader(self) -> bool:
        """Whether the local member is the raft leader."""
        return self.status is not None and self.status.is_leader

    @property
    def has_alarm(self) -> bool:
        """Whether some member's space is used up."""
        return self.status is not None and self.status.has_alarm

    @property
    def leaderless_for_s(self) -> float:
        """For how many seconds the local member has seen no raft leader; 0 while it sees one, and while that is excused."""
        if self._leaderless_since_s is None:
            return 0.0
        return max(0.0, self._clock.monotonic_s() - max(self._leaderless_since_s, self._excused_until_s))

    def excuse(self, seconds: float) -> None:
        """Do not count the next seconds: the local member is being restarted, and whoever wants something shall wait for it."""
        self._excused_until_s = self._clock.monotonic_s() + seconds

    @property
    def raft_term(self) -> int:
        """The raft term that the local member is in; 0 when unknown."""
        return self.status.raft_term if self.status is not None else 0

    async def run(self) -> None:
        """Follow the status for ever."""
        async for status in self._backend.statuses():
            if _reign(status) != _reign(self.status):
                self.leader_since_s = self._clock.monotonic_s()
            self.status = status
            if status is not None and status.leader_id:
                self._leaderless_since_s = None
            elif self._leaderless_since_s is None:
                self._leaderless_since_s = self._clock.monotonic_s()
            self._waiters.check()

    async def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Return once `predicate`, which looks at the status, holds."""
        await self._waiters.until(predicate)

    async def wait_has_leader(self) -> None:
        """Return once the local member sees a raft leader."""
        await self._waiters.until(lambda: self._leaderless_since_s is None)

    async def wait_leaderless_for(self, seconds: float) -> None:
        """Return once the local member has seen no raft leader for this time."""
        while self.leaderless_for_s < seconds:
            await self._waiters.until(lambda: self._leaderless_since_s is not None)
            await wait_first(self.wait_has_leader(), self._clock.sleep(seconds - self.leaderless_for_s))

    async def wait_alarm(self) -> None:
        """Return once some member's space is used up."""
        await self._waiters.until(lambda: self.has_alarm)


def _reign(status: MemberStatus | None) -> tuple[int, int] | None:
    return (status.leader_id, status.raft_term) if status is not None else None
