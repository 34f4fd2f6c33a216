"""Answers the sandboxes: two sockets each, all served by one event loop.

Knows nothing of how the sockets came to be (`sockets`) nor of who feeds the table (`control`).
"""

import socket
from collections.abc import Callable
from functools import partial

from pyswarm_netplugin.dns.answers import answer
from pyswarm_netplugin.dns.event_loop import EventLoop, Timer
from pyswarm_netplugin.dns.forwarder import Forwarder, Reply
from pyswarm_netplugin.dns.framing import DNS_LENGTH, FramedConnection
from pyswarm_netplugin.dns.message import (
    HEADER_BYTES,
    MAX_TCP_BYTES,
    MAX_UDP_BYTES,
    MessageError,
    encode_error,
    parse_query,
)
from pyswarm_netplugin.dns.sockets import ListenSockets
from pyswarm_netplugin.dns.table import Table

TCP_IDLE_TIMEOUT_S = 10.0
MAX_TCP_CONNECTIONS = 64
"""Per sandbox; the oldest goes when there is one more."""
_DATAGRAMS_PER_TURN = 32


class DNSServer:
    """The sandboxes served. `shuffle` puts several addresses of one name into a new order each time."""

    def __init__(self, loop: EventLoop, table: Table, forwarder: Forwarder, shuffle: Callable[[list[bytes]], None]) -> None:
        self._loop = loop
        self._table = table
        self._forwarder = forwarder
        self._shuffle = shuffle
        self._listeners: dict[str, _Listener] = {}
        self.queries = 0

    def inode_of(self, sandbox_id: str) -> int | None:
        """Return the inode of the namespace in which this sandbox is served; None when it is not."""
        listener = self._listeners.get(sandbox_id)
        return listener.sockets.namespace_inode if listener else None

    @property
    def sandbox_ids(self) -> tuple[str, ...]:
        """The sandboxes served."""
        return tuple(self._listeners)

    def add(self, sandbox_id: str, sockets: ListenSockets) -> None:
        """Serve a sandbox on these sockets, which belong to the server from now on; what it had before is closed."""
        self.remove(sandbox_id)
        self._listeners[sandbox_id] = _Listener(self._loop, sockets, partial(self._respond, sandbox_id))

    def remove(self, sandbox_id: str) -> None:
        """Close a sandbox's sockets; nothing happens when it has none."""
        listener = self._listeners.pop(sandbox_id, None)
        if listener is not None:
            listener.close()

    def _respond(self, sandbox_id: str, packet: bytes, reply: Reply, over_tcp: bool) -> None:
        self.queries += 1
        try:
            query = parse_query(packet)
        except MessageError as error:
            if error.rcode is not None and len(packet) >= HEADER_BYTES:
                reply(encode_error(packet, error.rcode))
            return
        max_bytes = MAX_TCP_BYTES if over_tcp else query.max_udp_bytes
        answered = answer(self._table, sandbox_id, query, max_bytes, self._shuffle)
        if answered is not None:
            reply(answered)
        else:
            self._forwarder.forward(sandbox_id, query, packet, reply, over_tcp=over_tcp)


class _Listener:
    """One sandbox's sockets and its TCP connections, the one that was silent longest first."""

    def __init__(self, loop: EventLoop, sockets: ListenSockets, respond: Callable[[bytes, Reply, bool], None]) -> None:
        self._loop = loop
        self._respond = respond
        self._idle_timers: dict[FramedConnection, Timer] = {}
        self.sockets = sockets
        loop.watch(sockets.udp.fileno(), self._datagrams_ready)
        loop.watch(sockets.tcp.fileno(), self._connection_ready)

    def close(self) -> None:
        """Close everything."""
        for connection in list(self._idle_timers):
            connection.close()
        self._loop.forget(self.sockets.udp.fileno())
        self._loop.forget(self.sockets.tcp.fileno())
        self.sockets.close()

    def _datagrams_ready(self) -> None:
        receive, respond, sock = self.sockets.udp.recvfrom, self._respond, self.sockets.udp
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                packet, peer = receive(MAX_UDP_BYTES)
            except OSError:  # nothing more to read, or an ICMP error of an earlier answer
                return
            respond(packet, partial(_send_datagram, sock, peer), False)

    def _connection_ready(self) -> None:
        try:
            sock, _ = self.sockets.tcp.accept()
        except OSError:  # the peer has gone already, or no descriptor is free
            return
        if len(self._idle_timers) >= MAX_TCP_CONNECTIONS:
            next(iter(self._idle_timers)).close()
        connection = FramedConnection(
            self._loop,
            sock,
            DNS_LENGTH,
            max_message_bytes=MAX_TCP_BYTES,
            on_message=self._message_received,
            on_closed=self._connection_closed,
        )
        self._restart_idle_timer(connection)

    def _message_received(self, connection: FramedConnection, message: bytes) -> None:
        self._restart_idle_timer(connection)
        self._respond(message, connection.send, True)

    def _restart_idle_timer(self, connection: FramedConnection) -> None:
        self._connection_closed(connection)
        self._idle_timers[connection] = self._loop.call_later(TCP_IDLE_TIMEOUT_S, connection.close)

    def _connection_closed(self, connection: FramedConnection) -> None:
        timer = self._idle_timers.pop(connection, None)
        if timer is not None:
            timer.cancel()


def _send_datagram(sock: socket.socket, peer: tuple[str, int], packet: bytes) -> None:
    try:
        sock.sendto(packet, peer)
    except OSError:  # the socket was closed meanwhile or its buffer is full: a resolver asks again
        return
