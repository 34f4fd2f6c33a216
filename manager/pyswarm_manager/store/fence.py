"""The fence: one key {epoch, node} that every write compares, so that only its holder's writes can be committed.

Taking it is a compare-and-swap that raises the epoch. Attempts whose answer is lost are simply made again: should the earlier one
have worked, the next takes a further epoch from ourselves, and should it still be under way, its comparison fails from then on. The
same holds for every other write of an earlier epoch: once a new epoch is committed, what was not committed before never will be.
That is what lets the writer tell the fate of a transaction whose answer was lost (writer.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import Unavailable
from pyswarm_manager.store.backend import Backend, Compare, Put, Reading
from pyswarm_manager.store.records import FENCE_KEY, LEADER_KEY, Codec, Fence, Heartbeat

_log = structlog.get_logger(__name__)
RETRY_PAUSE_S = 0.1


class FenceLost(Exception):
    """Another manager holds the fence, or this one cannot know that it still does."""


class HeldFence(NamedTuple):
    """The fence in our hands: what writes compare. `asked_s`: when it was asked for, on this manager's clock."""

    epoch: int
    revision: int
    asked_s: float

    @property
    def compare(self) -> Compare:
        """The comparison that guards a write."""
        return Compare(FENCE_KEY, self.revision)


class FenceTaker:
    """Takes the fence for one manager."""

    def __init__(self, backend: Backend, codec: Codec, node_id: str, clock: Clock) -> None:
        self._backend = backend
        self._codec = codec
        self._node_id = node_id
        self._clock = clock

    async def take(
        self, raft_term: int, may_take: Callable[[Fence | None], bool], silent_since: int | None = None
    ) -> HeldFence | None:
        """Take the next epoch; None when `may_take` refuses to take it from the holder that is found.

        `silent_since`: None also when there is a heartbeat of a later revision than this one.
        """
        while True:
            try:
                found = await self._backend.read(FENCE_KEY)
                fence = self._codec.open_fence(found.entry.value) if found.entry is not None else None
                if not may_take(fence):
                    return None
                is_ours = fence is not None and fence.node == self._node_id
                silence = [Compare(LEADER_KEY, silent_since)] if silent_since is not None and not is_ours else []
                held = await self._swap(found, fence.epoch + 1 if fence is not None else 1, raft_term, silence)
                if held is not None:
                    _log.info("store.fence_taken", epoch=held.epoch, raft_term=raft_term)
                if held is not None or silence:
                    return held
            except Unavailable as error:
                _log.info("store.fence_not_taken", error=error.message)
                await self._clock.sleep(RETRY_PAUSE_S)

    async def renew(self, raft_term: int) -> HeldFence:
        """Take the next epoch from ourselves. Raises FenceLost when another manager holds it."""
        held = await self.take(raft_term, lambda fence: fence is not None and fence.node == self._node_id)
        if held is None:
            raise FenceLost("another manager took the fence")
        return held

    async def vacate(self) -> None:
        """Leave the fence, if it is ours, to the raft leader's manager. Raises Unavailable."""
        found = await self._backend.read(FENCE_KEY)
        fence = self._codec.open_fence(found.entry.value) if found.entry is not None else None
        if fence is None or fence.node != self._node_id:
            return
        vacant = Fence(epoch=fence.epoch + 1, node="", raft_term=fence.raft_term)
        await self._backend.commit(
            [Compare(FENCE_KEY, found.mod_revision)], [Put(FENCE_KEY, self._codec.seal_record(FENCE_KEY, vacant))]
        )

    def heartbeat(self) -> Put:
        """Return the write that shows that the leader lives."""
        heartbeat = Heartbeat(node=self._node_id, at_ns=self._clock.now_ns())
        return Put(LEADER_KEY, self._codec.seal_record(LEADER_KEY, heartbeat))

    async def _swap(self, found: Reading, epoch: int, raft_term: int, silence: list[Compare]) -> HeldFence | None:
        fence = Fence(epoch=epoch, node=self._node_id, raft_term=raft_term)
        asked_s = self._clock.monotonic_s()
        result = await self._backend.commit(
            [Compare(FENCE_KEY, found.mod_revision), *silence],
            [Put(FENCE_KEY, self._codec.seal_record(FENCE_KEY, fence)), self.heartbeat()],
        )
        return HeldFence(epoch, result.revision, asked_s) if result.succeeded else None
