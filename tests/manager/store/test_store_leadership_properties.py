"""Three managers under random elections, lost answers, slow commits, frozen members and handovers: who writes, and what is kept.

A seed that fails is named by the test's id; each can be run again alone.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import NotDone, OutcomeUnknown, Unavailable
from pyswarm_common.objects import Service
from pyswarm_manager.store.backend import CommitResult, Compare, MemberStatus, Operation, Put, Reading
from pyswarm_manager.store.leadership import LEADER_SILENCE_S
from pyswarm_manager.store.memory import LostAnswer, MemoryBackend, MemoryCluster
from pyswarm_manager.store.records import FENCE_KEY, LEADER_KEY, OBJECTS_PREFIX, Codec, Fence, parse_object_key
from pyswarm_manager.store.store import Store

MEMBERS = (1, 2, 3)
STEP_S = 0.1
TROUBLE_STEPS = 200
RECOVERY_S = 8.0
CALM_S = 15.0
CALM_DELAY_S = 0.4
COMMIT_TIMEOUT_S = 2.0


class ObservedCluster(MemoryCluster):
    """A log that looks at each commit: whether its writer may make it."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(MEMBERS)
        self.delay_s = 0.0
        """The longest time that a commit takes."""
        self.frozen: set[int] = set()
        self.raft_leaders: dict[int, int] = {1: 1}
        self.takeovers: list[str] = []
        self._clock = clock
        self._codec = Codec(self.data_keys)
        self._heartbeat_s = 0.0

    def elect(self, member_id: int) -> None:
        """Note who leads in which term."""
        self.raft_leaders[self.raft_term + 1] = member_id
        super().elect(member_id)

    @property
    def fence(self) -> Fence | None:
        """The fence as it is now."""
        entry = self.entries.get(FENCE_KEY)
        return self._codec.open_fence(entry.value) if entry is not None else None

    def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> CommitResult:
        """Carry it out, and check that it was its writer's turn."""
        before = self.fence
        result = super().commit(compares, operations)
        if not result.succeeded:
            return result
        after = self.fence
        keys = [operation.key for operation in operations if isinstance(operation, Put)]
        if FENCE_KEY in keys:
            self._check_taking(before, after)
        if LEADER_KEY in keys:
            self._heartbeat_s = self._clock.monotonic_s()
        for key in keys:
            if key.startswith(OBJECTS_PREFIX):
                writer = parse_object_key(key)[1].partition("-")[0]
                assert before is not None
                assert before.node == writer, f"{key} was written while {before.node} held the fence"
        return result

    def _check_taking(self, before: Fence | None, after: Fence | None) -> None:
        assert after is not None
        assert after.epoch == (before.epoch + 1 if before is not None else 1)
        if before is None or before.node in ("", after.node) or after.node == "":
            return
        silent_s = self._clock.monotonic_s() - self._heartbeat_s
        self.takeovers.append(f"{before.node} → {after.node} in term {after.raft_term} after {silent_s:.1f} s")
        was_elected = f"node{self.raft_leaders[after.raft_term]}" == after.node and after.raft_term > before.raft_term
        assert was_elected or silent_s >= LEADER_SILENCE_S - 0.001, "the fence was taken from a leader that lives"


class TroubledBackend(MemoryBackend):
    """A member whose answers take their time; a frozen one gives none."""

    def __init__(self, cluster: ObservedCluster, member_id: int, clock: ManualClock, rng: random.Random) -> None:
        super().__init__(cluster, member_id)
        self.observed = cluster
        self._clock = clock
        self._rng = rng

    async def read(self, key: str) -> Reading:
        """Read after a delay. Raises Unavailable."""
        await self._delay("read")
        self._check_quorum()
        return await super().read(key)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> CommitResult:
        """Commit between two delays. Raises Unavailable, OutcomeUnknown."""
        await self._delay("commit")
        self._check_quorum()
        result = await super().commit(compares, operations)
        await self._delay("answer")
        return result

    async def statuses(self) -> AsyncIterator[MemberStatus | None]:
        """Report it after each change; None while frozen."""
        cluster = self.observed
        while True:
            changed = cluster.changed
            leader_id = 0 if self.member_id in cluster.blind_members else cluster.leader_id
            is_frozen = self.member_id in cluster.frozen
            yield None if is_frozen else MemberStatus(self.member_id, leader_id, cluster.raft_term)
            await changed.wait()

    def _check_quorum(self) -> None:
        if self.observed.leader_id == 0:
            raise Unavailable("no leader")

    async def _delay(self, what: str) -> None:
        if self.member_id in self.observed.frozen:
            await self._clock.sleep(COMMIT_TIMEOUT_S)
            raise OutcomeUnknown(f"no answer to the {what}") if what == "answer" else Unavailable(f"no answer to the {what}")
        if self.observed.delay_s:
            await self._clock.sleep(self._rng.random() * self.observed.delay_s / 2)


