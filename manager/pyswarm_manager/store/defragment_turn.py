"""Whose turn it is to defragment: one member at a time, whatever the managers' clocks say, for a member is away meanwhile.

The turn is a key in etcd, taken and given back by compare-and-swap. A holder that died is passed over once its turn has stood
unchanged for `FORGOTTEN_S` of the asking manager's monotonic clock, which is far longer than a defragmentation may take.
"""

from pyswarm_common.clock import Clock
from pyswarm_manager.store.backend import Backend, Compare, Delete, Put
from pyswarm_manager.store.records import DEFRAGMENT_KEY

FORGOTTEN_S = 600.0


class DefragmentTurn:
    """Takes the turn for the local member."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._seen_revision = 0
        self._seen_s = 0.0
        """When somebody else's turn of that revision was first seen."""

    async def take(self, member_id: int) -> int | None:
        """Return the turn's revision; None when it is another member's. Raises Unavailable."""
        name = f"{member_id:x}".encode()
        found = await self._backend.read(DEFRAGMENT_KEY)
        if found.entry is not None and found.entry.value != name and not self._is_forgotten(found.mod_revision):
            return None
        result = await self._backend.commit([Compare(DEFRAGMENT_KEY, found.mod_revision)], [Put(DEFRAGMENT_KEY, name)])
        return result.revision if result.succeeded else None

    async def give_back(self, revision: int) -> None:
        """Let the others have it. Raises Unavailable."""
        await self._backend.commit([Compare(DEFRAGMENT_KEY, revision)], [Delete(DEFRAGMENT_KEY)])

    def _is_forgotten(self, revision: int) -> bool:
        now_s = self._clock.monotonic_s()
        if revision != self._seen_revision:
            self._seen_revision, self._seen_s = revision, now_s
        return now_s - self._seen_s >= FORGOTTEN_S
