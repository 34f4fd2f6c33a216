"""When a member is defragmented, and whose turn it is."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pyswarm_common.clock import ManualClock
from pyswarm_manager.store.backend import MemberStatus
from pyswarm_manager.store.care import DEFRAGMENT_FILE_BYTES, should_defragment
from pyswarm_manager.store.defragment_turn import FORGOTTEN_S, DefragmentTurn
from pyswarm_manager.store.memory import MemoryBackend, MemoryCluster
from pyswarm_manager.store.store import Store


@pytest.mark.parametrize(
    ("file_bytes", "in_use_bytes", "expected"),
    [
        (DEFRAGMENT_FILE_BYTES, 0, False),
        (DEFRAGMENT_FILE_BYTES + 1, 0, True),
        (10 * DEFRAGMENT_FILE_BYTES, 5 * DEFRAGMENT_FILE_BYTES, False),
        (10 * DEFRAGMENT_FILE_BYTES, 5 * DEFRAGMENT_FILE_BYTES - 1, True),
    ],
)
def test_large_and_mostly_unused_files_are_defragmented(file_bytes: int, in_use_bytes: int, expected: bool) -> None:
    status = MemberStatus(member_id=1, leader_id=1, raft_term=1, file_bytes=file_bytes, in_use_bytes=in_use_bytes)
    assert should_defragment(status) is expected


async def test_one_member_at_a_time_whatever_the_clocks_say() -> None:
    cluster, clock = MemoryCluster([1, 2, 3]), ManualClock()
    turns = [DefragmentTurn(MemoryBackend(cluster, member), clock) for member in (1, 2, 3)]
    taken = await asyncio.gather(*(turn.take(member) for member, turn in enumerate(turns, 1)))
    (revision,) = (revision for revision in taken if revision is not None)
    holder = taken.index(revision)
    other = (holder + 1) % 3
    clock.jump(86_400)
    assert await turns[other].take(other + 1) is None
    await turns[holder].give_back(revision)
    again = await turns[other].take(other + 1)
    assert again is not None
    await turns[holder].give_back(revision)
    assert await turns[holder].take(holder + 1) is None, "a turn that is over gives back nothing"


async def test_the_turn_of_a_member_that_died_passes_on_in_time() -> None:
    cluster, clock = MemoryCluster([1, 2]), ManualClock()
    dead, other = (DefragmentTurn(MemoryBackend(cluster, member), clock) for member in (1, 2))
    assert await dead.take(1) is not None
    assert await other.take(2) is None
    await clock.advance(FORGOTTEN_S - 1)
    assert await other.take(2) is None
    assert await DefragmentTurn(MemoryBackend(cluster, 1), clock).take(1) is not None, "started again, it has its turn still"
    await clock.advance(FORGOTTEN_S)
    assert await other.take(2) is None, "it was taken anew since"
    await clock.advance(FORGOTTEN_S)
    assert await other.take(2) is not None


async def test_members_with_large_files_are_defragmented_one_after_the_other() -> None:
    cluster, clock = MemoryCluster([1, 2, 3]), ManualClock()
    away: list[int] = []
    done: list[int] = []

    class LargeBackend(MemoryBackend):
        async def statuses(self) -> AsyncIterator[MemberStatus | None]:
            async for status in super().statuses():
                assert status is not None
                yield status._replace(file_bytes=10 * DEFRAGMENT_FILE_BYTES if self.member_id not in done else 0)

        async def defragment(self) -> None:
            away.append(self.member_id)
            assert away == [self.member_id], "two members were away at once"
            await clock.sleep(90)
            away.remove(self.member_id)
            done.append(self.member_id)

    stores = [Store(LargeBackend(cluster, m), cluster.data_keys, f"node{m}", clock) for m in cluster.members]
    running = [asyncio.create_task(store.run()) for store in stores]
    for _ in range(60):
        await clock.advance(10)
        cluster.notify()
    assert {1, 2, 3} == set(done)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
