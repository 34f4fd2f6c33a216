"""The role manager and the admission of managers on a real store in memory, with time in our hands."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import msgspec
import pytest

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import FailedPrecondition, PermissionDenied, Unavailable
from pyswarm_common.objects import Cluster, IssuedCertificate, ManagerStatus, Node
from pyswarm_common.specs import NodeSpec
from pyswarm_common.wire import EnterAnswer, EnterRequest
from pyswarm_manager.role_manager.admission import Admission
from pyswarm_manager.role_manager.loop import RoleManager
from pyswarm_manager.role_manager.memory import MemoryMembers
from pyswarm_manager.store.memory import MemoryCluster, memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

T = TypeVar("T")
MANAGER = "manager"
FAR_FUTURE_NS = 4_000_000_000 * 10**9


class Bench:
    """A role manager that runs beside one manager, and nodes that ask to enter."""

    def __init__(self, store: Store, cluster: MemoryCluster, clock: ManualClock) -> None:
        self.store = store
        self.cluster = cluster
        self.clock = clock
        self.members = MemoryMembers(MANAGER)
        self.away: set[str] = set()
        self.roles = RoleManager(store, self.members, clock, lambda node_ids: self.away & set(node_ids))
        self.admission = Admission(store, self.roles, b"data keys", clock)

    async def add_node(self, node_id: str, role: str = "worker") -> None:
        """Let a node be in the cluster."""
        certificate = IssuedCertificate(serial=f"5{node_id}", expires_at_ns=FAR_FUTURE_NS, is_manager=True)
        node = Node(id=node_id, spec=NodeSpec(role=role), role=role, certificates=(certificate,))
        await self.store.update(lambda tx: tx.create(node))

    async def want(self, node_id: str, role: str) -> None:
        """Store an operator's wish."""

        def change(tx: Transaction) -> None:
            node = tx.nodes.must_get(node_id)
            tx.update(msgspec.structs.replace(node, spec=NodeSpec(role=role)))

        await self.store.update(change)

    async def settle(self, seconds: float = 1.0) -> None:
        """Let the role manager do what it can."""
        await self.clock.advance(seconds)

    async def enter(self, node_id: str, *, has_data: bool = False) -> EnterAnswer:
        """Ask to be a manager."""
        request = EnterRequest(address=f"{node_id}:2377", etcd_peer_url=f"https://{node_id}:2380", has_data=has_data)
        return await self.admission.enter(node_id, request)

    async def wait_phase(self, node_id: str, phase: str, *, has_data: bool = False) -> EnterAnswer:
        """Ask every 0.25 s until this phase is answered."""
        for _ in range(40):
            answer = await self.enter(node_id, has_data=has_data)
            if answer.phase == phase:
                return answer
            await self.clock.advance(0.25)
        raise AssertionError(f"{node_id} still hears {answer}")

    async def start_member(self, node_id: str, *, catches_up: bool = True) -> int:
        """Start etcd where the node was told to; returns its id."""
        member_id = self.node(node_id).manager.etcd_member_id  # type: ignore[union-attr]
        assert member_id
        self.members.start(member_id, node_id)
        if catches_up:
            self.members.catch_up(member_id)
        return member_id

    async def join(self, node_id: str) -> None:
        """Let a node become a manager that votes."""
        await self.add_node(node_id, "manager")
        await self.wait_phase(node_id, "start")
        await self.start_member(node_id)
        await self.wait_phase(node_id, "member", has_data=True)
        await self.settle()

    def node(self, node_id: str) -> Node:
        """Return the node as it is stored."""
        return self.store.view.nodes.must_get(node_id)

    def names(self) -> list[str]:
        """Return the names of the members."""
        return sorted(m.name for m in self.members.members.values())


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock, cluster = ManualClock(), MemoryCluster()
    async with memory_store(clock, cluster, MANAGER) as store:

        def seed(tx: Transaction) -> None:
            tx.create(Cluster(id="c", unlock_key="SWMKEY-1-x"))
            tx.create(Node(id=MANAGER, spec=NodeSpec(role="manager"), role="manager", manager=ManagerStatus(address="m:2377")))

        await store.update(seed)
        bench = Bench(store, cluster, clock)
        running = asyncio.create_task(bench.roles.run())
        await bench.settle()
        yield bench
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, Unavailable):
            await running


async def in_time(bench: Bench, awaitable: Awaitable[T], seconds: float) -> T:
    """Return what comes of it while so much time passes."""
    task = asyncio.ensure_future(awaitable)
    await bench.clock.advance(seconds)
    assert task.done()
    return await task


