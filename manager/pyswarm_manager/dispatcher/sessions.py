"""The open sessions: one per node, each a queue of messages that the node port writes to its WebSocket."""

import asyncio
from collections.abc import Iterator

from pyswarm_common.wire import VIEW_ANSWERS_VERSION, Goodbye, ManagerMessage, NodeState
from pyswarm_manager.dispatcher.assignments import Sent


class Session:
    """One agent's connection. A newer session of the same node ends the older one."""

    def __init__(self, session_id: str, node_id: str, view_versions: dict[str, int], *, version: int = 1) -> None:
        self.id = session_id
        self.node_id = node_id
        self.sent = Sent(views=view_versions)
        self.answers_views = self.follows_deltas = version >= VIEW_ANSWERS_VERSION
        """Whether the agent says which views it has applied, when asked, and knows all that deltas may say; older ones do not."""
        self.applied_views: dict[str, int] = {}
        """The versions that it said in this session, by network id."""
        self.has_complete_set = False
        self.state: NodeState | None = None
        """What the node was last told to follow."""
        self.outgoing: asyncio.Queue[ManagerMessage | None] = asyncio.Queue()

    def send(self, message: ManagerMessage) -> None:
        """Queue a message."""
        self.outgoing.put_nowait(message)

    def end(self, reason: str, leader_address: str = "") -> None:
        """Say goodbye, and where the leader is; the node port closes the connection after it."""
        self.outgoing.put_nowait(Goodbye(reason=reason, leader_address=leader_address))
        self.outgoing.put_nowait(None)


class Sessions:
    """All sessions by node."""

    def __init__(self) -> None:
        self._by_node: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_node.values()))

    def get(self, node_id: str) -> Session | None:
        """Return the node's session, if it has one."""
        return self._by_node.get(node_id)

    def open(self, session: Session) -> None:
        """Register a session, ending an older one of the same node."""
        older = self._by_node.get(session.node_id)
        if older is not None:
            older.end("the node opened another session")
        self._by_node[session.node_id] = session

    def close(self, session: Session) -> None:
        """Forget a session that has ended."""
        if self._by_node.get(session.node_id) is session:
            del self._by_node[session.node_id]

    def end_all(self, reason: str, leader_address: str = "") -> None:
        """End every session, as when leadership is lost."""
        for session in list(self._by_node.values()):
            session.end(reason, leader_address)
        self._by_node.clear()
