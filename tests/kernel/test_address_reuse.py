"""An address of a task that has ended is given to another, on another host, within moments; and containers that ask themselves."""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mesh_hosts import TASK_PORT, apply, ingress, task_request
from overlay_hosts import Machine, Server, ask, in_namespace, machines, request, run, udp_client, view

from pyswarm_common.wire import MeshPort
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

OLD, OTHER = "10.0.0.6", "10.0.0.7"
PORTS = (
    MeshPort(published_port=80, target_port=TASK_PORT),
    MeshPort(protocol="udp", published_port=80, target_port=TASK_PORT),
)
LATER_PORTS = tuple(MeshPort(protocol=p.protocol, published_port=81, target_port=TASK_PORT) for p in PORTS)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, 3) as made:
        yield made


@pytest.fixture
async def drivers(hosts: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    """The task `old` on the second of two hosts, behind a port of the mesh; the third host is a client."""
    made = [host.driver() for host in hosts[:2]]
    for driver in made:
        await driver.start()
    await apply(made, ingress(hosts[:2], {"old": (OLD, hosts[1])}, ports=PORTS))
    await made[1].attach(task_request("old", OLD))
    yield made
    for driver in made:
        await driver.teardown()


async def moved(hosts: list[Machine], drivers: list[NetworkDriver], ports: tuple[MeshPort, ...] = PORTS) -> None:
    """End `old` without a word, and give its address to `new`, on the first host, in one step."""
    await drivers[1].detach("old")
    await apply(drivers, ingress(hosts[:2], {"new": (OLD, hosts[0])}, ports=ports, version=2))
    await drivers[0].attach(task_request("new", OLD))


def stream(client: Machine, host: Machine) -> socket.socket:
    """Return an open connection to the port."""
    return in_namespace(client.netns, lambda: socket.create_connection((host.address, 80), 3))


async def test_connections_to_the_one_that_vanished_are_reset_and_others_meet_the_new_one(
    hosts: list[Machine], drivers: list[NetworkDriver]
) -> None:
    client = hosts[2]
    with contextlib.ExitStack() as stack:
        with in_namespace(hosts[1].sandbox("old"), lambda: socket.create_server(("0.0.0.0", TASK_PORT))):
            streams = [stack.enter_context(stream(client, host)) for host in hosts[:2]]
            run("nsenter", f"--net={hosts[1].sandbox('old')}", "ip", "link", "set", "eth0", "down")
        await moved(hosts, drivers)
        with Server(hosts[0].sandbox("new"), "new", TASK_PORT):
            for connection in streams:
                connection.sendall(f"{0:<16}".encode())
                with pytest.raises(ConnectionResetError):
                    connection.recv(100)
            for host in hosts[:2]:
                assert ask(client.netns, host.address, 80) == ("new", client.address)


async def test_datagrams_follow_to_the_new_one(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    with contextlib.ExitStack() as stack:
        datagrams = [stack.enter_context(udp_client(hosts[2].netns, host.address, 80)) for host in hosts[:2]]
        with Server(hosts[1].sandbox("old"), "old", TASK_PORT):
            for sock in datagrams:
                sock.send(b"x")
                assert sock.recv(100).split()[0] == b"old"
        await moved(hosts, drivers)
        with Server(hosts[0].sandbox("new"), "new", TASK_PORT):
            for sock in datagrams:
                sock.send(b"x")
                assert sock.recv(100).split() == [b"new", hosts[2].address.encode()]


async def test_what_was_meant_for_another_service_does_not_reach_the_new_one(
    hosts: list[Machine], drivers: list[NetworkDriver]
) -> None:
    with Server(hosts[1].sandbox("old"), "old", TASK_PORT):
        datagrams = [udp_client(hosts[2].netns, host.address, 80) for host in hosts[:2]]
        for sock in datagrams:
            sock.send(b"x")
            assert sock.recv(100).split()[0] == b"old"
    await moved(hosts, drivers, LATER_PORTS)
    with Server(hosts[0].sandbox("new"), "new", TASK_PORT):
        for sock in datagrams:
            with sock:
                sock.send(b"x")
                with pytest.raises(ConnectionRefusedError):
                    sock.recv(100)


async def test_a_container_reaches_itself_by_its_own_virtual_ip(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    await drivers[0].apply_views({"net-a": view({"alone": ("10.0.1.5", hosts[0])}, ("10.0.1.5",))})
    await drivers[0].attach(request("alone", "10.0.1.5"))
    with Server(hosts[0].sandbox("alone"), "alone"):
        assert ask(hosts[0].sandbox("alone"), "10.0.1.2") == ("alone", "10.0.1.5")
        with udp_client(hosts[0].sandbox("alone"), "10.0.1.2") as client:
            client.send(b"x")
            assert client.recv(100).split()[0] == b"alone"


async def test_a_container_reaches_itself_by_its_own_published_port_on_every_host(
    hosts: list[Machine], drivers: list[NetworkDriver]
) -> None:
    inside = hosts[1].sandbox("old")
    with Server(inside, "old", TASK_PORT):
        for host in hosts[:2]:
            assert ask(inside, host.address, 80)[0] == "old"
            with udp_client(inside, host.address, 80) as client:
                client.send(b"x")
                assert client.recv(100).split()[0] == b"old"
