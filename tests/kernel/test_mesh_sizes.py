"""The routing mesh and packets of full size: the overlay's MTU is smaller than the clients'."""

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mesh_hosts import TASK_PORT, apply, ingress, task_request
from overlay_hosts import TIMEOUT_S, Machine, in_namespace, machines, run

from pyswarm_common.wire import MeshPort
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

NEAR, FAR = "10.0.0.5", "10.0.0.6"
DOWNLOAD_BYTES = 10_000_000
LARGEST_DATAGRAM = 1472
"""With its headers 1500 bytes, the clients' MTU."""
PORTS = (
    MeshPort(published_port=80, target_port=TASK_PORT),
    MeshPort(protocol="udp", published_port=80, target_port=TASK_PORT),
)


class BulkServer:
    """Takes what comes until the end of it, then sends as many bytes as asked for; sends datagrams back as long as they came."""

    def __init__(self, netns: str) -> None:
        self._stream = in_namespace(netns, lambda: socket.create_server(("0.0.0.0", TASK_PORT)))
        self._datagram = in_namespace(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._datagram.bind(("0.0.0.0", TASK_PORT))
        self._threads = [threading.Thread(target=target) for target in (self._serve_stream, self._serve_datagrams)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "BulkServer":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._stream, self._datagram):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._stream.close()
        self._datagram.close()

    def _serve_stream(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._stream.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(TIMEOUT_S)
                    wanted = int(connection.recv(16))
                    received = 0
                    while data := connection.recv(1 << 16):
                        received += len(data)
                    connection.sendall(f"{received:<16}".encode() + bytes(wanted))

    def _serve_datagrams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = self._datagram.recvfrom(65536)
                if not data:
                    return
                self._datagram.sendto(bytes(int(data[:16])), sender)


def carry(netns: str, address: str, *, up_bytes: int = 0, down_bytes: int = 0) -> tuple[int, int]:
    """Send and receive so much over one connection; returns how much arrived at the server, and here. Raises OSError."""

    def call() -> tuple[int, int]:
        with socket.create_connection((address, 80), TIMEOUT_S) as connection:
            connection.sendall(f"{down_bytes:<16}".encode() + bytes(up_bytes))
            connection.shutdown(socket.SHUT_WR)
            received = bytearray()
            while data := connection.recv(1 << 16):
                received += data
            return int(received[:16]), len(received) - 16

    return in_namespace(netns, call)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, 3) as made:
        yield made


@pytest.fixture
async def hosts(three: list[Machine]) -> AsyncIterator[list[Machine]]:
    """Two hosts with a task each, behind one port."""
    made = three[:2]
    drivers: list[NetworkDriver] = [host.driver() for host in made]
    for driver in drivers:
        await driver.start()
    await apply(drivers, ingress(made, {"near": (NEAR, made[0]), "far": (FAR, made[1])}, ports=PORTS))
    await drivers[0].attach(task_request("near", NEAR))
    await drivers[1].attach(task_request("far", FAR))
    with BulkServer(made[0].sandbox("near")), BulkServer(made[1].sandbox("far")):
        yield made
    for driver in drivers:
        await driver.teardown()


@pytest.fixture
def client(three: list[Machine]) -> Machine:
    """Elsewhere."""
    return three[2]


def test_a_client_that_never_hears_that_packets_are_too_large_is_served(hosts: list[Machine], client: Machine) -> None:
    """As behind many a firewall: the size must be agreed upon at the connection's beginning."""
    for line in (
        "add table ip deaf",
        "add chain ip deaf input { type filter hook input priority 0; }",
        "add rule ip deaf input icmp type destination-unreachable drop",
    ):
        run("ip", "netns", "exec", client.name, "nft", line)
    for host in hosts:
        for _ in range(2):
            assert carry(client.netns, host.address, up_bytes=1_000_000) == (1_000_000, 0)
            assert carry(client.netns, host.address, down_bytes=1_000_000) == (0, 1_000_000)


def test_much_is_carried_both_ways(hosts: list[Machine], client: Machine) -> None:
    for host in hosts:
        for _ in range(2):
            assert carry(client.netns, host.address, up_bytes=1_000_000, down_bytes=DOWNLOAD_BYTES) == (1_000_000, DOWNLOAD_BYTES)


def test_much_is_carried_from_the_hosts_own_loopback_and_from_containers(hosts: list[Machine]) -> None:
    for netns, address in (
        (hosts[0].netns, "127.0.0.1"),
        (hosts[0].netns, hosts[0].address),
        (hosts[0].sandbox("near"), hosts[0].address),
        (hosts[0].sandbox("near"), hosts[1].address),
    ):
        for _ in range(2):
            assert carry(netns, address, up_bytes=1_000_000, down_bytes=1_000_000) == (1_000_000, 1_000_000)


def test_datagrams_of_full_size_are_answered_likewise(hosts: list[Machine], client: Machine) -> None:
    """The first one that is too large is refused, with the right size; from then on the client's kernel sends fragments."""
    for host in hosts:
        with in_namespace(client.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect((host.address, 80))
            for _ in range(4):
                sock.send(f"{LARGEST_DATAGRAM}".encode())
                assert len(sock.recv(65536)) == LARGEST_DATAGRAM
            sock.send(f"{LARGEST_DATAGRAM:<{LARGEST_DATAGRAM}}".encode())
            with pytest.raises(OSError, match="Message too long"):
                sock.recv(65536)
            for _ in range(4):
                sock.send(f"{LARGEST_DATAGRAM:<{LARGEST_DATAGRAM}}".encode())
                assert len(sock.recv(65536)) == LARGEST_DATAGRAM
