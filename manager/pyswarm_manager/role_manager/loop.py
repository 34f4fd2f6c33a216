"""The role manager's shell: on the leader, look at nodes and members, decide on the head, commit, take one step, look again.

Etcd knows no fence, so a leader that was deposed between a decision and its step may still take the step. It cannot do lasting
harm: member ids are never used twice, etcd itself refuses removals that would lose the quorum, and the next leader
mends what should not have been.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import OutcomeUnknown, Unavailable
from pyswarm_common.failpoints import failpoint
from pyswarm_common.objects import Node
from pyswarm_common.waiting import wait_first
from pyswarm_manager.ca.revocation import revoke_manager_certificates
from pyswarm_manager.role_manager.decide import (
    AddLearner,
    MoveLeadership,
    Promote,
    Remove,
    RoleDecisions,
    Situation,
    Step,
    decide,
)
from pyswarm_manager.role_manager.members import UNHEALTHY, Member, MemberControl, Membership
from pyswarm_manager.role_manager.presence import Presences
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.subscription import Subscription
from pyswarm_manager.store.transaction import Transaction

PERIOD_S = 2.0
"""How often it looks without any event."""
RETRY_PAUSE_S = 0.25
"""How long it waits when etcd refused a step, or something else is under way."""

_log = structlog.get_logger(__name__)


class RoleManager:
    """Keeps roles and etcd's members in step. Made once per manager; `run` while it leads.

    `unreachable` picks those of the given managers (ids) that do not answer.
    """

    def __init__(
        self,
        store: Store,
        control: MemberControl,
        clock: Clock,
        unreachable: Callable[[Iterable[str]], Iterable[str]] = lambda _: (),
    ) -> None:
        self.control = control
        self.presences = Presences()
        """What nodes said that asked to be managers."""
        self.progress: Mapping[str, str] = {}
        """Node id → what it waits for, as of the last look."""
        self.refused: Mapping[str, str] = {}
        """Node id → why it cannot be a manager, as of the last look."""
        self._store = store
        self._clock = clock
        self._unreachable = unreachable
        self._is_poked = asyncio.Event()
        self._refusals: dict[Step, str] = {}
        """What was last logged of steps that etcd refused."""
        self._sightings = _Sightings(0.0)
        self._distrusting_since_s: float | None = None

    def poke(self) -> None:
        """Let it look now."""
        self._is_poked.set()

    def unreachable_managers(self) -> frozenset[str]:
        """Return the ids of the managers that do not answer."""
        managers = [n.id for n in self._store.view.nodes if n.manager is not None]
        return frozenset(self._unreachable(managers))

    async def run(self) -> None:
        """Work until cancelled. Raises Unavailable when this manager stops leading."""
        self.progress, self.refused = {}, {}
        self._sightings = _Sightings(self._clock.monotonic_s())
        self._distrusting_since_s = None
        with self._store.watch(Node) as subscription:
            while True:
                subscription.take()
                self._is_poked.clear()
                pause_s = await self._look()
                if pause_s:
                    await self._wait(subscription, pause_s)

    async def _look(self) -> float:
        """Do one thing if there is one to do; return how long to wait for events before the next look."""
        try:
            membership = await self.control.read()
        except Unavailable as error:
            _log.info("roles.members_unknown", reason=error.message)
            return RETRY_PAUSE_S
        situation = self._situation(membership)
        decisions = await self._store.update(lambda tx: decide_and_apply(tx, situation))
        self.progress, self.refused = decisions.progress, decisions.refused
        for node in decisions.demoted:
            _log.info("roles.demoted", node=node.id)
        for step in decisions.steps:
            if await self._take(step):
                return 0.0
        if not decisions.steps:
            self._distrusting_since_s = None
        return RETRY_PAUSE_S if decisions.steps or decisions.progress else PERIOD_S

    def _situation(self, membership: Membership) -> Situation:
        now_s = self._clock.monotonic_s()
        self._sightings.note(membership, now_s)
        node_ids = [node.id for node in self._store.view.nodes]
        return Situation(
            membership=membership,
            presence=self.presences.at(now_s),
            unreachable=self.unreachable_managers(),
            unchanged_for_s=self._sightings.unchanged_for_s(now_s),
            silent_for_s=self.presences.silent_for_s(node_ids, now_s, self._sightings.since_s),
            raft_leader_for_s=self._sightings.raft_leader_for_s(now_s),
            distrusting_for_s=0.0 if self._distrusting_since_s is None else now_s - self._distrusting_since_s,
        )

    async def _take(self, step: Step) -> bool:
        """Take a step; whether etcd let it happen (or may have)."""
        if not self._store.is_leader:
            return False
        try:
            failpoint(f"roles/{type(step).__name__}-decided")
            await self._carry_out(step)
            failpoint(f"roles/{type(step).__name__}-taken")
        except OutcomeUnknown as error:
            _log.warning("roles.outcome_unknown", step=str(step), reason=error.message)
            await self._clock.sleep(RETRY_PAUSE_S)
        except Unavailable as error:
            if self._refusals.get(step) != error.message:
                _log.info("roles.step_refused", step=str(step), reason=error.message)
                self._refusals[step] = error.message
            if UNHEALTHY in error.message and self._distrusting_since_s is None:
                self._distrusting_since_s = self._clock.monotonic_s()
            return False
        else:
            _log.info("roles.step_taken", step=str(step))
        self._refusals.clear()
        self._distrusting_since_s = None
        return True

    async def _carry_out(self, step: Step) -> None:
        if isinstance(step, AddLearner):
            await self.control.add_learner(step.peer_url)
        elif isinstance(step, Promote):
            await self.control.promote(step.member_id)
        elif isinstance(step, Remove):
            await self.control.remove(step.member_id)
        elif isinstance(step, MoveLeadership):
            await self.control.move_leader(step.member_id)
        else:
            await self.control.update_peer_url(step.member_id, step.peer_url)

    async def _wait(self, subscription: Subscription, pause_s: float) -> None:
        """Return at an event, or after this time; what etcd refused is not tried again at once for an event."""
        if pause_s <= RETRY_PAUSE_S:
            await self._clock.sleep(pause_s)
        else:
            await wait_first(subscription.wait(), self._is_poked.wait(), self._clock.sleep(pause_s))


class _Sightings:
    """Since when this leader has seen each member, and raft's leader, as they are. Times are monotonic, in seconds."""

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self._members: dict[int, tuple[tuple[bool, bool], float]] = {}
        self._raft_leader: tuple[int, float] = (0, since_s)

    def note(self, membership: Membership, now_s: float) -> None:
        """Take in what is seen now."""
        before = self._members
        self._members = {}
        for member in membership.members:
            state = _state(member)
            seen = before.get(member.id)
            self._members[member.id] = seen if seen is not None and seen[0] == state else (state, now_s)
        if self._raft_leader[0] != membership.leader_id:
            self._raft_leader = (membership.leader_id, now_s)

    def unchanged_for_s(self, now_s: float) -> Mapping[int, float]:
        """Return how long each member has been as it is, in seconds."""
        return {member_id: now_s - since_s for member_id, (_, since_s) in self._members.items()}

    def raft_leader_for_s(self, now_s: float) -> float:
        """Return how long raft has had its present leader, in seconds."""
        return now_s - self._raft_leader[1]


def _state(member: Member) -> tuple[bool, bool]:
    return member.is_started, member.is_learner


def decide_and_apply(tx: Transaction, situation: Situation) -> RoleDecisions:
    """Decide on the head and change the nodes; the steps are left to be taken once that is committed."""
    decisions = decide(tx, situation, tx.now_ns)
    for node in decisions.nodes:
        tx.update(node)
    for node in decisions.demoted:
        tx.update(revoke_manager_certificates(tx, node))
    return decisions
