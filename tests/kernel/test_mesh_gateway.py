"""The mesh sandbox of a host through its driver's lives: it comes and goes with the ingress network, and keeps connections."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mesh_hosts import TASK_PORT, apply, gateway_of, ingress, task_request
from overlay_hosts import Machine, Server, ask, eventually, in_namespace, machines, request, run, udp_client

from pyswarm_common.wire import MeshPort
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.published_ports.records import PortRequest

pytestmark = pytest.mark.kernel

FAR = "10.0.0.6"
PORTS = tuple(MeshPort(published_port=port, target_port=TASK_PORT) for port in (80, 81))
UDP = MeshPort(protocol="udp", published_port=80, target_port=TASK_PORT)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path) as made:
        yield made


@pytest.fixture
async def drivers(hosts: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    """A task on the second host, the service on both."""
    made = [host.driver() for host in hosts]
    for driver in made:
        await driver.start()
    await apply(made, ingress(hosts, {"far": (FAR, hosts[1])}, ports=PORTS))
    await made[1].attach(task_request("far", FAR))
    yield made
    for driver in made:
        await driver.teardown()


def connect(host: Machine, address: str, port: int = 80) -> socket.socket:
    """Return an open connection."""
    return in_namespace(host.netns, lambda: socket.create_connection((address, port), 3))


def is_answered(connection: socket.socket) -> bool:
    """Whether the server at the other end still answers."""
    connection.sendall(f"{0:<16}".encode())
    return connection.recv(100).startswith(b"far ")


async def restarted(host: Machine, driver: NetworkDriver) -> NetworkDriver:
    """Let the daemon end and another begin."""
    await driver.close()
    again = host.driver()
    await again.start()
    return again


async def test_a_restart_touches_nothing_and_connections_go_on(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT), connect(hosts[1], hosts[0].address) as connection:
        before = [kernel_view(host) for host in hosts]
        for number, host in enumerate(hosts):
            drivers[number] = await restarted(host, drivers[number])
        assert [kernel_view(host) for host in hosts] == before
        assert is_answered(connection)
        assert ask(hosts[1].netns, hosts[0].address, 80)[0] == "far"


def kernel_view(host: Machine) -> str:
    """Return everything that a restart must not touch, interface numbers and rule handles included."""
    boxes = [host.netns, *(str(path) for path in sorted(host.directory.glob("*/run/netns/s-*")))]
    commands = (
        ["ip", "-oneline", "link"],
        ["ip", "rule"],
        ["ip", "route", "show", "table", "all"],
        ["nft", "--handle", "list", "ruleset"],
    )
    return "\n".join(run("nsenter", f"--net={box}", *command) for box in boxes for command in commands)


async def test_the_agent_does_not_see_it_and_does_not_sweep_it_away(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    assert [driver.sandboxes() for driver in drivers] == [frozenset(), frozenset({"far"})]
    for driver in drivers:
        await driver.sweep({"far"})
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT):
        assert ask(hosts[1].netns, hosts[0].address, 80)[0] == "far"
        with connect(hosts[1], hosts[0].address) as connection:
            await drivers[0].attach(request("other"))
            await drivers[0].detach("other")
            assert is_answered(connection)


async def test_other_ports_change_and_connections_of_the_rest_go_on(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT), connect(hosts[1], hosts[0].address, 80) as connection:
        await apply(drivers, ingress(hosts, {"far": (FAR, hosts[1])}, ports=(PORTS[0],), version=2))
        with pytest.raises(ConnectionRefusedError):
            ask(hosts[1].netns, hosts[0].address, 81)
        await apply(drivers, ingress(hosts, {"far": (FAR, hosts[1])}, ports=(PORTS[0], UDP), version=3))
        assert is_answered(connection)
        with udp_client(hosts[1].netns, hosts[0].address, 80) as client:
            client.send(b"x")
            assert client.recv(100).startswith(b"far ")


async def test_a_port_of_another_program_fails_alone_and_comes_when_it_is_free(
    hosts: list[Machine], drivers: list[NetworkDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyswarm_netplugin.mesh.gateway.RETRY_S", 0.05)
    ports = (*PORTS, MeshPort(published_port=82, target_port=TASK_PORT))
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT):
        with in_namespace(hosts[0].netns, lambda: socket.create_server(("0.0.0.0", 82))):
            await apply(drivers, ingress(hosts, {"far": (FAR, hosts[1])}, ports=ports, version=2))
            assert drivers[0].mesh.problems == {"tcp/82": "another program on this node has the port (Address already in use)"}
            assert drivers[1].mesh.problems == {}
            assert ask(hosts[1].netns, hosts[0].address, 81)[0] == "far"
            with pytest.raises(TimeoutError):
                ask(hosts[1].netns, hosts[0].address, 82, timeout_s=0.3), "the program's own answer, which is none"
        await asyncio.wait_for(drivers[0].mesh.is_complete.wait(), 5)
        await drivers[0].in_host(lambda: None)  # between changes: the rules are there, too
        assert ask(hosts[1].netns, hosts[0].address, 82)[0] == "far"
        with pytest.raises(OSError, match="in use"):
            in_namespace(hosts[0].netns, lambda: socket.create_server(("0.0.0.0", 82)))


async def test_a_containers_own_port_wins_over_the_mesh(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    wanted = PortRequest(container_port=TASK_PORT, first_host_port=83)
    own = await drivers[0].attach(SandboxRequest(id="own", hostname="own", ports=(wanted,)))
    ports = (*PORTS, MeshPort(published_port=83, target_port=TASK_PORT))
    await apply(drivers, ingress(hosts, {"far": (FAR, hosts[1])}, ports=ports, version=2))
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT), Server(own.netns_path, "own", TASK_PORT):
        assert ask(hosts[1].netns, hosts[0].address, 83) == ("own", hosts[1].address)
        assert ask(hosts[0].netns, hosts[1].address, 83) == ("far", hosts[0].address)
        assert drivers[0].mesh.problems == {"tcp/83": "a container on this node has the port"}
        await drivers[0].detach("own")
        await apply(drivers, ingress(hosts, {"far": (FAR, hosts[1])}, ports=ports, version=3))
        assert ask(hosts[1].netns, hosts[0].address, 83)[0] == "far"


async def test_the_ingress_network_is_removed_and_made_again_with_another_subnet(
    hosts: list[Machine], drivers: list[NetworkDriver]
) -> None:
    await drivers[1].detach("far")
    for driver in drivers:
        await driver.apply_views({})
    for host in hosts:
        assert "_ports" not in run("ip", "netns", "exec", host.name, "nft", "list", "ruleset")
        assert not Path(host.sandbox(MESH_SANDBOX_ID)).exists()
        assert not Path(host.overlay("net-ingress")).exists()
    with pytest.raises(ConnectionRefusedError):
        ask(hosts[1].netns, hosts[0].address, 80)
    await apply(drivers, ingress(hosts, {"far": ("10.9.0.6", hosts[1])}, ports=PORTS, subnet="10.9.0", network_id="net-new"))
    await drivers[1].attach(task_request("far", "10.9.0.6", "net-new"))
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT):
        assert ask(hosts[1].netns, hosts[0].address, 80) == ("far", hosts[1].address)


async def test_gateways_that_come_go_and_change_are_followed_by_tasks(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    tasks = {"far": (FAR, hosts[1])}
    await apply(drivers, ingress(hosts[1:], tasks, ports=PORTS, version=2))
    assert not Path(hosts[0].sandbox(MESH_SANDBOX_ID)).exists()
    assert marks(hosts[1]) == {gateway_of(1)}
    await apply(drivers, ingress([hosts[1], hosts[0]], tasks, ports=PORTS, version=3))
    assert marks(hosts[1]) == {gateway_of(1), gateway_of(2)}
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT):
        assert ask(hosts[1].netns, hosts[0].address, 80) == ("far", hosts[1].address)
        await apply(drivers, ingress(hosts, tasks, ports=PORTS, version=4))
        for host in hosts:
            assert ask(hosts[1].netns, host.address, 80) == ("far", hosts[1].address)


def marks(host: Machine) -> set[str]:
    """Return the gateways to which the task's sandbox has a way back."""
    routes = run("nsenter", f"--net={host.sandbox('far')}", "ip", "route", "show", "table", "all")
    return {line.split()[2] for line in routes.splitlines() if "onlink" in line}


