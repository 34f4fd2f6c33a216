"""Tunnels to the Engine API of nodes: streams of bytes that end at the node's own socket.

Nobody dials an agent. A manager that wants to reach a node expects a stream, has the leader tell the node's agent (only the
leader has its session), and the agent dials `/streams/{id}` at the node port of the manager that expects it. So the bytes go
straight between the two, whoever leads, and a change of leaders leaves open tunnels as they are.

In the WebSocket each binary message is a piece of the stream, and an empty one says that this direction has ended.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from starlette.websockets import WebSocketDisconnect

from pyswarm_common.clock import Clock, SystemClock
from pyswarm_common.errors import Unavailable
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Node
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import OpenTunnel

DIAL_TIMEOUT_S = 10.0
"""How long an agent may take to dial."""
MAXIMUM_PIECE_BYTES = 64 * 1024
_CLOSED = (WebSocketDisconnect, RuntimeError)
"""What a WebSocket raises once it is closed."""


class ByteSocket(Protocol):
    """A WebSocket, as far as a tunnel needs it."""

    async def receive_bytes(self) -> bytes:
        """Return the next message. Raises when the socket is closed."""
        ...

    async def send_bytes(self, data: bytes) -> None:
        """Send a message. Raises when the socket is closed."""
        ...


class Tunnel:
    """A stream of bytes in both directions to a node's Engine API, once its agent has dialled."""

    def __init__(self, node_id: str) -> None:
        self.id = new_id()
        self.node_id = node_id
        self._socket: ByteSocket | None = None
        self._is_dialled = asyncio.Event()
        self._is_closed = asyncio.Event()
        self._is_at_end = False

    async def carry(self, socket: ByteSocket) -> None:
        """Let the tunnel go through this WebSocket; returns when the tunnel is closed."""
        self._socket = socket
        self._is_dialled.set()
        await self._is_closed.wait()

    async def wait_dialled(self) -> None:
        """Return once the agent has dialled."""
        await self._is_dialled.wait()

    @property
    def is_dialled(self) -> bool:
        """Whether the agent has dialled."""
        return self._is_dialled.is_set()

    async def read(self) -> bytes:
        """Return the next piece from the node, b"" when it has ended the stream or is gone."""
        if self._is_at_end or self._socket is None:
            return b""
        piece = b""
        with suppress(*_CLOSED):
            piece = await self._socket.receive_bytes()
        self._is_at_end = not piece
        return piece

    async def write(self, data: bytes) -> None:
        """Send to the node. Raises Unavailable when it is gone."""
        for start in range(0, len(data), MAXIMUM_PIECE_BYTES):
            await self._send(data[start : start + MAXIMUM_PIECE_BYTES])

    async def end_input(self) -> None:
        """Tell the node that nothing more will be sent. Raises Unavailable when it is gone."""
        await self._send(b"")

    def close(self) -> None:
        """End the tunnel in both directions."""
        self._is_closed.set()

    async def _send(self, piece: bytes) -> None:
        assert self._socket is not None
        try:
            await self._socket.send_bytes(piece)
        except _CLOSED as error:
            raise Unavailable(f"the connection to node {self.node_id} broke") from error


AskLeader = Callable[[str, OpenTunnel], Awaitable[bool]]
"""Has the leader give the message to the node's agent; False when that has no session. Raises Unavailable without a leader."""


class NodeTunnels:
    """The tunnels that this manager expects or holds. By default no agent can be told of one."""

    def __init__(
        self,
        own_node_id: str = "",
        clock: Clock | None = None,
        tell_agent: Callable[[str, OpenTunnel], bool] = lambda _node_id, _message: False,
    ) -> None:
        self.tell_agent = tell_agent
        """Gives the message to a node's agent; False when this manager has no session of it."""
        self._own_node_id = own_node_id
        self._clock = clock or SystemClock()
        self._expected: dict[str, Tunnel] = {}

    async def open(self, node: Node, ask_leader: AskLeader) -> Tunnel:
        """Return a tunnel to the node's Engine API; `close` it. Raises Unavailable when the node cannot be reached."""
        tunnel = Tunnel(node.id)
        self._expected[tunnel.id] = tunnel
        name = node.description.hostname or node.id
        try:
            if not await ask_leader(node.id, OpenTunnel(stream_id=tunnel.id, manager_id=self._own_node_id)):
                raise Unavailable(f"node {name} cannot be reached: its agent has no session with the managers (pyswarm node ls)")
            await wait_first(tunnel.wait_dialled(), self._clock.sleep(DIAL_TIMEOUT_S))
            if not tunnel.is_dialled:
                raise Unavailable(f"node {name} cannot be reached: its agent did not dial this manager in {DIAL_TIMEOUT_S:g} s")
        except BaseException:
            tunnel.close()
            raise
        finally:
            self._expected.pop(tunnel.id, None)
        return tunnel

    def accept(self, stream_id: str, node_id: str) -> Tunnel | None:
        """Return the tunnel that this node was to dial; None when none is expected from it."""
        tunnel = self._expected.get(stream_id)
        return tunnel if tunnel is not None and tunnel.node_id == node_id and not tunnel.is_dialled else None
