"""A graceful end of leading: the batch under way is finished, another member becomes raft leader, and its manager takes the fence.

Who waits for an update is told for certain that it did not happen, and makes it again where the leader is then. Should the raft
leader be another manager's member already, the fence is left without a holder, so that this manager takes it at once.
"""

from collections.abc import Sequence

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import Unavailable
from pyswarm_common.waiting import wait_first
from pyswarm_manager.store.backend import Backend
from pyswarm_manager.store.fence import FenceTaker
from pyswarm_manager.store.leadership import LeadershipKeeper
from pyswarm_manager.store.member_watch import MemberWatch
from pyswarm_manager.store.mirror import Mirror

_log = structlog.get_logger(__name__)
FINISH_TIMEOUT_S = 2.0
MOVE_TIMEOUT_S = 1.0
TAKEN_TIMEOUT_S = 1.5
LINGER_S = 0.1
"""How long the former leader still answers, so that the others see the new fence before its connections end."""
_CANDIDATES = 3


class HandOver:
    """Moves the leadership from this manager to another."""

    def __init__(
        self,
        backend: Backend,
        mirror: Mirror,
        member: MemberWatch,
        fences: FenceTaker,
        keeper: LeadershipKeeper,
        node_id: str,
        clock: Clock,
    ) -> None:
        self._backend = backend
        self._mirror = mirror
        self._member = member
        self._fences = fences
        self._keeper = keeper
        self._node_id = node_id
        self._clock = clock

    async def run(self) -> bool:
        """Retire; return whether another manager leads now. It takes 5 s at most, some 0.2 s when all is well."""
        was_leading, was_raft_leader = self._keeper.current is not None, self._member.is_leader
        await wait_first(self._keeper.retire(), self._clock.sleep(FINISH_TIMEOUT_S))
        if was_raft_leader:
            await self._move_raft_leader()
        if self._is_led_by_another():
            return True
        if not was_leading:
            return False
        if not was_raft_leader:
            await wait_first(self._vacate(), self._clock.sleep(MOVE_TIMEOUT_S))
        if await self._candidates():
            await wait_first(self._mirror.wait_until(self._is_led_by_another), self._clock.sleep(TAKEN_TIMEOUT_S))
            await self._clock.sleep(LINGER_S)
        _log.info("store.handed_over", leader=self._mirror.fence.node if self._mirror.fence is not None else "")
        return self._is_led_by_another()

    def _is_led_by_another(self) -> bool:
        return self._mirror.fence is not None and self._mirror.fence.node not in (self._node_id, "")

    async def _move_raft_leader(self) -> None:
        for member_id in (await self._candidates())[:_CANDIDATES]:
            await wait_first(self._move_to(member_id), self._clock.sleep(MOVE_TIMEOUT_S))
            await wait_first(self._member.wait_until(lambda: not self._member.is_leader), self._clock.sleep(LINGER_S * 2))
            if not self._member.is_leader:
                return

    async def _move_to(self, member_id: int) -> None:
        try:
            await self._backend.move_leader(member_id)
        except Unavailable as error:
            _log.info("store.leader_not_moved", member=f"{member_id:x}", error=error.message)

    async def _vacate(self) -> None:
        try:
            await self._fences.vacate()
        except Unavailable as error:
            _log.info("store.fence_not_vacated", error=error.message)

    async def _candidates(self) -> Sequence[int]:
        """Return the other voters, those first whose nodes are ready."""
        try:
            voters = await self._backend.voter_ids()
        except Unavailable:
            return ()
        own = self._member.status.member_id if self._member.status is not None else 0
        states = {n.manager.etcd_member_id: n.status.state for n in self._mirror.tables.nodes if n.manager is not None}
        return sorted((v for v in voters if v != own), key=lambda v: (states.get(v, "unknown") == "down", v not in states, v))
