"""Sockets that keep other programs of the host off published ports: bound, never read. Blocking; one thread at a time.

Packets to a published port are led away before any socket could see them; without the reservation another program could believe
that it serves the port.
"""

import socket
from collections.abc import Iterable

from pyswarm_netplugin.published_ports.records import PublishedPort

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Reservations:
    """The ports that are reserved, in the network namespace of the threads that reserve them."""

    def __init__(self) -> None:
        self._sockets: dict[PublishedPort, socket.socket] = {}
        self.publishes_ipv6 = False
        """Whether ports of this host are to be published on its IPv6 addresses."""

    def reserve(self, port: PublishedPort) -> None:
        """Take the port; fine when we have it. Raises OSError when it is not free."""
        kind = _KINDS.get(port.protocol)
        if port in self._sockets or kind is None:  # kernels without SCTP publish none
            return
        sock = socket.socket(socket.AF_INET6 if port.is_ipv6 else socket.AF_INET, kind)
        try:
            if port.is_ipv6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _take(sock, (port.host_address, port.host_port))
        except OSError:
            sock.close()
            raise
        self._sockets[port] = sock

    def holds(self, port: PublishedPort) -> bool:
        """Whether the port is reserved, or can need no reservation."""
        return port in self._sockets or port.protocol not in _KINDS

    def keep_only(self, ports: Iterable[PublishedPort]) -> None:
        """Let go of all others."""
        for port in set(self._sockets) - set(ports):
            self._sockets.pop(port).close()


def _take(sock: socket.socket, address: tuple[str, int]) -> None:
    """Bind, so that nobody else can. Connections of a former server, which linger for a minute, do not count."""
    if sock.type != socket.SOCK_STREAM:
        sock.bind(address)
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.listen(0)  # others could take what was bound with reuse, unless it listens or did
    sock.shutdown(socket.SHUT_RD)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
