"""Messages with their length before them over a stream socket: DNS over TCP (2 bytes) and the control socket (4 bytes)."""

import socket
from collections.abc import Callable
from struct import Struct

from pyswarm_netplugin.dns.event_loop import READ, WRITE, EventLoop

DNS_LENGTH = Struct(">H")
CONTROL_LENGTH = Struct(">I")
_CHUNK_BYTES = 65536
_MAX_UNSENT_BYTES = 1024 * 1024


class FramedConnection:
    """One stream socket, connected or connecting: gives whole messages to `on_message`, says `on_closed` once when it is over.

    Closes itself when the peer does, sends a message above `max_message_bytes`, or does not read what it asked for.
    """

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        length: Struct,
        *,
        max_message_bytes: int,
        on_message: Callable[["FramedConnection", bytes], None],
        on_closed: Callable[["FramedConnection"], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._socket = sock
        self._descriptor = sock.fileno()
        self._length = length
        self._max_message_bytes = max_message_bytes
        self._on_message = on_message
        self._on_closed = on_closed
        self._received = bytearray()
        self._unsent = bytearray()
        self._waits_for_room = False
        self.is_open = True
        loop.watch(self._descriptor, self._ready)

    def send(self, message: bytes) -> None:
        """Send a message, keeping what the socket does not take yet. Nothing happens when the connection is closed."""
        if not self.is_open:
            return
        was_idle = not self._unsent
        self._unsent += self._length.pack(len(message)) + message
        if len(self._unsent) > _MAX_UNSENT_BYTES + self._max_message_bytes:
            self.close()
        elif was_idle:
            self._flush()

    def close(self) -> None:
        """Close the socket and say so, once."""
        if self.is_open:
            self.is_open = False
            self._loop.forget(self._descriptor)
            self._socket.close()
            self._on_closed(self)

    def _ready(self) -> None:
        if self._unsent:
            self._flush()
        try:
            chunk = self._socket.recv(_CHUNK_BYTES) if self.is_open else None
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            self._received += chunk
            self._deliver()
        elif chunk is not None:
            self.close()

    def _deliver(self) -> None:
        received, prefix_bytes = self._received, self._length.size
        while self.is_open and len(received) >= prefix_bytes:
            (size,) = self._length.unpack_from(received)
            if size > self._max_message_bytes:
                self.close()
            if len(received) < prefix_bytes + size:
                return
            message = bytes(memoryview(received)[prefix_bytes : prefix_bytes + size])
            del received[: prefix_bytes + size]
            self._on_message(self, message)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        if bool(self._unsent) is not self._waits_for_room:
            self._waits_for_room = bool(self._unsent)
            self._loop.change(self._descriptor, READ | WRITE if self._waits_for_room else READ)