async def test_the_founders_member_is_adopted(bench: Bench) -> None:
    manager = bench.node(MANAGER).manager
    assert manager is not None
    assert (manager.address, manager.etcd_member_id, manager.is_voter) == ("m:2377", bench.members.own_id, True)
    assert manager.etcd_peer_url == "https://10.0.0.1:2380"


async def test_a_node_enters_step_by_step(bench: Bench) -> None:
    await bench.add_node("n2")
    with pytest.raises(PermissionDenied, match="n2 is not a manager"):
        await bench.enter("n2")
    await bench.want("n2", "manager")
    await bench.settle()
    assert bench.node("n2").role == "manager"
    assert (await bench.enter("n2")).phase == "wait"
    await bench.settle()
    answer = await bench.enter("n2")
    assert (answer.phase, answer.data_keys, answer.unlock_key) == ("start", b"data keys", "SWMKEY-1-x")
    assert answer.other_members == {MANAGER: "https://10.0.0.1:2380"}
    assert (await bench.enter("n2")).phase == "start"

    await bench.start_member("n2", catches_up=False)
    await bench.settle()
    answer = await bench.enter("n2", has_data=True)
    assert (answer.phase, answer.message) == ("wait", "catching up with the other managers")
    await bench.settle()
    assert not bench.node("n2").manager.is_voter  # type: ignore[union-attr]
    bench.members.catch_up(max(bench.members.members))
    await bench.settle()
    assert (await bench.enter("n2", has_data=True)).phase == "member"
    await bench.settle()
    assert bench.node("n2").manager.is_voter  # type: ignore[union-attr]


async def test_a_member_that_started_but_whose_node_is_silent_does_not_vote(bench: Bench) -> None:
    await bench.add_node("n2", "manager")
    await bench.wait_phase("n2", "start")
    member_id = await bench.start_member("n2")
    await bench.settle(30)
    assert bench.members.members[member_id].is_learner
    await bench.enter("n2", has_data=True)
    await bench.settle()
    assert not bench.members.members[member_id].is_learner


async def test_several_joins_queue_up_and_hear_their_place(bench: Bench) -> None:
    for name in ("n2", "n3", "n4"):
        await bench.add_node(name, "manager")
    bench.members.refusals = 12  # etcd wants a pause
    for name in ("n2", "n3", "n4"):
        await bench.enter(name)
    await bench.settle(0.5)
    assert (await bench.enter("n4")).message == "waiting for 2 other managers to join"
    for name in ("n2", "n3", "n4"):
        await bench.wait_phase(name, "start")
        await bench.start_member(name)
        await bench.wait_phase(name, "member", has_data=True)
    assert bench.names() == [MANAGER, "n2", "n3", "n4"]


async def test_an_announced_node_that_never_starts_makes_room(bench: Bench) -> None:
    await bench.add_node("n2", "manager")
    await bench.add_node("n3", "manager")
    await bench.wait_phase("n2", "start")
    await bench.enter("n3")
    await bench.settle(61)
    await bench.wait_phase("n3", "start")
    await bench.start_member("n3")
    await bench.wait_phase("n3", "member", has_data=True)
    assert bench.names() == [MANAGER, "n3"]
    assert bench.node("n2").manager.etcd_member_id == 0  # type: ignore[union-attr]


async def test_a_manager_that_lost_its_data_gets_a_new_member(bench: Bench) -> None:
    await bench.join("n2")
    await bench.join("n3")
    before = bench.node("n3").manager.etcd_member_id  # type: ignore[union-attr]
    bench.members.stop(before)
    assert (await bench.enter("n3")).phase == "wait"
    await bench.wait_phase("n3", "start")
    await bench.start_member("n3")
    await bench.wait_phase("n3", "member", has_data=True)
    await bench.settle()
    after = bench.node("n3").manager.etcd_member_id  # type: ignore[union-attr]
    assert after != before
    assert set(bench.members.members) == {bench.members.own_id, bench.node("n2").manager.etcd_member_id, after}  # type: ignore[union-attr]


async def test_a_late_request_does_not_replace_a_member_that_started(bench: Bench) -> None:
    await bench.join("n2")
    before = set(bench.members.members)
    await bench.enter("n2", has_data=True)
    await bench.enter("n2", has_data=False)  # sent long ago, under way until now
    await bench.settle(5)
    assert set(bench.members.members) == before


async def test_a_manager_whose_member_was_removed_is_told_to_start_anew(bench: Bench) -> None:
    await bench.join("n2")
    await bench.members.remove(bench.node("n2").manager.etcd_member_id)  # type: ignore[union-attr]
    await bench.settle(3)
    assert (await bench.wait_phase("n2", "start", has_data=True)).other_members == {MANAGER: "https://10.0.0.1:2380"}


