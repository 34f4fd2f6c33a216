"""Netlink by hand: messages packed with `struct`, many in one send.

The kernel handles a request inside `send`, and answers an unacknowledged one only when it fails. So a batch needs no
acknowledgements: whatever is readable after the send is an error, and nothing readable means that all went well. That makes
thousands of messages cost one system call for each 48 KiB. Layout of a message: length, type, flags, sequence number, port (16
bytes), a header of the family, then attributes (length, type, value, padded to four bytes). Source: linux/netlink.h.
"""

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

REQUEST = 0x1
ACK = 0x4
DUMP = 0x300
REPLACE = 0x100
EXCLUSIVE = 0x200
CREATE = 0x400

_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_CHUNK_BYTES = 48 * 1024
_RECEIVE_BYTES = 256 * 1024
_TYPE_MASK = 0x3FFF
NESTED = 0x8000
_SOL_NETLINK, _CAP_ACK = 270, 10
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES = 8 * 1024 * 1024


def attribute(type_: int, value: bytes) -> bytes:
    """Return one attribute."""
    length = 4 + len(value)
    return _ATTRIBUTE.pack(length, type_) + value + b"\0" * (-length % 4)


def nested(type_: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(type_ | NESTED, b"".join(attributes))


def u32(type_: int, value: int) -> bytes:
    """Return an attribute with a 32-bit number in the machine's byte order."""
    return struct.pack("=HHI", 8, type_, value)


def be32(type_: int, value: int) -> bytes:
    """Return an attribute with a 32-bit number in network byte order."""
    return struct.pack("=HH", 8, type_) + struct.pack("!I", value)


def u8(type_: int, value: int) -> bytes:
    """Return an attribute with a byte."""
    return struct.pack("=HHBxxx", 5, type_, value)


def text(type_: int, value: str) -> bytes:
    """Return an attribute with a zero-terminated string."""
    return attribute(type_, value.encode() + b"\0")


def message(type_: int, flags: int, body: bytes) -> bytes:
    """Return a message; `body`: the family's header and the attributes. Sequence number 0: one socket asks one thing at once."""
    length = 16 + len(body)
    return _HEADER.pack(length, type_, flags | REQUEST, 0, 0) + body + b"\0" * (-length % 4)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the attributes by type (without the flag for nesting)."""
    found: dict[int, bytes] = {}
    for type_, value in attribute_list(data, offset):
        found[type_] = value
    return found


def attribute_list(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the attributes in order, for lists in which one type repeats."""
    end = len(data)
    while offset + 4 <= end:
        length, type_ = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield type_ & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def string(value: bytes) -> str:
    """Return a zero-terminated string's text."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


class NetlinkSocket:
    """A netlink socket of the calling thread's network namespace, and of that for good. Use it as a context manager."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)

    def __enter__(self) -> "NetlinkSocket":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, messages: Sequence[bytes], tolerated: Iterable[int] = ()) -> None:
        """Send the messages, in as few sends as possible. Errors in `tolerated` (errno) are no errors.

        Messages after a failed one are carried out all the same. Raises OSError for the first that failed.
        """
        first_error: OSError | None = None
        ignored = frozenset(tolerated)
        for start, stop in _chunks(messages):
            self._socket.send(b"".join(messages[start:stop]))
            for error in self._errors():
                if error.errno not in ignored and first_error is None:
                    first_error = error
        if first_error is not None:
            raise first_error

    def send_whole(self, messages: Sequence[bytes]) -> None:
        """Send the messages in one send (an nftables transaction). Raises OSError for the first that failed."""
        data = b"".join(messages)
        if len(data) > 128 * 1024:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
        self._socket.send(data)
        for error in self._errors():
            raise error

    def ask(self, request: bytes) -> bytes:
        """Return the body of the one answer to a request. Raises OSError."""
        self._socket.send(request)
        kind, _, payload = next(_split(self._socket.recv(_RECEIVE_BYTES)))
        if kind == _ERROR:
            raise _error(payload)
        return payload

    def dump(self, type_: int, body: bytes) -> list[tuple[int, bytes]]:
        """Return (type, body) of every object that a dump request lists. An interrupted dump is repeated."""
        for _ in range(5):
            found = self._dump_once(type_, body)
            if found is not None:
                return found
        raise OSError("the kernel's list changed each time it was read")

    def _dump_once(self, type_: int, body: bytes) -> list[tuple[int, bytes]] | None:
        self._socket.send(message(type_, DUMP, body))
        found: list[tuple[int, bytes]] = []
        interrupted = False
        while True:
            for kind, flags, payload in _split(self._socket.recv(_RECEIVE_BYTES)):
                if flags & 0x10:
                    interrupted = True
                if kind == _DONE:
                    return None if interrupted else found
                if kind == _ERROR:
                    raise _error(payload)
                found.append((kind, payload))

    def _errors(self) -> list[OSError]:
        errors: list[OSError] = []
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return errors
            errors += [error for kind, _, payload in _split(data) if kind == _ERROR and (error := _error(payload)).errno]


def _error(payload: bytes) -> OSError:
    number = -struct.unpack_from("=i", payload)[0]
    return OSError(number, os.strerror(number))


def _chunks(messages: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    start, size = 0, 0
    for index, raw in enumerate(messages):
        if size and size + len(raw) > _CHUNK_BYTES:
            yield start, index
            start, size = index, 0
        size += len(raw)
    if size:
        yield start, len(messages)


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3
