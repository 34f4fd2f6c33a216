"""The routing mesh as its clients see it: every host serves, and every task sees the client's real address."""

import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mesh_hosts import TASK_PORT, apply, ingress, task_request
from overlay_hosts import Machine, Server, ask, in_namespace, machines, udp_client

from pyswarm_common.wire import MeshPort
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

NEAR, FAR = "10.0.0.5", "10.0.0.6"
BOTH_PROTOCOLS = (
    MeshPort(published_port=80, target_port=TASK_PORT),
    MeshPort(protocol="udp", published_port=80, target_port=TASK_PORT),
)


class Mesh:
    """Two hosts with a task on each, and a client elsewhere."""

    def __init__(self, hosts: list[Machine], client: Machine, drivers: list[NetworkDriver]) -> None:
        self.hosts, self.client, self.drivers = hosts, client, drivers
        self.tasks = {"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])}
        self.version = 0

    async def serve(self, *backends: str, **changes: object) -> None:
        """Let these tasks be the service's backends."""
        self.version += 1
        view = ingress(self.hosts, self.tasks, backends, version=self.version, **{"ports": BOTH_PROTOCOLS, **changes})  # type: ignore[arg-type]
        await apply(self.drivers, view)

    def sandbox(self, task: str) -> str:
        """Return the path of a task's namespace."""
        return self.tasks[task][1].sandbox(task)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, 3) as made:
        yield made


@pytest.fixture
async def mesh(three: list[Machine]) -> AsyncIterator[Mesh]:
    drivers = [host.driver() for host in three[:2]]
    for driver in drivers:
        await driver.start()
    made = Mesh(three[:2], three[2], drivers)
    await made.serve(NEAR, FAR)
    await drivers[0].attach(task_request("near", NEAR))
    await drivers[1].attach(task_request("far", FAR))
    yield made
    for driver in drivers:
        await driver.teardown()


@pytest.fixture
def servers(mesh: Mesh) -> Iterator[None]:
    with Server(mesh.sandbox("near"), "near", TASK_PORT), Server(mesh.sandbox("far"), "far", TASK_PORT):
        yield


def test_tasks_on_every_host_see_the_clients_own_address(mesh: Mesh, servers: None) -> None:
    for host in mesh.hosts:
        answers = [ask(mesh.client.netns, host.address, 80) for _ in range(10)]
        assert Counter(answers) == {("near", mesh.client.address): 5, ("far", mesh.client.address): 5}


def test_much_data_arrives(mesh: Mesh, servers: None) -> None:
    for host in mesh.hosts:
        for _ in range(2):
            assert ask(mesh.client.netns, host.address, 80, payload_bytes=3_000_000)[1] == mesh.client.address


def test_datagrams_are_answered_from_the_address_they_were_sent_to(mesh: Mesh, servers: None) -> None:
    """By a program that listens on all addresses, and so leaves the choice of its own to the kernel."""
    seen = Counter()
    for host in mesh.hosts:
        for _ in range(4):
            with udp_client(mesh.client.netns, host.address, 80) as client:
                client.send(b"x")
                seen[client.recv(100).decode()] += 1
    assert seen == {f"near {mesh.client.address}": 4, f"far {mesh.client.address}": 4}


def from_port(client: Machine, address: str, source_port: int, port: int = 80) -> socket.socket:
    """Connect from this source port, which other connections may have too."""

    def call() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(3)
        sock.bind((client.address, source_port))
        sock.connect((address, port))
        return sock

    return in_namespace(client.netns, call)


async def test_one_source_port_towards_two_hosts_makes_two_connections(mesh: Mesh, servers: None) -> None:
    await mesh.serve(FAR)
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(from_port(mesh.client, host.address, 40000)) for host in mesh.hosts]
        for connection in both:
            connection.sendall(f"{0:<16}".encode())
        assert [connection.recv(100).decode() for connection in both] == [f"far {mesh.client.address}"] * 2