async def test_a_lost_mesh_sandbox_is_made_again(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    path = hosts[0].sandbox(MESH_SANDBOX_ID)
    await drivers[0].close()
    run("umount", path)
    drivers[0] = hosts[0].driver()
    await drivers[0].start()
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT):
        assert ask(hosts[1].netns, hosts[0].address, 80) == ("far", hosts[1].address)


async def test_a_neighbour_gets_into_the_ingress_network_only_by_published_ports(
    hosts: list[Machine], drivers: list[NetworkDriver]
) -> None:
    """The mesh sandbox forwards nothing else, neither for containers of its host nor for the host itself."""
    own = (await drivers[0].attach(request("own"))).netns_path
    addresses = run("nsenter", f"--net={hosts[0].sandbox(MESH_SANDBOX_ID)}", "ip", "-4", "-oneline", "address", "show", "eth1")
    gateway = addresses.split()[3].partition("/")[0]
    run("nsenter", f"--net={own}", "ip", "route", "add", "10.0.0.0/24", "via", gateway)
    run("ip", "-n", hosts[0].name, "route", "add", "10.0.0.0/24", "via", gateway)
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT):
        for netns in (own, hosts[0].netns):
            with pytest.raises(TimeoutError):
                ask(netns, FAR, TASK_PORT, timeout_s=0.3)
            assert ask(netns, hosts[0].address, 80)[0] == "far"


