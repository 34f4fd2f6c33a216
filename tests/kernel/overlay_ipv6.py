"""What the kernel tests of overlays with IPv6, several subnets and other sizes share: drivers, views, dual-stack servers."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
from overlay_hosts import TIMEOUT_S, Machine, in_namespace, run

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest

NEAR, FAR, VIRTUAL_IP = "10.0.1.5", "10.0.1.6", "10.0.1.2"
IPV6_SUBNET = "fd12:3456:789a:1::/64"
NEAR6, FAR6, VIRTUAL_IP6 = (f"fd12:3456:789a:1::a00:10{number}" for number in (5, 6, 2))


@contextlib.asynccontextmanager
async def running(hosts: Sequence[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    """Start a driver on each host; they leave nothing behind."""
    made = [host.driver() for host in hosts]
    try:
        for driver in made:
            await driver.start()
        yield made
    finally:
        for driver in made:
            await driver.teardown()


def network(places: dict[str, tuple[str, Machine]], backends: tuple[str, ...] = (), **changes: object) -> NetworkView:
    """Return a view of 10.0.1.0/24 with these tasks (address, with prefix length or /24, and host) and `web` on 10.0.1.2."""
    plain = NetworkView(
        network_id="net-a",
        name="a",
        version=1,
        vni=4097,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        endpoints={
            task: Endpoint(address=with_prefix(address), data_path_address=machine.address, name=f"web.1.{task}")
            for task, (address, machine) in places.items()
        },
        services={"s1": ServiceEndpoints(names=("web",), virtual_ip=VIRTUAL_IP, backends=backends)},
    )
    return msgspec.structs.replace(plain, **changes)


def with_prefix(address: str) -> str:
    """Return an address with its prefix length, 24 where it has none."""
    return address if "/" in address else f"{address}/24"


def ask_for(task: str, *addresses: str, network_ids: Sequence[str] = ("net-a",), macs: Sequence[str] = ("", "")) -> SandboxRequest:
    """Return a request for a sandbox with an address on each network."""
    attachments = tuple(
        NetworkAttachment(network_id=network_id, address=with_prefix(address), mac=mac)
        for address, network_id, mac in zip(addresses, network_ids, macs, strict=False)
    )
    return SandboxRequest(id=task, hostname=task, attachments=attachments)


def ping(netns: str, address: str, *options: str) -> bool:
    """Whether an echo comes back."""
    command = ["nsenter", f"--net={netns}", "busybox", "ping", "-c", "1", "-W", "1", *options, address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def inside(netns: str, *command: str) -> str:
    """Run a command in a namespace and return what it prints."""
    return run("nsenter", f"--net={netns}", *command)


class Answerer:
    """Answers on IPv4 and IPv6, TCP and UDP, with its name, the address of who asks and the number of bytes that it got."""

    def __init__(self, netns: str, name: str, port: int = 8080) -> None:
        self._name = name
        self._stream = in_namespace(netns, lambda: socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True))
        self._datagram = in_namespace(netns, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        self._datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._datagram.bind(("::", port))
        self._threads = [threading.Thread(target=target) for target in (self._serve_stream, self._serve_datagrams)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Answerer":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._stream, self._datagram):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._stream.close()
        self._datagram.close()

    def _answer(self, peer: str, size: int) -> bytes:
        return f"{self._name} {peer.removeprefix('::ffff:')} {size}".encode()

    def _serve_stream(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self._stream.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(TIMEOUT_S)
                    size = 0
                    while data := connection.recv(1 << 20):
                        size += len(data)
                    connection.sendall(self._answer(peer[0], size))

    def _serve_datagrams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = self._datagram.recvfrom(65536)
                if not data:
                    return
                self._datagram.sendto(self._answer(sender[0], len(data)), sender)


def tell(
    netns: str, address: str, payload: bytes = b"x", *, port: int = 8080, timeout_s: float = TIMEOUT_S
) -> tuple[str, str, int]:
    """Send a payload by TCP; return who answered, as whom it saw us, and how much it got. Raises OSError."""

    def call() -> tuple[str, str, int]:
        with socket.create_connection((address, port), timeout_s) as connection:
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)
            name, peer, size = connection.recv(200).decode().split()
            return name, peer, int(size)

    return in_namespace(netns, call)


@contextlib.contextmanager
def datagrams(netns: str, address: str, port: int = 8080) -> Iterator[socket.socket]:
    """Yield a UDP socket of a namespace, connected."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with in_namespace(netns, lambda: socket.socket(family, socket.SOCK_DGRAM)) as client:
        client.settimeout(TIMEOUT_S)
        client.connect((address, port))
        yield client
