"""Hosts for the network driver's tests: namespaces joined by a bridge, each with a driver of its own, and servers in sandboxes."""

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.linux import LinuxKernel
from pyswarm_netplugin.kernel.namespaces import enter
from pyswarm_netplugin.name_service import DNS

T = TypeVar("T")
TAG = f"t{os.getpid() % 46656:04x}"[-5:]
PORT = 4789
TIMEOUT_S = 5.0


def run(*command: str) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


def eventually(is_so: Callable[[], bool]) -> None:
    """Wait for what the kernel does in its own time, without an event: the end of namespaces. Fails after five seconds."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s, "the kernel did not get there"
        time.sleep(0.02)


def in_namespace(path: str | Path, function: Callable[[], T]) -> T:
    """Call a function on a thread that is in the network namespace."""

    def call() -> T:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            enter(descriptor)
        finally:
            os.close(descriptor)
        return function()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()


class Machine:
    """One host: a namespace with an address on the underlay, folders, and drivers in it."""

    def __init__(self, name: str, address: str, directory: Path) -> None:
        self.name = name
        self.address = address
        self.directory = directory
        self.netns = f"/run/netns/{name}"

    def driver(self, dns: DNS | None = None, tag: str = TAG) -> NetworkDriver:
        """Return a driver of this host that was not started; again for the next life of its daemon."""
        return NetworkDriver(
            instance_tag=tag,
            data_dir=self.directory / tag / "data",
            runtime_dir=self.directory / tag / "run",
            data_path_address=self.address,
            node_id=self.name,
            dns=dns or FakeDNS(),
            make_kernel=lambda: self.kernel(tag),
        )

    def kernel(self, tag: str = TAG) -> LinuxKernel:
        """Return the kernel as this host's daemon sees it, and take the calling thread there."""
        with open(self.netns) as file:
            enter(file.fileno())
        return LinuxKernel(tag, self.directory / tag / "run/netns")

    def sandbox(self, sandbox_id: str, tag: str = TAG) -> str:
        """Return the path of a sandbox's namespace."""
        return str(self.directory / tag / f"run/netns/s-{sandbox_id}")

    def overlay(self, network_id: str, tag: str = TAG) -> str:
        """Return the path of an overlay's namespace."""
        return str(self.directory / tag / f"run/netns/o-{network_id}")

    def listing(self) -> str:
        """Return the host's links, addresses, routes, tables and the files below its runtime folder."""
        files = sorted(str(path) for path in self.directory.rglob("*") if path.is_file())
        shown = [run("ip", "-n", self.name, "-brief", what) for what in ("link", "route")]
        return "\n".join([*shown, run("ip", "netns", "exec", self.name, "nft", "list", "ruleset"), *files])


@contextlib.contextmanager
def machines(directory: Path, count: int = 2, *, mtu_bytes: int = 1500) -> Iterator[list[Machine]]:
    """Make hosts 192.0.2.1 … on one underlay."""
    switch = f"{TAG}-{os.urandom(2).hex()}"
    names = [f"{switch}-{number}" for number in range(1, count + 1)]
    made: list[str] = []
    try:
        for name in [switch, *names]:
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", switch, "link", "add", "br0", "mtu", str(mtu_bytes), "type", "bridge")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        run("ip", "netns", "exec", switch, "sh", "-c", "echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables || true")
        for number, name in enumerate(names, 1):
            mtu, port = ["mtu", str(mtu_bytes)], f"h{number}"
            run("ip", "-n", switch, "link", "add", port, *mtu, "type", "veth", "peer", "name", "eth0", *mtu, "netns", name)
            run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "address", "add", f"192.0.2.{number}/24", "dev", "eth0")
        folders = [directory / f"host{number}" for number in range(1, count + 1)]
        yield [
            Machine(name, f"192.0.2.{number}", folder) for number, (name, folder) in enumerate(zip(names, folders, strict=True), 1)
        ]
    finally:
        for folder in directory.glob("host*/*/run/netns"):
            if folder.is_mount():  # a test of the kernel's side alone has no driver to take it down
                run("umount", "--recursive", str(folder))
        for name in made:
            run("ip", "netns", "delete", name)


