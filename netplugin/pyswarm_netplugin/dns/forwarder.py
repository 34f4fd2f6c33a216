"""Asks nameservers what the table does not know: the host's, from the host's network namespace, or those that a sandbox has of its
own, from the sandbox's, where alone they may be reached.

A question goes out as it came but under an id and a port of its own, over the transport that it came by, to one nameserver after
the other. Without an answer in time the client gets SERVFAIL before its own resolver gives up. A truncated answer is handed on
as it is: the client then asks over TCP, and so does this.
"""

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from pyswarm_netplugin.dns.event_loop import EventLoop, Timer
from pyswarm_netplugin.dns.framing import DNS_LENGTH, FramedConnection
from pyswarm_netplugin.dns.message import (
    MAX_TCP_BYTES,
    REFUSED,
    SERVFAIL,
    Query,
    encode_empty,
    is_reply_to,
    rcode_of,
    with_id,
)
from pyswarm_netplugin.dns.sockets import open_in_namespace

TRY_TIMEOUT_S = 2.0
MAX_TRIES = 2
"""Tries of one question: below the 5 s after which glibc, musl and busybox ask again."""
MAX_FORWARDS = 1024
MAX_FORWARDS_PER_SANDBOX = 256
DNS_PORT = 53

Reply: TypeAlias = Callable[[bytes], None]
OpenSocket: TypeAlias = Callable[[socket.AddressFamily, socket.SocketKind], socket.socket]
"""Makes a socket that never blocks, in the namespace from which a nameserver is asked."""


class Nameservers:
    """The nameservers of a resolv.conf, read again when the file changes."""

    def __init__(self, resolv_conf: Path, port: int = DNS_PORT) -> None:
        self._path = resolv_conf
        self._port = port
        self._stamp: tuple[int, int, int] | None = None
        self._addresses: tuple[tuple[str, int], ...] = ()

    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Return (address, port) of each nameserver, in order; none when there is no such file."""
        try:
            status = os.stat(self._path)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._addresses = tuple((a, self._port) for a in parse_nameservers(self._path.read_text(errors="replace")))
                self._stamp = stamp
        except OSError:
            self._addresses, self._stamp = (), None
        return self._addresses


def parse_nameservers(text: str) -> list[str]:
    """Return the addresses of the `nameserver` lines."""
    words = (line.split() for line in text.splitlines())
    return [w[1] for w in words if len(w) > 1 and w[0] == "nameserver"]


class Forwarder:
    """The questions that are upstream at the moment."""

    def __init__(
        self, loop: EventLoop, nameservers: Callable[[], tuple[tuple[str, int], ...]], upstream_port: int = DNS_PORT
    ) -> None:
        self._loop = loop
        self._nameservers = nameservers
        self._upstream_port = upstream_port
        self._upstreams: dict[str, tuple[OpenSocket, tuple[tuple[str, int], ...]]] = {}
        self._under_way: set[_Forward] = set()
        self._count_of_sandbox: dict[str, int] = {}
        self.forwarded = 0

    def set_upstreams(self, sandbox_id: str, netns_path: str, addresses: Sequence[str]) -> None:
        """Ask these nameservers for a sandbox, from its namespace; () for the host's again."""
        if addresses:
            servers = tuple((address, self._upstream_port) for address in addresses)
            self._upstreams[sandbox_id] = partial(open_in_namespace, netns_path), servers
        else:
            self._upstreams.pop(sandbox_id, None)

    def forward(self, sandbox_id: str, query: Query, packet: bytes, reply: Reply, *, over_tcp: bool) -> None:
        """Ask upstream and call `reply` once with the answer, SERVFAIL when there is none."""
        count = self._count_of_sandbox.get(sandbox_id, 0)
        open_socket, servers = self._upstreams.get(sandbox_id) or (_open_here, self._nameservers())
        if not servers or len(self._under_way) >= MAX_FORWARDS or count >= MAX_FORWARDS_PER_SANDBOX:
            reply(encode_empty(query, SERVFAIL))
            return
        self.forwarded += 1
        self._count_of_sandbox[sandbox_id] = count + 1

        def finished(forward: "_Forward", answer: bytes) -> None:
            self._under_way.discard(forward)
            self._count_of_sandbox[sandbox_id] -= 1
            if not self._count_of_sandbox[sandbox_id]:
                del self._count_of_sandbox[sandbox_id]
            reply(answer)

        tries = (servers * MAX_TRIES)[: max(MAX_TRIES, len(servers))]
        forward = _Forward(self._loop, query, packet, tries, finished, open_socket, over_tcp=over_tcp)
        self._under_way.add(forward)
        forward.start()


