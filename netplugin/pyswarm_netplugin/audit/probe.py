"""A real packet on the way between two containers: ICMP echoes out of a sandbox's namespace, also in the size of its MTU.

The network namespace's own kernel answers, so it says whether the network works, not whether a program does.
"""

import errno
import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

from pyswarm_common.objects import Record
from pyswarm_netplugin.kernel.namespaces import enter

TIMEOUT_S = 1.0
TRIES = 2
SMALL_BYTES = 84
_IP_MTU_DISCOVER, _PROBE = 10, 3
_HEADERS_BYTES = 28
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


class Echo(Record, frozen=True, kw_only=True):
    """What came of one: `size_bytes` of the whole IP packet, `took_ms` until the answer, `error` "" when there was one."""

    size_bytes: int
    took_ms: float = 0.0
    error: str = ""


def echo_from(netns_path: str, address: str, sizes_bytes: tuple[int, ...]) -> list[Echo]:
    """Send an echo of each size from a network namespace; blocking, on a thread of its own. Raises OSError."""
    with ThreadPoolExecutor(1, thread_name_prefix="pyswarm-probe") as executor:
        return executor.submit(_echoes, netns_path, address, sizes_bytes).result()


def _echoes(netns_path: str, address: str, sizes_bytes: tuple[int, ...]) -> list[Echo]:
    descriptor = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(descriptor)
    finally:
        os.close(descriptor)
    return [_echo(address, size, number) for number, size in enumerate(sizes_bytes, 1)]


def _echo(address: str, size_bytes: int, number: int) -> Echo:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
        sock.connect((address, 0))
        error = ""
        for attempt in range(TRIES):
            identifier = os.getpid() & 0xFFFF
            sequence = number << 8 | attempt
            begun_s = time.perf_counter()
            try:
                sock.send(_request(identifier, sequence, size_bytes - _HEADERS_BYTES))
                _wait_reply(sock, identifier, sequence, begun_s + TIMEOUT_S)
            except OSError as failure:
                error = _words(failure, size_bytes)
                continue
            return Echo(size_bytes=size_bytes, took_ms=round((time.perf_counter() - begun_s) * 1000, 3))
    return Echo(size_bytes=size_bytes, error=error)


def _request(identifier: int, sequence: int, payload_bytes: int) -> bytes:
    payload = bytes(max(payload_bytes, 0))
    head = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identifier, sequence)
    return struct.pack("!BBHHH", _ECHO_REQUEST, 0, _checksum(head + payload), identifier, sequence) + payload


def _wait_reply(sock: socket.socket, identifier: int, sequence: int, deadline_s: float) -> None:
    while True:
        sock.settimeout(max(deadline_s - time.perf_counter(), 0.001))
        packet = sock.recv(65536)
        header = (packet[0] & 15) * 4
        kind, _, _, its_identifier, its_sequence = struct.unpack_from("!BBHHH", packet, header)
        if (kind, its_identifier, its_sequence) == (_ECHO_REPLY, identifier, sequence):
            return


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2])) + (data[-1] << 8 if len(data) % 2 else 0)
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


def _words(error: OSError, size_bytes: int) -> str:
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return f"no answer in {TIMEOUT_S:g} s"
    if error.errno == errno.EMSGSIZE:
        return f"{size_bytes} bytes do not pass unfragmented"
    return error.strerror or str(error)