class World:
    """Three managers, each of which creates services named after it whenever it leads."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.cluster = ObservedCluster(self.clock)
        self.stores: list[Store] = []
        self.acknowledged: set[str] = set()
        self.refused: set[str] = set()
        self._tasks: list[asyncio.Task[object]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """Run the managers and their writers."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end)
            for member_id in MEMBERS:
                backend = TroubledBackend(self.cluster, member_id, self.clock, self.rng)
                store = Store(backend, self.cluster.data_keys, f"node{member_id}", self.clock)
                self.stores.append(store)
                self._tasks.append(asyncio.create_task(store.run()))
                self._tasks.append(asyncio.create_task(self._write(store)))
            await self.clock.advance(0.1)
            yield self

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _write(self, store: Store) -> None:
        number = 0
        while True:
            await store.wait_leader()
            number += 1
            name = f"{store.node_id}-{number}"
            try:
                await store.update(lambda tx, name=name: tx.create(Service(id=name)))  # type: ignore[misc]
                self.acknowledged.add(name)
            except NotDone:
                self.refused.add(name)
            except OutcomeUnknown:
                pass
            await self.clock.sleep(0.05)

    async def trouble(self) -> None:
        """Let something happen."""
        rng, cluster = self.rng, self.cluster
        match rng.randrange(12):
            case 0 | 1:
                cluster.elect(rng.choice((0, *MEMBERS)))
            case 2:
                cluster.lost_answers = [rng.choice([None, *LostAnswer]) for _ in range(rng.randrange(4))]
            case 3:
                cluster.refusals = rng.randrange(3)
            case 4:
                cluster.blind_members = set(rng.sample(MEMBERS, rng.randrange(2)))
                cluster.notify()
            case 5:
                cluster.frozen = set(rng.sample(MEMBERS, rng.randrange(2)))
                cluster.notify()
            case 6:
                cluster.delay_s = rng.choice((0.0, 0.3, 1.0, 2.5))
            case 7:
                cluster.break_watches()
            case 8:
                self._tasks.append(asyncio.create_task(self._hand_over(rng.choice(self.stores))))

    async def _hand_over(self, store: Store) -> None:
        await store.hand_over()
        await self.clock.sleep(self.rng.random())
        store.resume_leading()

    def calm_down(self) -> None:
        """End all trouble, but for commits that take a while."""
        cluster = self.cluster
        cluster.lost_answers, cluster.refusals, cluster.delay_s = [], 0, CALM_DELAY_S
        cluster.frozen, cluster.blind_members = set(), set()
        if cluster.leader_id == 0:
            cluster.elect(self.rng.choice(MEMBERS))
        cluster.notify()


@pytest.mark.parametrize("seed", range(25))
async def test_one_writes_the_leader_stays_and_nothing_acknowledged_is_lost(seed: int) -> None:
    async with World(seed).running() as world:
        for _ in range(TROUBLE_STEPS):
            if world.rng.random() < 0.3:
                await world.trouble()
            await world.clock.advance(STEP_S)
        world.calm_down()
        await world.clock.advance(RECOVERY_S)
        leaders = [store for store in world.stores if store.is_leader]
        assert len(leaders) == 1, f"{world.cluster.fence} {world.cluster.takeovers}"
        leadership, count = await leaders[0].wait_leader(), len(world.acknowledged)
        await world.clock.advance(CALM_S)
        assert not leadership.is_lost, "a healthy cluster's leader stays"
        assert {store.leader_node_id for store in world.stores} == {leaders[0].node_id}
        assert len(world.acknowledged) > count
        assert len(world.acknowledged) > 0
        stored = {parse_object_key(key)[1] for key in world.cluster.entries if key.startswith(OBJECTS_PREFIX)}
        assert world.acknowledged <= stored
        assert not world.refused & stored, "what was said to be certainly not done was done"
        for store in world.stores:
            await asyncio.gather(store.read_index(), world.clock.advance(1.0))
            assert {service.id for service in store.view.services} >= world.acknowledged