class _Forward:
    """One question on its way along the nameservers."""

    def __init__(
        self,
        loop: EventLoop,
        query: Query,
        packet: bytes,
        servers: tuple[tuple[str, int], ...],
        finished: Callable[["_Forward", bytes], None],
        open_socket: OpenSocket,
        *,
        over_tcp: bool,
    ) -> None:
        self._loop = loop
        self._query = query
        self._packet = packet
        self._servers = list(servers)
        self._finished = finished
        self._open_socket = open_socket
        self._over_tcp = over_tcp
        self._try_timeout_s = TRY_TIMEOUT_S * MAX_TRIES / max(len(servers), MAX_TRIES)
        self._best = encode_empty(query, SERVFAIL)
        self._id = 0
        self._timer: Timer | None = None
        self._socket: socket.socket | None = None
        self._connection: FramedConnection | None = None

    def start(self) -> None:
        """Ask the next nameserver that can be reached; finish when none is left."""
        while self._servers:
            try:
                self._ask(self._servers.pop(0))
            except OSError:
                self._drop()
            else:
                return
        self._end(self._best)

    def _ask(self, server: tuple[str, int]) -> None:
        family, address = _socket_address(server)
        kind = socket.SOCK_STREAM if self._over_tcp else socket.SOCK_DGRAM
        sock = self._socket = self._open_socket(family, kind)
        self._id = int.from_bytes(os.urandom(2), "big")
        packet = with_id(self._packet, self._id)
        self._timer = self._loop.call_later(self._try_timeout_s, self._try_next)
        if self._over_tcp:
            sock.connect_ex(address)
            self._connection = FramedConnection(
                self._loop,
                sock,
                DNS_LENGTH,
                max_message_bytes=MAX_TCP_BYTES,
                on_message=lambda _, message: self._received(message),
                on_closed=lambda _: self._connection_lost(),
            )
            self._connection.send(packet)
        else:
            sock.connect(address)
            sock.send(packet)
            self._loop.watch(sock.fileno(), self._datagram_ready)

    def _datagram_ready(self) -> None:
        if self._socket is None:
            return
        try:
            packet = self._socket.recv(MAX_TCP_BYTES)
        except BlockingIOError:
            return
        except OSError:  # such as "connection refused": nobody listens there
            self._try_next()
            return
        self._received(packet)

    def _received(self, packet: bytes) -> None:
        if not is_reply_to(self._query, self._id, packet):
            return
        answer = with_id(packet, self._query.id)
        if rcode_of(packet) in (SERVFAIL, REFUSED) and self._servers:
            self._best = answer
            self._try_next()
        else:
            self._end(answer)

    def _connection_lost(self) -> None:
        if self._connection is not None:
            self._connection = None
            self._try_next()

    def _try_next(self) -> None:
        self._drop()
        self.start()

    def _end(self, answer: bytes) -> None:
        self._drop()
        self._finished(self, answer)

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        connection, self._connection = self._connection, None
        sock, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        elif sock is not None:
            self._loop.forget(sock.fileno())
            sock.close()


def _open_here(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _socket_address(server: tuple[str, int]) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    """Return family and address for the socket. Raises OSError for an interface that is not there."""
    host, port = server
    if ":" not in host:
        return socket.AF_INET, (host, port)
    address, _, interface = host.partition("%")
    return socket.AF_INET6, (address, port, 0, socket.if_nametoindex(interface) if interface else 0)
