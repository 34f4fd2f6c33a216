"""Ports of a host that lead to containers on the default bridge, and the bridge itself: from outside, the host, neighbours."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from local_node import bridge_of, local_node
from overlay_hosts import Machine, Server, ask, eventually, in_namespace, machines, run, udp_client
from runtime_harness import RuntimeNode

from pyswarm_agent.local_containers.network import LocalBridge
from pyswarm_agent.local_containers.records import LocalContainer, NetworkPlace
from pyswarm_agent.runtime import ContainerConfig
from pyswarm_netplugin.published_ports.allocation import PortUnavailable
from pyswarm_netplugin.published_ports.records import PortRequest

pytestmark = pytest.mark.kernel


class Bridge:
    """The default bridge of a host, and containers that are only their place on it."""

    def __init__(self, node: RuntimeNode, machine: Machine) -> None:
        self.machine = machine
        self.network: LocalBridge = bridge_of(node, machine)

    async def attach(self, name: str, *ports: PortRequest, **changes: Any) -> NetworkPlace:
        """Give a container its place."""
        container = LocalContainer(id=name, name=name, port_requests=ports, **changes)
        return await self.network.attach(container, ContainerConfig(id=name, hostname=name))


@asynccontextmanager
async def bridged(tmp_path: Path, node: RuntimeNode) -> AsyncIterator[tuple[Bridge, Machine]]:
    """Yield a bridge, and another machine."""
    with machines(tmp_path / "hosts", 2) as (machine, other):
        bridge = Bridge(node, machine)
        try:
            yield bridge, other
        finally:
            await bridge.network.teardown()
        assert "pyswarm" not in run("ip", "netns", "exec", machine.name, "nft", "list", "ruleset")
        assert "egress" not in run("ip", "-n", machine.name, "-brief", "link")


def netns(place: NetworkPlace) -> str:
    assert place.netns_path is not None
    return place.netns_path


def address(place: NetworkPlace) -> str:
    return place.address.partition("/")[0]


async def test_from_everywhere(tmp_path: Path, node: RuntimeNode) -> None:
    async with bridged(tmp_path, node) as (bridge, other):
        web = await bridge.attach("web", PortRequest(container_port=80, first_host_port=8080))
        neighbour = await bridge.attach("neighbour")
        with Server(netns(web), "web", 80):
            host = bridge.machine
            assert ask(other.netns, host.address, 8080) == ("web", other.address)
            assert ask(host.netns, "127.0.0.1", 8080)[0] == "web"
            assert ask(host.netns, host.address, 8080)[0] == "web"
            assert ask(netns(neighbour), host.address, 8080)[0] == "web"
            assert ask(netns(neighbour), web.gateway, 8080)[0] == "web"
            assert ask(netns(web), host.address, 8080)[0] == "web"
            assert ask(netns(neighbour), address(web), 80) == ("web", address(neighbour))
            assert ask(other.netns, host.address, 8080, payload_bytes=1_000_000)[0] == "web"
            with pytest.raises(OSError):
                ask(other.netns, host.address, 8081, timeout_s=0.5)


async def test_containers_do_not_reach_the_hosts_loopback(tmp_path: Path, node: RuntimeNode) -> None:
    async with bridged(tmp_path, node) as (bridge, _):
        place = await bridge.attach("web", PortRequest(container_port=80, first_host_port=8080))
        with Server(bridge.machine.netns, "host", 9000):
            inside = ("nsenter", f"--net={netns(place)}")
            run(*inside, "ip", "route", "delete", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
            run(*inside, "ip", "route", "add", "127.0.0.9/32", "via", place.gateway)
            run(*inside, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
            with pytest.raises(OSError):
                ask(netns(place), "127.0.0.9", 9000, timeout_s=0.5)
            assert ask(netns(place), place.gateway, 9000)[0] == "host"


async def test_udp_and_a_change_of_the_container(tmp_path: Path, node: RuntimeNode) -> None:
    async with bridged(tmp_path, node) as (bridge, other):
        request = PortRequest(container_port=53, protocol="udp", first_host_port=5300)
        first = await bridge.attach("first", request)
        with Server(netns(first), "first", 53), udp_client(other.netns, bridge.machine.address, 5300) as client:
            client.send(b"?")
            assert client.recv(100) == f"first {other.address}".encode()
            await bridge.network.detach("first")
            second = await bridge.attach("second", request)
            with Server(netns(second), "second", 53):
                client.send(b"?")
                assert client.recv(100) == f"second {other.address}".encode()


async def test_one_address_of_the_host(tmp_path: Path, node: RuntimeNode) -> None:
    async with bridged(tmp_path, node) as (bridge, other):
        run("ip", "-n", bridge.machine.name, "address", "add", "192.0.2.100/24", "dev", "eth0")
        here = PortRequest(container_port=80, first_host_port=8080, host_address="192.0.2.100")
        there = PortRequest(container_port=80, first_host_port=8080, host_address=bridge.machine.address)
        with Server(netns(await bridge.attach("a", here)), "a", 80), Server(netns(await bridge.attach("b", there)), "b", 80):
            assert ask(other.netns, "192.0.2.100", 8080)[0] == "a"
            assert ask(other.netns, bridge.machine.address, 8080)[0] == "b"
        with pytest.raises(PortUnavailable, match="cannot assign requested address"):
            await bridge.attach("c", PortRequest(container_port=80, first_host_port=81, host_address="198.51.100.1"))


async def test_taken_ports(tmp_path: Path, node: RuntimeNode) -> None:
    async with bridged(tmp_path, node) as (bridge, _):
        await bridge.attach("web", PortRequest(container_port=80, first_host_port=8080))
        with pytest.raises(PortUnavailable) as caught:
            await bridge.attach("other", PortRequest(container_port=80, first_host_port=8080))
        assert caught.value.message == (
            "driver failed programming external connectivity on endpoint other (other): "
            "Bind for 0.0.0.0:8080 failed: port is already allocated"
        )
        with Server(bridge.machine.netns, "host", 8081):
            with pytest.raises(PortUnavailable, match=r"listen tcp4 0.0.0.0:8081: bind: address already in use"):
                await bridge.attach("other", PortRequest(container_port=80, first_host_port=8081))
            ranged = await bridge.attach("ranged", PortRequest(container_port=80, first_host_port=8080, last_host_port=8085))
            assert ranged.ports[0].host_port == 8082
        anywhere = await bridge.attach("anywhere", PortRequest(container_port=80))
        assert anywhere.ports[0].host_port >= 32768
        with pytest.raises(OSError, match="in use"):
            in_namespace(bridge.machine.netns, lambda: socket.create_server(("0.0.0.0", 8080)))
        await bridge.network.detach("web")
        in_namespace(bridge.machine.netns, lambda: socket.create_server(("0.0.0.0", 8080))).close()


async def test_kept_over_a_restart_of_the_daemon(tmp_path: Path, node: RuntimeNode) -> None:
    async with bridged(tmp_path, node) as (bridge, other):
        web = await bridge.attach("web", PortRequest(container_port=80, first_host_port=8080))
        await bridge.attach("gone", PortRequest(container_port=80, first_host_port=8090))
        with Server(netns(web), "web", 80):
            await bridge.network.close()
            assert ask(other.netns, bridge.machine.address, 8080)[0] == "web"
            run("ip", "netns", "exec", bridge.machine.name, "nft", "add", "table", "ip", "others")
            bridge.network = bridge_of(node, bridge.machine)
            await bridge.network.start(["web"])
            assert ask(other.netns, bridge.machine.address, 8080)[0] == "web"
            ruleset = run("ip", "netns", "exec", bridge.machine.name, "nft", "list", "ruleset")
            assert "8090" not in ruleset
            assert "table ip others" in ruleset
            with pytest.raises(PortUnavailable):
                await bridge.attach("late", PortRequest(container_port=80, first_host_port=8080))


async def test_a_real_container_behind_a_port(node: RuntimeNode, tmp_path: Path) -> None:
    with machines(tmp_path / "hosts", 2) as (machine, other):
        async with local_node(node, machine) as box:
            serve = "while true; do echo hello | nc -l -p 80 -w 1; done"
            await box.docker("run", "-d", "--name", "web", "-p", "8080:80", "-p", "127.0.0.1::81/udp", "box:1", "sh", "-c", serve)

            def answers() -> bool:
                def fetch() -> bytes:
                    with socket.create_connection((machine.address, 8080), 2) as connection:
                        return connection.recv(100)

                try:
                    return in_namespace(other.netns, fetch) == b"hello\n"
                except OSError:
                    return False

            eventually(answers)
            shown = (await box.docker("port", "web")).splitlines()
            assert "80/tcp -> 0.0.0.0:8080" in shown
            assert any(line.startswith("81/udp -> 127.0.0.1:") for line in shown)
            assert "0.0.0.0:8080->80/tcp" in await box.docker("ps", "--format", "{{.Ports}}")
            code, _, errors = await box.docker.run("run", "-d", "--name", "late", "-p", "8080:80", "box:1", "sleep", "9")
            assert (code, "port is already allocated" in errors) == (125, True)
            await box.docker("stop", "-t", "0", "web")
            assert await box.docker("port", "web") == ""
            await box.docker("start", "late")
