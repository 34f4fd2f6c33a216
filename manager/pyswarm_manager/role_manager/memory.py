"""A `MemberControl` in memory, with etcd's rules: for tests and simulations.

What etcd refuses is refused here: a second learner, an address that is taken, a learner that has not caught up, a removal that
would leave too few members that work, moving the leadership when another member leads.
"""

import itertools

from pyswarm_common.errors import Unavailable
from pyswarm_manager.role_manager.members import UNHEALTHY, Member, Membership
from pyswarm_manager.role_manager.quorum import quorum_of

FIRST_MEMBER_ID = 100


class MemoryMembers:
    """The members of a cluster, seen from member `own_id`; `start`, `catch_up`, `stop` are what their nodes do."""

    def __init__(self, founder: str = "manager", peer_url: str = "https://10.0.0.1:2380") -> None:
        self._ids = itertools.count(FIRST_MEMBER_ID)
        self.own_id = next(self._ids)
        self.leader_id = self.own_id
        self.members: dict[int, Member] = {self.own_id: Member(self.own_id, founder, (peer_url,))}
        self.running: set[int] = {self.own_id}
        """Members that work; a voter that does not counts against the quorum."""
        self.caught_up: set[int] = {self.own_id}
        self.refusals = 0
        """How many of the next steps are refused, as after each change of real members."""
        self.is_distrusting = False
        """Whether our member takes another for gone, and so refuses every change of the members while it leads."""

    async def read(self) -> Membership:
        """Return the members as they are now."""
        return Membership(tuple(sorted(self.members.values())), self.own_id, self.leader_id)

    async def add_learner(self, peer_url: str) -> int:
        """Announce a new member; returns its id. Raises Unavailable."""
        self._may_change()
        if any(m.is_learner for m in self.members.values()):
            raise Unavailable("too many learner members in cluster")
        self._refuse_taken(peer_url)
        if self._voters() - self.running:
            raise Unavailable(UNHEALTHY)
        member_id = next(self._ids)
        self.members[member_id] = Member(member_id, "", (peer_url,), is_learner=True)
        return member_id

    async def promote(self, member_id: int) -> None:
        """Let a learner vote. Raises Unavailable, also while it has not caught up."""
        self._may_change()
        member = self._member(member_id)
        if not member.is_learner:
            raise Unavailable("can only promote a learner member")
        if member_id not in self.caught_up:
            raise Unavailable("can only promote a learner member which is in sync with leader")
        self.members[member_id] = member._replace(is_learner=False)

    async def remove(self, member_id: int) -> None:
        """Remove a member. Raises Unavailable, also when too few would be left that work."""
        self._may_change()
        member = self._member(member_id)
        remaining = self._voters() - {member_id}
        if not member.is_learner and len(remaining & self.running) < quorum_of(len(remaining)):
            raise Unavailable(UNHEALTHY)
        del self.members[member_id]
        self.running.discard(member_id)
        if self.leader_id == member_id:
            self.leader_id = min(remaining & self.running)

    async def update_peer_url(self, member_id: int, peer_url: str) -> None:
        """Tell the members where this one is reached. Raises Unavailable."""
        self._may_change()
        member = self._member(member_id)
        self._refuse_taken(peer_url)
        self.members[member_id] = member._replace(peer_urls=(peer_url,))

    async def move_leader(self, member_id: int) -> None:
        """Let another member lead raft. Raises Unavailable."""
        if self.leader_id != self.own_id:
            raise Unavailable("not leader")
        if member_id not in self._voters():
            raise Unavailable("bad leader transferee")
        if member_id not in self.running:
            raise Unavailable("request timed out, leader transfer took too long")
        self.leader_id = member_id

    def start(self, member_id: int, name: str) -> None:
        """Let an announced member start for the first time, or again."""
        self.members[member_id] = self._member(member_id)._replace(name=name)
        self.running.add(member_id)

    def catch_up(self, member_id: int) -> None:
        """Let a learner have all that the others have."""
        self.caught_up.add(member_id)

    def stop(self, member_id: int) -> None:
        """Let a member work no more."""
        self.running.discard(member_id)

    @property
    def has_quorum(self) -> bool:
        """Whether enough voters work."""
        voters = self._voters()
        return len(voters & self.running) >= quorum_of(len(voters))

    def _voters(self) -> set[int]:
        return {m.id for m in self.members.values() if not m.is_learner}

    def _member(self, member_id: int) -> Member:
        if member_id not in self.members:
            raise Unavailable("member not found")
        return self.members[member_id]

    def _refuse_taken(self, peer_url: str) -> None:
        if any(peer_url in m.peer_urls for m in self.members.values()):
            raise Unavailable("Peer URLs already exists")

    def _may_change(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable(UNHEALTHY)
        if self.is_distrusting:
            raise Unavailable(UNHEALTHY)
        if not self.has_quorum:
            raise Unavailable("no quorum")
