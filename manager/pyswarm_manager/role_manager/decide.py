"""What the role manager does next: nodes and etcd's members in, changes of nodes and steps of etcd out. Pure.

Everything follows from what is there, so that whoever leads after a crash between any two steps finishes or undoes what was begun:

    spec.role     role      its member          then
    manager       worker    -                   role=manager: the node gets its certificate, starts and enters
    manager       manager   none                announced as a learner once the node is there (one learner at a time, 7 managers)
    manager       manager   not started         the node is told to start; removed after 60 s without
    manager       manager   learner             promoted when it has caught up and its node says that it is there with its data
    manager       manager   voter               done; its address in etcd is kept that of the node
    manager       manager   started, data lost  removed, to be announced anew
    worker        manager   any                 removed (a leader hands the leadership over first)
    worker        manager   none                role=worker, manager part and certificates gone
    -             -         of no such node     removed

A voter is removed only when those that remain have a quorum. Steps come in the order in which they are to be tried: should etcd
refuse one for now, the next may still be done, as a refused one changes nothing. A leader whose etcd refuses all this for long,
though every manager answers, lets another lead.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from pyswarm_common.objects import ManagerStatus, Node
from pyswarm_manager.role_manager.members import Member, Membership, member_of
from pyswarm_manager.role_manager.quorum import FULL, MAX_MANAGERS, count_of, refusal_of_removal
from pyswarm_manager.store.tables import View

START_LIMIT_S = 60.0
"""How long a node may take to start its announced member, and how long one that catches up may be silent."""
CATCH_UP_LIMIT_S = 900.0
"""How long a member may take to catch up before it is begun anew."""
DISTRUST_LIMIT_S = 15.0
"""How long etcd may call a cluster unhealthy whose managers all answer, before another leads. It does so for 5 s after a change."""
HANDOVER_LIMIT_S = 5.0
"""How long a manager that is to go waits for another to take over after raft's leadership has moved."""

Presence: TypeAlias = Literal["there", "with data", "without data"]


class AddLearner(NamedTuple):
    """Announce a node's member."""

    node_id: str
    peer_url: str


class Promote(NamedTuple):
    """Let a learner vote."""

    node_id: str
    member_id: int


class Remove(NamedTuple):
    """Remove a member, and say why."""

    member_id: int
    reason: str


class UpdatePeerURL(NamedTuple):
    """Tell the members that one of them is reached elsewhere now."""

    member_id: int
    peer_url: str


class MoveLeadership(NamedTuple):
    """Let another member lead raft, and so its manager the cluster."""

    member_id: int


Step: TypeAlias = AddLearner | Promote | Remove | UpdatePeerURL | MoveLeadership


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the leader knows beside the store."""

    membership: Membership
    presence: Mapping[str, Presence] = field(default_factory=dict)
    """The nodes that lately asked to be managers, and whether they say that they hold their member's data."""
    unreachable: frozenset[str] = frozenset()
    """Ids of managers that do not answer."""
    unchanged_for_s: Mapping[int, float] = field(default_factory=dict)
    """Member id → how long this leader has seen it as it is (not started, learner, voter)."""
    silent_for_s: Mapping[str, float] = field(default_factory=dict)
    """Node id → how long this leader has not heard from it."""
    raft_leader_for_s: float = 0.0
    """How long this leader has seen the present raft leader."""
    distrusting_for_s: float = 0.0
    """How long etcd has refused every step because it takes another member for gone."""


@dataclass(frozen=True)
class RoleDecisions:
    """What to do. Changes of the store come first; then the first of the steps that etcd lets happen; then look again."""

    nodes: tuple[Node, ...] = ()
    """Nodes in their new form."""
    demoted: tuple[Node, ...] = ()
    """Nodes, in their new form, that are managers no more: their manager certificates are to be revoked."""
    steps: tuple[Step, ...] = ()
    progress: dict[str, str] = field(default_factory=dict)
    """Node id (or what is known of a member of no node) → what it waits for."""
    refused: dict[str, str] = field(default_factory=dict)
    """Node id → why it cannot be a manager however long it waits."""


def decide(view: View, situation: Situation, now_ns: int) -> RoleDecisions:
    """Return what to do next about the managers; nothing when all is as it should be."""
    nodes: list[Node] = []
    demoted: list[Node] = []
    present: list[Node] = []
    for node in sorted(view.nodes, key=lambda n: n.id):
        member = member_of(node, situation.membership.members)
        after = _settled(node, member, now_ns)
        if node.role == "manager" and after.role == "worker":
            demoted.append(after)
        elif after != node:
            nodes.append(after)
        present.append(after)
    steps = _Steps(present, situation)
    taken = list(steps.all())
    if taken:
        taken += steps.way_out_of_distrust()
    return RoleDecisions(tuple(nodes), tuple(demoted), tuple(taken), steps.progress, steps.refused)