async def test_addresses_may_change(bench: Bench) -> None:
    await bench.join("n2")
    request = EnterRequest(address="10.9.9.9:2377", etcd_peer_url="https://10.9.9.9:2380", has_data=True)
    assert (await bench.admission.enter("n2", request)).phase == "member"
    await bench.settle()
    manager = bench.node("n2").manager
    assert manager is not None
    assert (manager.address, manager.is_voter) == ("10.9.9.9:2377", True)
    assert bench.members.members[manager.etcd_member_id].peer_urls == ("https://10.9.9.9:2380",)


async def test_the_eighth_manager_is_refused_with_the_reason(bench: Bench) -> None:
    for number in range(2, 8):
        await bench.join(f"n{number}")
    await bench.add_node("n8", "manager")
    await bench.enter("n8")
    await bench.settle()
    with pytest.raises(FailedPrecondition, match="the swarm has 7 managers, the most it can have: demote one first"):
        await bench.enter("n8")
    await bench.want("n7", "worker")
    await bench.settle()
    await bench.wait_phase("n8", "start")
    assert "n7" not in bench.names()


async def test_a_demoted_manager_loses_member_role_and_certificates(bench: Bench) -> None:
    await bench.join("n2")
    await bench.join("n3")
    await bench.want("n3", "worker")
    await bench.settle()
    assert bench.names() == [MANAGER, "n2"]
    node = bench.node("n3")
    assert (node.role, node.manager, node.certificates) == ("worker", None, ())
    assert [c.serial for c in bench.store.view.cluster.revoked_certificates] == ["5n3"]
    with pytest.raises(PermissionDenied):
        await bench.enter("n3")


async def test_leaving_ends_when_the_member_is_removed(bench: Bench) -> None:
    await bench.join("n2")
    await bench.join("n3")
    await in_time(bench, bench.admission.leave("n3"), 1.0)
    assert bench.names() == [MANAGER, "n2"]
    assert bench.node("n3").role == "worker"
    await bench.admission.leave("n3")


async def test_leaving_is_refused_when_the_quorum_would_be_lost(bench: Bench) -> None:
    with pytest.raises(FailedPrecondition, match="attempting to demote the last manager of the swarm"):
        await bench.admission.leave(MANAGER)
    await bench.join("n2")
    await bench.join("n3")
    bench.away.add("n2")
    with pytest.raises(FailedPrecondition, match=r"this would result in a loss of quorum: .*these cannot be reached: n2"):
        await bench.admission.leave("n3")
    assert bench.node("n3").spec.role == "manager"


async def test_leaving_that_takes_too_long_says_why(bench: Bench) -> None:
    await bench.join("n2")
    await bench.join("n3")
    bench.members.refusals = 10_000
    leaving = asyncio.ensure_future(bench.admission.leave("n3"))
    await bench.clock.advance(16)
    with pytest.raises(Unavailable, match=r"not removed from the managers yet: its member is being removed.*try again"):
        await leaving


async def test_a_leader_whose_etcd_takes_a_member_for_gone_that_answers_lets_another_lead(bench: Bench) -> None:
    await bench.join("n2")
    await bench.add_node("n3", "manager")
    bench.members.is_distrusting = True
    for _ in range(12):
        await bench.enter("n3")
        await bench.settle()
        assert bench.members.leader_id == bench.members.own_id
    for _ in range(6):
        await bench.enter("n3")
        await bench.settle()
    assert bench.members.leader_id == bench.node("n2").manager.etcd_member_id  # type: ignore[union-attr]
    assert bench.names() == [MANAGER, "n2"]  # to be announced by the next leader


async def test_a_leaving_leader_hands_over_first(bench: Bench) -> None:
    await bench.join("n2")
    leaving = asyncio.ensure_future(bench.admission.leave(MANAGER))
    await bench.settle()
    assert bench.members.leader_id == bench.node("n2").manager.etcd_member_id  # type: ignore[union-attr]
    assert bench.names() == [MANAGER, "n2"]  # to be removed by the next leader
    bench.cluster.elect(0)
    with pytest.raises(Unavailable, match=r"another manager leads now|does not have a leader|its member is being removed"):
        await in_time(bench, leaving, 2.0)


async def test_only_the_leader_answers(bench: Bench) -> None:
    bench.cluster.elect(0)
    await bench.clock.advance(2)
    for request in (bench.enter(MANAGER, has_data=True), bench.admission.leave(MANAGER)):
        with pytest.raises(Unavailable, match="does not have a leader"):
            await request