def view(
    places: dict[str, tuple[str, Machine]],
    backends: tuple[str, ...] = (),
    *,
    version: int = 1,
    network_id: str = "net-a",
    vni: int = 4097,
    internal: bool = False,
) -> NetworkView:
    """Return a view of 10.0.1.0/24: tasks with their addresses and hosts, and the service `web` on 10.0.1.2 with these backends."""
    endpoints = {
        task: Endpoint(address=f"{address}/24", data_path_address=machine.address, name=f"web.1.{task}")
        for task, (address, machine) in places.items()
    }
    return NetworkView(
        network_id=network_id,
        name="a",
        version=version,
        vni=vni,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        internal=internal,
        endpoints=endpoints,
        services={"s1": ServiceEndpoints(names=("web",), virtual_ip="10.0.1.2", backends=backends)},
    )


def request(task: str, address: str = "", network_id: str = "net-a") -> SandboxRequest:
    """Return a request for a sandbox with this address, or without networks."""
    attachments = (NetworkAttachment(network_id=network_id, address=f"{address}/24"),) if address else ()
    return SandboxRequest(id=task, hostname=task, attachments=attachments)


class Server:
    """Answers in a namespace, over TCP and UDP, with its own name and the address of who asks."""

    def __init__(self, netns: str, name: str, port: int = 8080) -> None:
        self._name = name
        self._stream = in_namespace(netns, lambda: socket.create_server(("0.0.0.0", port)))
        self._datagram = in_namespace(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._datagram.bind(("0.0.0.0", port))
        self._threads = [threading.Thread(target=target) for target in (self._serve_stream, self._serve_datagrams)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Server":
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
                connection, (peer, _) = self._stream.accept()
                with connection:
                    connection.settimeout(TIMEOUT_S)
                    length = int(connection.recv(16).strip() or b"0")
                    while length > 0 and (data := connection.recv(65536)):
                        length -= len(data)
                    connection.sendall(f"{self._name} {peer}".encode())

    def _serve_datagrams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = self._datagram.recvfrom(2048)
                if not data:
                    return
                self._datagram.sendto(f"{self._name} {sender[0]}".encode(), sender)


def ask(netns: str, address: str, port: int = 8080, *, payload_bytes: int = 0, timeout_s: float = TIMEOUT_S) -> tuple[str, str]:
    """Connect by TCP from a namespace and return who answered, and as whom it saw us. Raises OSError."""

    def call() -> tuple[str, str]:
        with socket.create_connection((address, port), timeout_s) as connection:
            connection.sendall(f"{payload_bytes:<16}".encode() + b"x" * payload_bytes)
            name, _, peer = connection.recv(100).decode().partition(" ")
            return name, peer

    return in_namespace(netns, call)


def udp_client(netns: str, address: str, port: int = 8080) -> socket.socket:
    """Return a UDP socket of a namespace, connected."""
    client = in_namespace(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.settimeout(TIMEOUT_S)
    client.connect((address, port))
    return client


class Sniffer:
    """Sees all packets of a host's underlay interface since it was made."""

    def __init__(self, machine: Machine) -> None:
        every = socket.htons(0x0003)
        self._socket = in_namespace(machine.netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every))
        self._socket.bind(("eth0", 0x0003))

    def __enter__(self) -> "Sniffer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def tunnelled(self) -> list[tuple[int, bytes]]:
        """Return the VNI and the inner frame of each VXLAN packet seen so far."""
        found = []
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self._socket.recv(65536)
                if frame[12:14] == b"\x08\x00" and frame[23] == 17 and struct.unpack_from("!H", frame, 36)[0] == PORT:
                    found.append((int.from_bytes(frame[46:49], "big"), frame[50:]))
        return found
