"""Everything that passes a host's underlay interface, frame by frame."""

import contextlib
import socket
import struct

from overlay_hosts import Machine, in_namespace


class Capture:
    """Holds what passes since it was made; use it as a context manager."""

    def __init__(self, machine: Machine) -> None:
        every = socket.htons(0x0003)
        self._socket = in_namespace(machine.netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: no frame may be missed
        self._socket.bind(("eth0", 0x0003))
        self._socket.setblocking(False)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def frames(self) -> list[bytes]:
        """Return the frames that passed since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(65536))
        return found

    @staticmethod
    def is_ipv4(frame: bytes) -> bool:
        """Whether it is an IPv4 packet."""
        return frame[12:14] == b"\x08\x00"

    @staticmethod
    def protocol(frame: bytes) -> int:
        """Return the number of an IPv4 packet's protocol."""
        return frame[23]

    @staticmethod
    def ports(frame: bytes) -> tuple[int, int]:
        """Return source and destination port of an IPv4 packet."""
        source, destination = struct.unpack_from("!HH", frame, 14 + 4 * (frame[14] & 15))
        return int(source), int(destination)
