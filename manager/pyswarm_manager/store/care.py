"""Housekeeping of etcd: old revisions are forgotten, unused file space is given back, and a full member is brought back to work.

* Each minute the manager whose member is raft leader compacts to where the mirror was a minute before, so that watches that
  break have a minute of history to resume from.
* Each manager defragments its own member (only the member itself can) when its file is more than twice its use, and never
  two at once (defragment_turn.py).
* When a member's space is used up, etcd refuses all writes, so nobody can hold the fence; therefore nothing here depends
  on it. The raft leader's manager compacts to the present, the full member's manager defragments it and disarms its alarm.
"""

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError
from pyswarm_common.waiting import wait_first
from pyswarm_manager.store.backend import Backend, MemberStatus
from pyswarm_manager.store.defragment_turn import DefragmentTurn
from pyswarm_manager.store.member_watch import MemberWatch
from pyswarm_manager.store.mirror import Mirror

_log = structlog.get_logger(__name__)
PERIOD_S = 60.0
ALARM_PERIOD_S = 5.0
DEFRAGMENT_FILE_BYTES = 64 << 20
"""Smaller files are left alone: there is nothing to gain."""


def should_defragment(status: MemberStatus) -> bool:
    """Tell whether a member's file is large and mostly unused."""
    return status.file_bytes > DEFRAGMENT_FILE_BYTES and status.file_bytes > 2 * status.in_use_bytes


class Care:
    """Keeps the local member, and when it is raft leader the whole history, in good shape."""

    def __init__(self, backend: Backend, mirror: Mirror, member: MemberWatch, clock: Clock) -> None:
        self._backend = backend
        self._mirror = mirror
        self._member = member
        self._clock = clock
        self._turn = DefragmentTurn(backend, clock)
        self._compact_to = 0

    async def run(self) -> None:
        """Do each minute's work, or at once what an alarm demands; for ever."""
        await self._mirror.wait_loaded()
        while True:
            self._compact_to = self._mirror.compactable_revision
            if self._member.has_alarm:
                await self._clock.sleep(ALARM_PERIOD_S)
            else:
                await wait_first(self._clock.sleep(PERIOD_S), self._member.wait_alarm())
            try:
                await self._care()
            except PyswarmError as error:
                _log.warning("store.care_failed", error=error.message)

    async def _care(self) -> None:
        status = self._member.status
        if status is None:
            return
        if status.has_alarm:
            await self._make_space(status)
            return
        if status.is_leader and self._compact_to:
            await self._backend.compact(self._compact_to)
        if should_defragment(status) and (turn := await self._turn.take(status.member_id)) is not None:
            await self._defragment(status)
            await self._turn.give_back(turn)

    async def _make_space(self, status: MemberStatus) -> None:
        if status.is_leader and self._mirror.compactable_revision:
            await self._backend.compact(self._mirror.compactable_revision)
        if status.member_id in await self._backend.alarmed_member_ids():
            await self._defragment(status)
            await self._backend.disarm_alarm(status.member_id)
            _log.warning("store.alarm_disarmed", member_id=status.member_id)

    async def _defragment(self, status: MemberStatus) -> None:
        _log.info("store.defragmenting", file_bytes=status.file_bytes, in_use_bytes=status.in_use_bytes)
        await self._backend.defragment()
