"""SCTP through published ports and virtual IPs; for kernels that have it, so only the machine of scripts/test-machine runs this."""

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mesh_hosts import INGRESS, TASK_PORT, ingress
from overlay_hosts import TIMEOUT_S, Machine, in_namespace, machines, request, view

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import MeshPort
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.published_ports.records import PortRequest

pytestmark = pytest.mark.kernel

TASKS = ("10.0.0.5", "10.0.0.6")
ADDRESSES = ("10.0.1.5", "10.0.1.6")
HOST_PORT = 9000


def sctp_socket() -> socket.socket:
    """Return a socket of the calling thread's namespace, as for TCP."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    sock.settimeout(TIMEOUT_S * 4)
    return sock


@contextlib.contextmanager
def server(netns: str, name: str) -> Iterator[None]:
    """Answer each association with the server's name and the address of who asks."""
    listening = in_namespace(netns, sctp_socket)
    listening.bind(("0.0.0.0", TASK_PORT))
    listening.listen()
    listening.settimeout(0.2)
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            with contextlib.suppress(TimeoutError):
                connection, (peer, _) = listening.accept()
                with connection:
                    connection.settimeout(TIMEOUT_S * 4)
                    connection.recv(16)
                    connection.sendall(f"{name} {peer}".encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        listening.close()


def ask(netns: str, address: str, port: int) -> tuple[str, str]:
    """Return who answered, and as whom it saw us. Raises OSError."""

    def call() -> tuple[str, str]:
        with sctp_socket() as connection:
            connection.connect((address, port))
            connection.sendall(b"x")
            name, _, peer = connection.recv(100).decode().partition(" ")
            return name, peer

    return in_namespace(netns, call)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, 3) as made:
        yield made


@pytest.fixture
async def drivers(hosts: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    """Two hosts with a task each, on the ingress network and on another; the first publishes a port of its own."""
    started = [host.driver() for host in hosts[:2]]
    names = ("near", "far")
    mesh_places = {name: (address, host) for name, address, host in zip(names, TASKS, hosts, strict=False)}
    places = {name: (address, host) for name, address, host in zip(names, ADDRESSES, hosts, strict=False)}
    port = MeshPort(protocol="sctp", published_port=90, target_port=TASK_PORT)
    views = {INGRESS: ingress(hosts[:2], mesh_places, TASKS, ports=(port,)), "net-a": view(places, backends=ADDRESSES)}
    own_port = PortRequest(protocol="sctp", container_port=TASK_PORT, first_host_port=HOST_PORT, last_host_port=HOST_PORT)
    for driver, name, own, address in zip(started, names, ADDRESSES, TASKS, strict=True):
        await driver.start()
        await driver.apply_views(views)
        on_ingress = NetworkAttachment(network_id=INGRESS, address=f"{address}/24")
        attachments = (*request(name, own).attachments, on_ingress)
        ports = (own_port,) if name == "near" else ()
        await driver.attach(SandboxRequest(id=name, hostname=name, attachments=attachments, ports=ports))
    yield started
    for driver in started:
        await driver.teardown()


@pytest.fixture
def servers(hosts: list[Machine], drivers: list[NetworkDriver]) -> Iterator[None]:
    with server(hosts[0].sandbox("near"), "near"), server(hosts[1].sandbox("far"), "far"):
        yield


def test_ports_and_virtual_ips_lead_to_every_task(hosts: list[Machine], servers: None) -> None:
    client = hosts[2]
    for host in hosts[:2]:
        answers = Counter(ask(client.netns, host.address, 90) for _ in range(4))
        assert answers == {("near", client.address): 2, ("far", client.address): 2}
    assert ask(client.netns, hosts[0].address, HOST_PORT) == ("near", client.address)
    answers = Counter(ask(hosts[0].sandbox("near"), "10.0.1.2", TASK_PORT)[0] for _ in range(4))
    assert answers == {"near": 2, "far": 2}
