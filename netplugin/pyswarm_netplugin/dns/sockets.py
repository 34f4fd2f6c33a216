"""Opens the sockets that a sandbox's resolver talks to, inside the sandbox's network namespace.

The namespace lives on as long as one of them is open. They listen on port 5353, to which the sandbox's nftables rules send what
goes to 127.0.0.11:53, so that an application can still bind port 53 on every address.
"""

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

LISTEN_ADDRESS = "127.0.0.11"
LISTEN_PORT = 5353
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_interface_flags = struct.Struct("16sH14x")
_TCP_BACKLOG = 64


class ListenSockets(NamedTuple):
    """A sandbox's two sockets, and the inode that identifies its namespace."""

    namespace_inode: int
    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        """Close both."""
        self.udp.close()
        self.tcp.close()


def open_in_namespaces(paths: Sequence[str]) -> list[ListenSockets | OSError]:
    """Return, for each path of a network namespace, its sockets or why they could not be opened.

    A thread of its own enters the namespaces and then ends, so that the process itself never leaves the host's.
    """
    results: list[ListenSockets | OSError] = []
    thread = threading.Thread(target=_open_all, args=(paths, results))
    thread.start()
    thread.join()
    return results


def open_in_namespace(path: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Return a socket in a network namespace that never blocks. Raises OSError."""
    results: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter_namespace(descriptor, path)
            finally:
                os.close(descriptor)
            results.append(socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC))
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (result,) = results
    if isinstance(result, OSError):
        raise result
    return result


def namespace_inode(path: str) -> int:
    """Return the inode of a network namespace. Raises OSError."""
    return os.stat(path).st_ino


def _open_all(paths: Sequence[str], results: list[ListenSockets | OSError]) -> None:
    for path in paths:
        try:
            results.append(_open(path))
        except OSError as error:
            results.append(error)


def _open(path: str) -> ListenSockets:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter_namespace(descriptor, path)
        _bring_loopback_up()
        udp = _bound_socket(socket.SOCK_DGRAM)
        try:
            tcp = _bound_socket(socket.SOCK_STREAM)
        except OSError:
            udp.close()
            raise
        return ListenSockets(os.fstat(descriptor).st_ino, udp, tcp)
    finally:
        os.close(descriptor)


def _enter_namespace(descriptor: int, path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _bring_loopback_up() -> None:
    """Bring `lo` up, which gives it 127.0.0.0/8.

    A socket bound before that (with IP_FREEBIND) would receive, but send its answers from 127.0.0.1.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        name, flags = _interface_flags.unpack(fcntl.ioctl(sock, _SIOCGIFFLAGS, _interface_flags.pack(b"lo", 0)))
        if not flags & _IFF_UP:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, _interface_flags.pack(name, flags | _IFF_UP))


def _bound_socket(kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LISTEN_ADDRESS, LISTEN_PORT))
        if kind is socket.SOCK_STREAM:
            sock.listen(_TCP_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