async def test_two_published_ports_of_one_target_take_the_same_source_port(mesh: Mesh, servers: None) -> None:
    await mesh.serve(FAR, ports=tuple(MeshPort(published_port=port, target_port=TASK_PORT) for port in (80, 81)))
    address = mesh.hosts[0].address
    with from_port(mesh.client, address, 40001, 80) as one, from_port(mesh.client, address, 40001, 81) as two:
        for connection in (one, two):
            connection.sendall(f"{0:<16}".encode())
            assert connection.recv(100).decode() == f"far {mesh.client.address}"


async def test_without_tasks_it_refuses_at_once_on_every_host(mesh: Mesh) -> None:
    await mesh.serve()
    for host in mesh.hosts:
        begin_s = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            ask(mesh.client.netns, host.address, 80)
        for _ in range(20):
            with udp_client(mesh.client.netns, host.address, 80) as client:
                client.send(b"x")
                with pytest.raises(ConnectionRefusedError):
                    client.recv(100)
        assert time.monotonic() - begin_s < 1


async def test_a_task_that_does_not_listen_refuses(mesh: Mesh) -> None:
    for host in mesh.hosts:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                ask(mesh.client.netns, host.address, 80)
            with udp_client(mesh.client.netns, host.address, 80) as client:
                client.send(b"x")
                with pytest.raises(ConnectionRefusedError):
                    client.recv(100)


async def test_a_task_that_leaves_gets_nothing_new_and_keeps_what_it_has(mesh: Mesh, servers: None) -> None:
    await mesh.serve(FAR)
    with in_namespace(mesh.client.netns, lambda: socket.create_connection((mesh.hosts[0].address, 80), 3)) as open_connection:
        with udp_client(mesh.client.netns, mesh.hosts[0].address, 80) as datagrams:
            datagrams.send(b"x")
            assert datagrams.recv(100).split()[0] == b"far"
            await mesh.serve(NEAR)
            datagrams.send(b"x")
            assert datagrams.recv(100).split()[0] == b"near"
        assert {ask(mesh.client.netns, host.address, 80)[0] for host in mesh.hosts for _ in range(4)} == {"near"}
        open_connection.sendall(f"{0:<16}".encode())
        assert open_connection.recv(100).decode() == f"far {mesh.client.address}"


async def test_datagrams_find_the_task_that_comes_after_they_were_refused(mesh: Mesh, servers: None) -> None:
    await mesh.serve()
    with udp_client(mesh.client.netns, mesh.hosts[1].address, 80) as client:
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        await mesh.serve(NEAR)
        client.send(b"x")
        assert client.recv(100).split()[0] == b"near"


async def test_by_source_hash_a_client_always_meets_the_same_task(mesh: Mesh, servers: None) -> None:
    await mesh.serve(NEAR, FAR, balancing="source-hash")
    answers = {ask(mesh.client.netns, host.address, 80) for host in mesh.hosts for _ in range(6)}
    assert len(answers) == 1, "on whichever host it asks"
    assert {address for _, address in answers} == {mesh.client.address}


def test_each_host_reaches_the_service_by_its_loopback_and_by_its_own_address(mesh: Mesh, servers: None) -> None:
    for host in mesh.hosts:
        assert {ask(host.netns, "127.0.0.1", 80)[0] for _ in range(2)} == {"near", "far"}
        assert {ask(host.netns, host.address, 80) for _ in range(2)} == {("near", host.address), ("far", host.address)}
    one, two = mesh.hosts
    assert {ask(one.netns, two.address, 80) for _ in range(2)} == {("near", one.address), ("far", one.address)}


def test_containers_reach_the_service_by_their_own_host_and_by_another(mesh: Mesh, servers: None) -> None:
    inside = mesh.sandbox("near")
    for host in mesh.hosts:
        assert {ask(inside, host.address, 80)[0] for _ in range(4)} == {"near", "far"}


def test_answers_to_others_leave_by_the_way_out(mesh: Mesh, servers: None) -> None:
    with Server(mesh.client.netns, "outside", 9000):
        assert ask(mesh.sandbox("near"), mesh.client.address, 9000) == ("outside", mesh.hosts[0].address)
    assert ask(mesh.sandbox("near"), FAR, TASK_PORT) == ("far", NEAR)
