"""What nodes ask about being managers: to enter, to hear how far that is, and to leave. Answered by the leader.

A node that is to be a manager asks again and again, until it votes: that is also how the role manager knows that it is there. A
request changes no more than the node's addresses; members are the role manager's to add and remove.
"""

import msgspec

from pyswarm_common.clock import Clock
from pyswarm_common.errors import FailedPrecondition, PermissionDenied, Unavailable
from pyswarm_common.objects import ManagerStatus, Node
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import EnterAnswer, EnterRequest
from pyswarm_manager.role_manager.loop import RoleManager
from pyswarm_manager.role_manager.members import Member, member_of
from pyswarm_manager.role_manager.quorum import refuse_demotion
from pyswarm_manager.store.leadership import no_leader
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

LEAVE_LIMIT_S = 15.0
"""How long a request to leave waits for its end."""
NOT_LOOKED_YET = "waiting for the leader to look at the managers"


class Admission:
    """Answers those requests. `data_keys`: the store's keys as a data key file holds them."""

    def __init__(self, store: Store, roles: RoleManager, data_keys: bytes, clock: Clock) -> None:
        self._store = store
        self._roles = roles
        self._data_keys = data_keys
        self._clock = clock

    async def enter(self, node_id: str, request: EnterRequest) -> EnterAnswer:
        """Let a node be a manager at these addresses, or say how far that is.

        `start` means: start etcd without data beside these members. A node that has data and hears it holds those of a
        member that was removed. Raises Unavailable when this manager does not lead, PermissionDenied when the node is to be no
        manager, FailedPrecondition when there can be no more managers.
        """
        if not self._store.is_leader:
            raise no_leader()
        node = await self._note_addresses(node_id, request)
        if self._roles.presences.note(node_id, self._clock.monotonic_s(), has_data=request.has_data):
            self._roles.poke()
        if node.spec.role != "manager":
            return EnterAnswer(phase="wait", message="this node is being demoted")
        members = (await self._roles.control.read()).members
        member = member_of(node, members)
        if member is None:
            if reason := self._roles.refused.get(node_id):
                raise FailedPrecondition(reason, grpc_code="FailedPrecondition")
            return EnterAnswer(phase="wait", message=self._roles.progress.get(node_id, NOT_LOOKED_YET))
        if not member.is_started:
            return self._start(node, member, members)
        if request.has_data and not member.is_learner:
            return EnterAnswer(phase="member")
        message = "catching up with the other managers" if request.has_data else "waiting for its former member to be removed"
        return EnterAnswer(phase="wait", message=self._roles.progress.get(node_id, message))

    async def leave(self, node_id: str) -> None:
        """Demote a node; returns when the cluster has removed its member.

        Raises FailedPrecondition when the cluster cannot do without it, NotFound, and Unavailable when this takes too long or this
        manager stops leading: asking again (whoever leads) goes on.
        """
        leadership = await self._store.wait_leader() if self._store.is_leader else None
        if leadership is None:
            raise no_leader()
        unreachable = self._roles.unreachable_managers()
        await self._store.update(lambda tx: demote(tx, node_id, unreachable))
        self._roles.poke()
        await wait_first(self._wait_demoted(node_id), leadership.wait_lost(), self._clock.sleep(LEAVE_LIMIT_S))
        if not self._is_demoted(node_id):
            reason = self._roles.progress.get(node_id, "another manager leads now")
            raise Unavailable(f"the node is not removed from the managers yet: {reason}; try again")

    async def _note_addresses(self, node_id: str, request: EnterRequest) -> Node:
        node = _manager(self._store.view.nodes.get(node_id), node_id)
        if _with_addresses(node, request) == node:
            return node

        def note(tx: Transaction) -> Node:
            present = _manager(tx.nodes.get(node_id), node_id)
            return tx.update(_with_addresses(present, request))

        return await self._store.update(note)

    def _start(self, node: Node, member: Member, members: tuple[Member, ...]) -> EnterAnswer:
        self._roles.presences.note_told_to_start(node.id, self._clock.monotonic_s())
        others = {m.name or f"{m.id:x}": m.peer_urls[0] for m in members if m.id != member.id and m.peer_urls}
        return EnterAnswer(
            phase="start",
            message="announced to the other managers",
            etcd_member_id=member.id,
            other_members=others,
            data_keys=self._data_keys,
            unlock_key=self._store.view.cluster.unlock_key,
        )

    async def _wait_demoted(self, node_id: str) -> None:
        with self._store.watch(Node) as subscription:
            while not self._is_demoted(node_id):
                await subscription.wait()

    def _is_demoted(self, node_id: str) -> bool:
        node = self._store.view.nodes.get(node_id)
        return node is None or node.role != "manager"


def demote(tx: Transaction, node_id: str, unreachable: frozenset[str]) -> None:
    """Store that a node shall be a worker. Raises NotFound, and FailedPrecondition as `refuse_demotion`."""
    node = tx.nodes.must_get(node_id)
    if node.spec.role == "manager":
        refuse_demotion(tx.nodes, node, unreachable)
        tx.update(msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, role="worker")))


def _manager(node: Node | None, node_id: str) -> Node:
    if node is None or node.role != "manager":
        raise PermissionDenied(f"node {node_id} is not a manager of this cluster")
    return node


def _with_addresses(node: Node, request: EnterRequest) -> Node:
    manager = node.manager if node.manager is not None else ManagerStatus()
    manager = msgspec.structs.replace(manager, address=request.address, etcd_peer_url=request.etcd_peer_url)
    return msgspec.structs.replace(node, manager=manager)