def _settled(node: Node, member: Member | None, now_ns: int) -> Node:
    """Return the node as the store should have it, given its member."""
    wants_manager = node.spec.role == "manager"
    if node.role != "manager":
        if wants_manager:
            return msgspec.structs.replace(node, role="manager", manager=None)
        return msgspec.structs.replace(node, manager=None) if node.manager is not None else node
    if member is None and not wants_manager:
        return msgspec.structs.replace(node, role="worker", manager=None)
    if node.manager is None:
        return node
    return msgspec.structs.replace(node, manager=_adopted(node.manager, member, now_ns))


def _adopted(manager: ManagerStatus, member: Member | None, now_ns: int) -> ManagerStatus:
    if member is None:
        return msgspec.structs.replace(manager, etcd_member_id=0, is_voter=False)
    return msgspec.structs.replace(
        manager,
        etcd_peer_url=manager.etcd_peer_url or next(iter(member.peer_urls), ""),
        etcd_member_id=member.id,
        is_voter=not member.is_learner,
        added_at_ns=manager.added_at_ns if manager.etcd_member_id == member.id else now_ns,
    )


class _Steps:
    """The steps that are due, in order, and what each node waits for."""

    def __init__(self, nodes: list[Node], situation: Situation) -> None:
        self.progress: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self._situation = situation
        self._members = situation.membership.members
        self._nodes = {n.id: n for n in nodes}
        owned = [(member, node) for node in nodes if (member := member_of(node, self._members)) is not None]
        self._owners = {member.id: node for member, node in owned}
        self._has_member = {node.id for _, node in owned}
        self._voters = {m.id: self._label(m) for m in self._members if not m.is_learner}
        self._unhealthy = {i for i in self._voters if not self._is_healthy(i)}

    def all(self) -> Iterator[Step]:
        """Yield the steps: what frees a place first, then promotions, addresses, removals and arrivals."""
        for member in self._members:
            if member.is_learner:
                yield from self._learner_removal(member)
        for member in self._members:
            yield from self._promotion(member)
        for member in self._members:
            yield from self._address_change(member)
        removals = [m for m in self._members if not m.is_learner and self._reason_to_remove(m)]
        for member in sorted(removals, key=lambda m: (m.id == self._situation.membership.own_id, m.id)):
            yield from self._voter_removal(member)
        yield from self._arrivals()

    def _label(self, member: Member) -> str:
        node = self._owners.get(member.id) or self._nodes.get(member.name)
        return (node.name or node.id) if node is not None else member.name or f"{member.id:x}"

    def _is_healthy(self, member_id: int) -> bool:
        """Whether a voter works, as far as is known: of one that belongs to no node etcd alone knows, and heeds it at removals."""
        node = self._owners.get(member_id)
        if node is None or member_id == self._situation.membership.own_id:
            return True
        return node.id not in self._situation.unreachable and self._presence(node) != "without data"

    def _presence(self, node: Node) -> Presence | None:
        return self._situation.presence.get(node.id)

    def _reason_to_remove(self, member: Member) -> str:
        """Return why a member must go whatever its state; "" when it is wanted."""
        node = self._owners.get(member.id)
        if node is None:
            return "it belongs to no manager of the cluster"
        if node.spec.role != "manager":
            return "its node is to be a worker"
        if member.is_started and self._presence(node) == "without data":
            return "its node has lost its data"
        return ""

    def _learner_removal(self, member: Member) -> Iterator[Step]:
        reason = self._reason_to_remove(member)
        node = self._owners.get(member.id)
        if not reason and node is not None:
            unchanged_for_s = self._situation.unchanged_for_s.get(member.id, 0.0)
            silent_for_s = self._situation.silent_for_s.get(node.id, 0.0)
            if not member.is_started and unchanged_for_s >= START_LIMIT_S:
                reason = f"its node has not started it for {START_LIMIT_S:g} s"
            elif member.is_started and silent_for_s >= START_LIMIT_S:
                reason = f"its node has been silent for {START_LIMIT_S:g} s"
        if reason:
            yield Remove(member.id, reason)

    def _promotion(self, member: Member) -> Iterator[Step]:
        node = self._owners.get(member.id)
        if not member.is_learner or node is None or self._reason_to_remove(member):
            return
        if not member.is_started:
            self.progress[node.id] = "waiting for etcd to start"
            return
        self.progress[node.id] = "catching up with the other managers"
        if self._presence(node) == "with data":
            yield Promote(node.id, member.id)
            if self._situation.unchanged_for_s.get(member.id, 0.0) >= CATCH_UP_LIMIT_S:
                yield Remove(member.id, f"it has not caught up for {CATCH_UP_LIMIT_S:g} s")

    def _address_change(self, member: Member) -> Iterator[Step]:
        node = self._owners.get(member.id)
        if node is None or node.manager is None or self._reason_to_remove(member):
            return
        peer_url = node.manager.etcd_peer_url
        if peer_url and peer_url not in member.peer_urls and self._holder_of(peer_url) is None:
            yield UpdatePeerURL(member.id, peer_url)

    def _voter_removal(self, member: Member) -> Iterator[Step]:
        remaining = {i: label for i, label in self._voters.items() if i != member.id}
        refusal = refusal_of_removal(remaining.values(), [label for i, label in remaining.items() if i in self._unhealthy])
        node = self._owners.get(member.id)
        if refusal:
            self.progress[node.id if node is not None else self._label(member)] = refusal
            return
        if node is not None:
            self.progress[node.id] = f"its member is being removed: {self._reason_to_remove(member)}"
        if member.id == self._situation.membership.own_id:
            yield from self._own_removal(member)
        else:
            yield Remove(member.id, self._reason_to_remove(member))

    def _own_removal(self, member: Member) -> Iterator[Step]:
        """Hand over first: the loop then goes on elsewhere. If raft is led by another already, give that one time to take over."""
        if self._situation.membership.leader_id == member.id:
            yield from self._handovers()
        elif self._situation.raft_leader_for_s >= HANDOVER_LIMIT_S:
            yield Remove(member.id, self._reason_to_remove(member))

    def way_out_of_distrust(self) -> Iterator[Step]:
        """Let another lead when our etcd goes on to take a member for gone that answers.

        Its view of a peer can be wrong for good: a message to the peer's former address may fail only after the streams to the
        new one stand, and nothing corrects that later. The next leader's etcd has a view of its own.
        """
        is_leading = self._situation.membership.leader_id == self._situation.membership.own_id
        if is_leading and not self._unhealthy and self._situation.distrusting_for_s >= DISTRUST_LIMIT_S:
            yield from self._handovers()

    def _handovers(self) -> Iterator[Step]:
        for other in self._members:
            is_fit = not other.is_learner and other.id != self._situation.membership.own_id and not self._reason_to_remove(other)
            if is_fit and other.id not in self._unhealthy:
                yield MoveLeadership(other.id)

    def _arrivals(self) -> Iterator[Step]:
        """Announce the first node in the queue. Those that tried before and failed wait behind the others."""
        waiting = [n for n in self._nodes.values() if self._wants_to_enter(n)]
        waiting.sort(key=lambda n: (n.manager.added_at_ns if n.manager is not None else 0, n.id))
        ahead = sum(m.is_learner for m in self._members)
        is_full = len(self._members) >= MAX_MANAGERS
        stays_full = sum(not self._reason_to_remove(m) for m in self._members) >= MAX_MANAGERS
        for node in waiting:
            assert node.manager is not None
            holder = self._holder_of(node.manager.etcd_peer_url)
            if stays_full:
                self.refused[node.id] = FULL
            elif is_full:
                self.progress[node.id] = "waiting until another manager has been removed"
            elif holder is not None:
                self.progress[node.id] = (
                    f"its address is still that of manager {self._label(holder)}: demote and remove that node if it is gone"
                )
            elif ahead:
                self.progress[node.id] = f"waiting for {count_of(ahead, 'other manager')} to join"
                ahead += 1
            else:
                self.progress[node.id] = self._arrival_message()
                ahead += 1
                yield AddLearner(node.id, node.manager.etcd_peer_url)

    def _arrival_message(self) -> str:
        absent = sorted(self._voters[i] for i in self._unhealthy)
        if absent:
            return (
                f"waiting until the other managers can be reached: {', '.join(absent)} cannot; "
                "bring them back, or demote those that are gone"
            )
        return "waiting until the other managers are settled"

    def _wants_to_enter(self, node: Node) -> bool:
        return (
            node.role == "manager"
            and node.spec.role == "manager"
            and node.manager is not None
            and bool(node.manager.etcd_peer_url)
            and node.id not in self._has_member
            and self._presence(node) is not None
        )

    def _holder_of(self, peer_url: str) -> Member | None:
        return next((m for m in self._members if peer_url in m.peer_urls), None)
