"""From any state of nodes and members, with crashes between any two steps: the cluster never loses its quorum, and in the end its
members are the managers that are wanted."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pyswarm_common.clock import NANOSECONDS_PER_SECOND
from pyswarm_common.errors import Unavailable
from pyswarm_common.objects import Cluster, IssuedCertificate, ManagerStatus, Node
from pyswarm_common.specs import NodeSpec
from pyswarm_manager.role_manager.decide import (
    AddLearner,
    MoveLeadership,
    Presence,
    Promote,
    Remove,
    Situation,
    Step,
    UpdatePeerURL,
    decide,
)
from pyswarm_manager.role_manager.members import Member, Membership, member_of
from pyswarm_manager.role_manager.memory import MemoryMembers
from pyswarm_manager.store.tables import Tables

ROUNDS = 80
"""How many looks are enough after the last crash and the last fault."""
SECONDS_PER_ROUND = 10.0


@dataclass
class Machine:
    """A node's machine: whether it is up, and of which member it holds the data."""

    is_up: bool = True
    data: int | None = None
    claims: int = 0
    """For how many rounds it has said that it has no data."""


@dataclass
class Simulation:
    """Nodes, machines and members, and what of the leader's knowledge lies in memory alone."""

    nodes: list[Node]
    control: MemoryMembers
    machines: dict[str, Machine]
    tables: Tables = field(default_factory=Tables)
    seen: dict[int, tuple[Member, float]] = field(default_factory=dict)
    raft_leader: tuple[int, float] = (0, 0.0)
    now_s: float = 1000.0
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tables.table(Cluster).put(Cluster(id="c"), 1)
        for node in self.nodes:
            self.tables.nodes.put(node, 1)

    def crash(self) -> None:
        """The leader dies; the next one knows only what is stored."""
        self.seen.clear()
        self.raft_leader = (0, 0.0)

    def let_nodes_act(self) -> None:
        """Each machine that is up does what its node's role asks of it, and asks to be a manager."""
        for node in list(self.tables.nodes):
            machine = self.machines[node.id]
            if machine.data not in self.control.members:
                machine.data = None  # its etcd has ended, or never was
            if node.role != "manager":
                machine.data = None
            elif machine.is_up:
                self._act_as_manager(node, machine)
            if not machine.is_up or machine.data is None:
                for member in self.control.members.values():
                    if member.name == node.id:
                        self.control.stop(member.id)

    def _act_as_manager(self, node: Node, machine: Machine) -> None:
        manager = node.manager or ManagerStatus()
        manager = msgspec.structs.replace(manager, address=f"{node.id}:2377", etcd_peer_url=f"https://{node.id}")
        node = msgspec.structs.replace(node, manager=manager)
        self.tables.nodes.put(node, 1)
        member = member_of(node, tuple(sorted(self.control.members.values())))
        machine.claims = machine.claims + 1 if machine.data is None else 0
        if member is None:
            return
        if not member.is_started and node.spec.role == "manager":
            self.control.start(member.id, node.id)
            machine.data, machine.claims = member.id, 0
        elif machine.data == member.id:
            self.control.running.add(member.id)
            self.control.catch_up(member.id)

    def presence(self) -> dict[str, Presence]:
        """Return what the nodes that are up say."""
        said: dict[str, Presence] = {}
        for node in self.tables.nodes:
            machine = self.machines[node.id]
            if machine.is_up and node.role == "manager" and node.manager is not None:
                said[node.id] = "with data" if machine.data is not None else "without data" if machine.claims > 1 else "there"
        return said

    def situation(self, membership: Membership) -> Situation:
        """Return what the leader knows."""
        before, self.seen = self.seen, {}
        for member in membership.members:
            seen = before.get(member.id)
            self.seen[member.id] = seen if seen is not None and seen[0] == member else (member, self.now_s)
        if self.raft_leader[0] != membership.leader_id:
            self.raft_leader = (membership.leader_id, self.now_s)
        down = frozenset(node_id for node_id, machine in self.machines.items() if not machine.is_up)
        return Situation(
            membership=membership,
            presence=self.presence(),
            unreachable=down,
            unchanged_for_s={member_id: self.now_s - since_s for member_id, (_, since_s) in self.seen.items()},
            silent_for_s=dict.fromkeys(down, 61.0),
            raft_leader_for_s=self.now_s - self.raft_leader[1],
        )

    async def look(self, crash_at: int) -> None:
        """Look once; the leader dies before the store's change (1), before the step (2) or right after it (3)."""
        if self.control.leader_id != self.control.own_id and self.control.leader_id:
            self.control.own_id = self.control.leader_id  # that manager leads now
            self.crash()
        decisions = decide(self.tables, self.situation(await self.control.read()), round(self.now_s * NANOSECONDS_PER_SECOND))
        if crash_at != 1:
            for node in (*decisions.nodes, *decisions.demoted):
                self.tables.nodes.put(node, 1)
        if crash_at not in (1, 2):
            await self._take_first(decisions.steps)
        if crash_at:
            self.crash()

    async def _take_first(self, steps: Iterable[Step]) -> None:
        for step in steps:
            try:
                await take(self.control, step)
            except Unavailable:
                continue
            self.steps.append(step)
            assert self.control.has_quorum, self.steps
            assert sum(m.is_learner for m in self.control.members.values()) <= 1
            assert len(self.control.members) <= 7
            break

    def wanted(self) -> set[str]:
        """Return the ids of the nodes that are to be managers."""
        return {node.id for node in self.tables.nodes if node.spec.role == "manager"}


