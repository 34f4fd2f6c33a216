"""The store's `Backend` on an etcd member: the client, and its status ten times a second."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from pyswarm_common.errors import Unavailable
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.store.backend import CommitResult, Compare, Event, MemberStatus, Operation, Page, Reading

STATUS_PERIOD_S = 0.1


class EtcdBackend:
    """A `Backend` over a client, which stays its owner's to close."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def read_page(self, start_key: str, revision: int = 0) -> Page:
        """Return entries from `start_key` on, from the local member. Raises Compacted, Unavailable."""
        return await self._client.read_page(start_key, revision)

    async def read(self, key: str) -> Reading:
        """Return a key's entry, linearizable. Raises Unavailable."""
        return await self._client.read(key)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> CommitResult:
        """Carry out all operations in one revision if all comparisons hold. Raises Unavailable, OutcomeUnknown."""
        return await self._client.commit(compares, operations)

    def watch(self, start_revision: int) -> AsyncGenerator[Sequence[Event], None]:
        """Report all changes from `start_revision` on. Raises Compacted, Unavailable."""
        return self._client.watch(start_revision)

    async def statuses(self) -> AsyncIterator[MemberStatus | None]:
        """Report the local member's status every 0.1 s; None when it does not answer."""
        while True:
            try:
                status = await self._client.status()
            except Unavailable:
                status = None
            yield status
            await asyncio.sleep(STATUS_PERIOD_S)

    async def member_ids(self) -> Sequence[int]:
        """Return the ids of all members. Raises Unavailable."""
        return [int(member.ID) for member in await self._client.members()]

    async def voter_ids(self) -> Sequence[int]:
        """Return the ids of the members that vote. Raises Unavailable."""
        return [int(member.ID) for member in await self._client.members() if not member.isLearner]

    async def move_leader(self, member_id: int) -> None:
        """Let another member become raft leader. Raises Unavailable."""
        await self._client.move_leader(member_id)

    async def compact(self, revision: int) -> None:
        """Forget the history before `revision`. Raises Unavailable."""
        await self._client.compact(revision)

    async def defragment(self) -> None:
        """Give the local member's unused file space back. Raises Unavailable."""
        await self._client.defragment()

    async def alarmed_member_ids(self) -> Sequence[int]:
        """Return the members whose space is used up. Raises Unavailable."""
        return await self._client.alarmed_member_ids()

    async def disarm_alarm(self, member_id: int) -> None:
        """Allow writes again. Raises Unavailable."""
        await self._client.disarm_alarm(member_id)
