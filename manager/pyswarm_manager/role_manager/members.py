"""Etcd's members as the role manager sees and changes them: values, and what it asks of etcd (`MemberControl`).

`EtcdMembers` is the real thing, `memory.MemoryMembers` the fake; tests/manager/role_manager says what both must do.
"""

from typing import NamedTuple, Protocol

from pyswarm_common.objects import Node
from pyswarm_manager.etcd.client import EtcdClient

UNHEALTHY = "unhealthy cluster"
"""What etcd says when it refuses a change of the members because it has not seen all of them for 5 s."""


class Member(NamedTuple):
    """One member. Its name is its node's id, "" until it has started for the first time."""

    id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    is_learner: bool = False

    @property
    def is_started(self) -> bool:
        """Whether it ever ran, and so has data that only it has."""
        return bool(self.name)


class Membership(NamedTuple):
    """All members, which one is this manager's, and which leads raft (0: none that this member sees)."""

    members: tuple[Member, ...]
    own_id: int
    leader_id: int


class MemberControl(Protocol):
    """What the role manager asks of etcd, through this manager's member.

    Every method may raise Unavailable: etcd refused (wait and try again); its subclass OutcomeUnknown: look what became of it.
    """

    async def read(self) -> Membership:
        """Return the members as they are now."""
        ...

    async def add_learner(self, peer_url: str) -> int:
        """Announce a new member that does not vote yet; returns its id."""
        ...

    async def promote(self, member_id: int) -> None:
        """Let a learner vote; refused while it has not caught up."""
        ...

    async def remove(self, member_id: int) -> None:
        """Remove a member; its process then exits by itself."""
        ...

    async def update_peer_url(self, member_id: int, peer_url: str) -> None:
        """Tell the members where this one is reached."""
        ...

    async def move_leader(self, member_id: int) -> None:
        """Let another member lead raft; refused unless this manager's member leads."""
        ...


class EtcdMembers:
    """A `MemberControl` over a client of this manager's member, which stays its owner's to close."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def read(self) -> Membership:
        """Return the members as they are now. Raises Unavailable."""
        status = await self._client.status()
        members = [
            Member(int(m.ID), str(m.name), tuple(str(url) for url in m.peerURLs), bool(m.isLearner))
            for m in await self._client.members()
        ]
        return Membership(tuple(sorted(members)), status.member_id, status.leader_id)

    async def add_learner(self, peer_url: str) -> int:
        """Announce a new member that does not vote yet; returns its id. Raises Unavailable, OutcomeUnknown."""
        return await self._client.add_member(peer_url, is_learner=True)

    async def promote(self, member_id: int) -> None:
        """Let a learner vote. Raises Unavailable, also while it has not caught up; OutcomeUnknown."""
        await self._client.promote_member(member_id)

    async def remove(self, member_id: int) -> None:
        """Remove a member; its process then exits by itself. Raises Unavailable, OutcomeUnknown."""
        await self._client.remove_member(member_id)

    async def update_peer_url(self, member_id: int, peer_url: str) -> None:
        """Tell the members where this one is reached. Raises Unavailable, OutcomeUnknown."""
        await self._client.update_member(member_id, peer_url)

    async def move_leader(self, member_id: int) -> None:
        """Let another member lead raft. Raises Unavailable."""
        await self._client.move_leader(member_id)


def member_of(node: Node, members: tuple[Member, ...]) -> Member | None:
    """Return the node's member: by its name, or by its id or address while it has not started."""
    manager = node.manager
    if node.role != "manager" or manager is None:
        return None
    named = [m for m in members if m.name == node.id]
    waiting = [m for m in members if not m.is_started and (m.id == manager.etcd_member_id or manager.etcd_peer_url in m.peer_urls)]
    found = named or waiting
    return min(found, key=lambda m: (m.id != manager.etcd_member_id, m.is_learner, m.id), default=None)