async def test_an_audit_finds_nothing_wrong_until_someone_meddles(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    tasks = {"far": (FAR, hosts[1])}
    for driver in drivers:
        assert await driver.auditing.audit() == ()
    await apply(drivers, ingress(hosts[1:], tasks, ports=PORTS[:1], version=2))
    await apply(drivers, ingress(hosts, tasks, ports=PORTS, version=3))
    for driver in drivers:
        assert await driver.auditing.audit() == ()
    mesh, task = hosts[0].sandbox(MESH_SANDBOX_ID), hosts[1].sandbox("far")
    for driver, netns, command in (
        (drivers[0], mesh, "nft flush chain pyswarm_mesh forward"),
        (drivers[0], mesh, "nft delete table pyswarm_mesh"),
        (drivers[0], mesh, "sysctl -qw net.ipv4.ip_forward=0"),
        (drivers[1], task, "nft flush table pyswarm_returns"),
        (drivers[1], task, "ip rule del pref 999"),
        (drivers[1], task, "ip rule del pref 1000"),
    ):
        run("nsenter", f"--net={netns}", *command.split())
        assert await driver.auditing.audit() != (), command
        assert await driver.auditing.audit() == (), command
        with Server(task, "far", TASK_PORT):
            assert ask(hosts[1].netns, hosts[0].address, 80) == ("far", hosts[1].address), command


async def test_a_mesh_sandbox_lost_while_the_daemon_runs_is_made_again(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    assert await drivers[0].auditing.audit() == ()
    run("umount", hosts[0].sandbox(MESH_SANDBOX_ID))
    Path(hosts[0].sandbox(MESH_SANDBOX_ID)).unlink()
    assert await drivers[0].auditing.audit() != ()
    with Server(hosts[1].sandbox("far"), "far", TASK_PORT):
        assert ask(hosts[1].netns, hosts[0].address, 80) == ("far", hosts[1].address)


async def test_leaving_leaves_nothing(tmp_path: Path) -> None:
    with machines(tmp_path, 1) as (host,):
        before = host.listing()
        driver = host.driver()
        await driver.start()
        await apply([driver], ingress([host], {"near": (FAR, host)}, ports=(*PORTS, UDP)))
        await driver.attach(task_request("near", FAR))
        with Server(host.sandbox("near"), "near", TASK_PORT):
            assert ask(host.netns, host.address, 80)[0] == "near"
        await driver.teardown()
        eventually(lambda: host.listing() == before)
        with contextlib.closing(in_namespace(host.netns, lambda: socket.create_server(("0.0.0.0", 80)))):
            pass