async def take(control: MemoryMembers, step: Step) -> None:
    match step:
        case AddLearner(_, peer_url):
            await control.add_learner(peer_url)
        case Promote(_, member_id):
            await control.promote(member_id)
        case Remove(member_id, _):
            await control.remove(member_id)
        case UpdatePeerURL(member_id, peer_url):
            await control.update_peer_url(member_id, peer_url)
        case MoveLeadership(member_id):
            await control.move_leader(member_id)


NODE_IDS = ["a", "b", "c", "d", "e"]


@st.composite
def simulations(draw: st.DrawFn) -> Simulation:
    control = MemoryMembers("a", "https://a")
    machines = {node_id: Machine(is_up=draw(st.booleans())) for node_id in NODE_IDS}
    machines["a"] = Machine(data=control.own_id)
    nodes = []
    for node_id in NODE_IDS:
        is_member = node_id == "a" or draw(st.booleans())
        role = "manager" if node_id == "a" else draw(st.sampled_from(["manager", "worker"]))
        member_id = control.own_id if node_id == "a" else 0
        if is_member and node_id != "a":
            member_id = next(control._ids)
            is_learner = draw(st.booleans()) and not any(m.is_learner for m in control.members.values())
            is_started = not is_learner or draw(st.booleans())
            url = draw(st.sampled_from([f"https://{node_id}", f"https://old-{node_id}"]))
            control.members[member_id] = Member(member_id, node_id if is_started else "", (url,), is_learner)
            machine = machines[node_id]
            machine.data = member_id if is_started and draw(st.integers(0, 3)) else None
            if machine.data is not None and machine.is_up:
                control.running.add(member_id)
        recorded = draw(st.sampled_from([0, member_id, 77]))
        manager = ManagerStatus(
            address=f"{node_id}:2377",
            etcd_peer_url=draw(st.sampled_from([f"https://{node_id}", f"https://old-{node_id}"])),
            etcd_member_id=recorded,
            is_voter=draw(st.booleans()),
        )
        nodes.append(
            Node(
                id=node_id,
                spec=NodeSpec(role=draw(st.sampled_from(["manager", "worker"]))),
                role=role,
                manager=manager if node_id == "a" or draw(st.booleans()) else None,
                certificates=(IssuedCertificate(serial=node_id, expires_at_ns=1, is_manager=role == "manager"),),
            )
        )
    if draw(st.booleans()):
        control.members[99] = Member(99, "stranger", ("https://stranger",))
        if draw(st.booleans()):
            control.running.add(99)
    return Simulation(nodes, control, machines)


async def play(simulation: Simulation, crashes: list[int], faults: list[tuple[str, str]]) -> None:
    for crash_at, (node_id, fault) in zip(crashes, faults, strict=False):
        machine = simulation.machines[node_id]
        if node_id != "a" and fault != "none":
            members_after = simulation.control.running - {machine.data}
            kept, simulation.control.running = simulation.control.running, members_after
            if simulation.control.has_quorum:  # more than the cluster can bear is not what is promised
                machine.is_up = machine.is_up and fault != "down"
                machine.data = None if fault == "lose data" else machine.data
            else:
                simulation.control.running = kept
        simulation.let_nodes_act()
        await simulation.look(crash_at)
        simulation.now_s += SECONDS_PER_ROUND
    for machine in simulation.machines.values():
        machine.is_up = True
    for _ in range(ROUNDS):
        simulation.let_nodes_act()
        await simulation.look(0)
        simulation.now_s += SECONDS_PER_ROUND


@settings(max_examples=150, deadline=None)
@given(
    simulation=simulations(),
    crashes=st.lists(st.integers(0, 3), max_size=30),
    faults=st.lists(
        st.tuples(st.sampled_from(NODE_IDS), st.sampled_from(["none", "none", "down", "lose data"])), min_size=30, max_size=30
    ),
)
def test_members_become_the_wanted_managers_and_the_quorum_is_never_lost(
    simulation: Simulation, crashes: list[int], faults: list[tuple[str, str]]
) -> None:
    simulation.let_nodes_act()
    assume(simulation.control.has_quorum)
    assume(any(n.spec.role == "manager" for n in simulation.nodes))
    asyncio.run(play(simulation, crashes, faults))
    members = simulation.control.members.values()
    assert sorted(m.name for m in members) == sorted(simulation.wanted()), simulation.steps
    assert not any(m.is_learner for m in members)
    for node in simulation.tables.nodes:
        assert node.role == node.spec.role
        recorded: Any = node.manager and (node.manager.etcd_member_id, node.manager.is_voter, node.manager.etcd_peer_url)
        of_member = {m.name: (m.id, True, m.peer_urls[0]) for m in members}
        assert recorded == of_member.get(node.id)
    done = len(simulation.steps)
    asyncio.run(simulation.look(0))
    assert len(simulation.steps) == done
