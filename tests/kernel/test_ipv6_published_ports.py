"""Ports of a host on its IPv6 addresses: from outside, the host itself, neighbours; of containers and tasks of one host."""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from local_node import local_node
from overlay_hosts import Machine, eventually, in_namespace, machines, run
from overlay_ipv6 import Answerer, datagrams, inside, tell
from runtime_harness import RuntimeNode

from pyswarm_common.errors import InvalidArgument
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.published_ports.allocation import PortUnavailable
from pyswarm_netplugin.published_ports.records import PortRequest

pytestmark = pytest.mark.kernel

WEB = PortRequest(container_port=8080, first_host_port=80)
UDP = PortRequest(container_port=8080, protocol="udp", first_host_port=80)


def ipv6_of(machine: Machine) -> str:
    """Return the host's IPv6 address on the underlay."""
    return machine.address.replace("192.0.2.", "2001:db8::")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    """Two hosts with IPv6 addresses on the underlay."""
    with machines(tmp_path) as made:
        for machine in made:
            run("ip", "-n", machine.name, "address", "add", f"{ipv6_of(machine)}/64", "dev", "eth0", "nodad")
        for machine in made:  # link-local addresses become usable in the kernel's own time
            eventually(lambda name=machine.name: "tentative" not in run("ip", "-n", name, "-6", "address", "show", "dev", "eth0"))
        yield made


@pytest.fixture
async def driver(hosts: list[Machine]) -> AsyncIterator[NetworkDriver]:
    made = hosts[0].driver()
    await made.start()
    yield made
    await made.teardown()


async def attach(driver: NetworkDriver, name: str, *ports: PortRequest) -> str:
    """Give a container its place; return its namespace."""
    return (await driver.attach(SandboxRequest(id=name, hostname=name, ports=ports))).netns_path


async def test_from_everywhere_with_the_clients_address(hosts: list[Machine], driver: NetworkDriver) -> None:
    host, other = hosts
    bridged_packets_are_translated(host, "0")
    own, neighbour = await attach(driver, "web", WEB, UDP), await attach(driver, "neighbour")
    second = await attach(driver, "second", PortRequest(container_port=8080, first_host_port=81))
    with Answerer(own, "web"):
        assert tell(other.netns, ipv6_of(host), port=80) == ("web", ipv6_of(other), 1)
        assert tell(other.netns, ipv6_of(host), b"x" * 1_000_000, port=80) == ("web", ipv6_of(other), 1_000_000)
        assert tell(other.netns, host.address, port=80) == ("web", other.address, 1)
        for asker, address in (
            (host.netns, "127.0.0.1"),
            (host.netns, ipv6_of(host)),
            (own, ipv6_of(host)),
            (second, ipv6_of(host)),
            (neighbour, host.address),
        ):
            assert tell(asker, address, port=80)[0] == "web", (asker, address)
        for address, seen in ((ipv6_of(host), ipv6_of(other)), (host.address, other.address)):
            with datagrams(other.netns, address, 80) as client:
                client.send(b"?")
                assert client.recv(100) == f"web {seen} 1".encode()
        with pytest.raises(ConnectionRefusedError):
            tell(other.netns, ipv6_of(host), port=82)
        link_local = run("ip", "-n", host.name, "-6", "-oneline", "address", "show", "eth0", "scope", "link").split()[3]
        with pytest.raises(ConnectionRefusedError):
            tell(other.netns, f"{link_local.partition('/')[0]}%eth0", port=80)
    with Answerer(second, "second"):
        assert tell(other.netns, ipv6_of(host), port=81)[:2] == ("second", ipv6_of(other))


def bridged_packets_are_translated(host: Machine, value: str) -> None:
    """Let the host's firewall see what its bridges carry, or not, if the kernel can."""
    paths = [f"/proc/sys/net/bridge/bridge-nf-call-{table}" for table in ("iptables", "ip6tables")]
    for path in paths:
        run("ip", "netns", "exec", host.name, "sh", "-c", f"! test -e {path} || echo {value} >{path}")


async def test_from_the_hosts_loopback(hosts: list[Machine], driver: NetworkDriver) -> None:
    host = hosts[0]
    bridged_packets_are_translated(host, "0")
    with Answerer(await attach(driver, "web", WEB, UDP), "web"):
        assert tell(host.netns, "::1", port=80)[0] == "web"
        with datagrams(host.netns, "::1", 80) as client:
            client.send(b"?")
            assert client.recv(100).startswith(b"web ")
        await driver.detach("web")
        with pytest.raises(ConnectionRefusedError):
            tell(host.netns, "::1", port=80)


async def test_where_the_host_translates_what_it_bridges_the_loopback_refuses_at_once(
    hosts: list[Machine], driver: NetworkDriver
) -> None:
    host, other = hosts
    run("ip", "netns", "exec", host.name, "sh", "-c", "test -e /proc/sys/net/bridge/bridge-nf-call-ip6tables")
    bridged_packets_are_translated(host, "1")
    with Answerer(await attach(driver, "web", WEB), "web"):
        with pytest.raises(ConnectionRefusedError):
            tell(host.netns, "::1", port=80)
        assert tell(host.netns, "127.0.0.1", port=80)[0] == "web"
        assert tell(host.netns, ipv6_of(host), port=80)[0] == "web"
        assert tell(other.netns, ipv6_of(host), port=80) == ("web", ipv6_of(other), 1)


async def test_the_hosts_own_loopback_stays_closed_to_containers(hosts: list[Machine], driver: NetworkDriver) -> None:
    own = await attach(driver, "web", WEB)
    inside(own, "ip", "-6", "route", "delete", "local", "::1", "dev", "lo", "table", "local")
    way_out = inside(own, "ip", "-6", "route", "show", "default").split()[2]
    inside(own, "ip", "-6", "route", "add", "::1/128", "via", way_out)
    with Answerer(hosts[0].netns, "host", 9000):
        assert tell(hosts[0].netns, "::1", port=9000) == ("host", "::1", 1)
        with pytest.raises(OSError):
            tell(own, "::1", port=9000, timeout_s=0.5)


async def test_one_address_of_ipv6(hosts: list[Machine], driver: NetworkDriver) -> None:
    host, other = hosts
    bridged_packets_are_translated(host, "0")
    run("ip", "-n", host.name, "address", "add", "2001:db8::100/64", "dev", "eth0", "nodad")
    loopback = await attach(driver, "loopback", PortRequest(container_port=8080, host_address="::1", first_host_port=80))
    one = PortRequest(container_port=8080, host_address="2001:0DB8::100", first_host_port=80)
    with Answerer(loopback, "loopback"), Answerer(await attach(driver, "one", one), "one"):
        assert tell(host.netns, "::1", port=80)[0] == "loopback"
        assert tell(other.netns, "2001:db8::100", port=80) == ("one", ipv6_of(other), 1)
        for address in (ipv6_of(host), host.address):
            with pytest.raises(ConnectionRefusedError):
                tell(other.netns, address, port=80)
        any_ipv4 = PortRequest(container_port=8080, host_address="0.0.0.0", first_host_port=80)
        with Answerer(await attach(driver, "four", any_ipv4), "four"):
            assert tell(other.netns, host.address, port=80)[0] == "four"
    with pytest.raises(PortUnavailable, match=r"listen tcp6 \[2001:db8::99\]:81: bind: cannot assign requested address"):
        await attach(driver, "none", PortRequest(container_port=80, host_address="2001:db8::99", first_host_port=81))
    with pytest.raises(InvalidArgument, match="cannot publish on a:b"):
        await attach(driver, "none", PortRequest(container_port=80, host_address="a:b", first_host_port=81))


async def test_a_number_is_free_only_when_it_is_free_for_both(hosts: list[Machine], driver: NetworkDriver) -> None:
    host = hosts[0]

    def ipv6_server(port: int) -> socket.socket:
        return in_namespace(host.netns, lambda: socket.create_server(("::", port), family=socket.AF_INET6))

    def ipv4_server(port: int) -> socket.socket:
        return in_namespace(host.netns, lambda: socket.create_server(("0.0.0.0", port)))

    with contextlib.closing(ipv6_server(80)):
        with pytest.raises(PortUnavailable, match=r"listen tcp6 \[::\]:80: bind: address already in use"):
            await attach(driver, "web", WEB)
        ranged = await driver.attach(
            SandboxRequest(id="ranged", hostname="", ports=(PortRequest(container_port=80, first_host_port=80, last_host_port=82),))
        )
        assert [port.shown for port in ranged.ports] == ["0.0.0.0:81", "[::]:81"]
        ipv4_server(80).close()  # what was tried is let go of
    for taken in (ipv4_server, ipv6_server):
        with pytest.raises(OSError, match="in use"):
            taken(81)
    with pytest.raises(PortUnavailable, match=r"Bind for \[::\]:81 failed: port is already allocated"):
        await attach(driver, "web", PortRequest(container_port=80, host_address="::", first_host_port=81))
    await driver.detach("ranged")
    for free in (ipv4_server, ipv6_server):
        free(81).close()


async def test_kept_over_a_restart_and_mended(hosts: list[Machine], driver: NetworkDriver) -> None:
    host, other = hosts
    bridged_packets_are_translated(host, "0")

    def rules() -> str:
        return run("ip", "netns", "exec", host.name, "nft", "--handle", "list", "ruleset")

    with Answerer(await attach(driver, "web", WEB), "web"):
        before = rules()
        again = host.driver()
        await again.start()  # what another life finds is what it wants
        assert rules() == before
        await again.close()
        assert await driver.auditing.audit() == ()
        table = next(line.split()[2] for line in before.splitlines() if "table ip6" in line and "_ports" in line)
        for damage in (["delete", "table", "ip6", table], ["flush", "table", "ip6", table], ["delete", "table", "ip", table]):
            run("ip", "netns", "exec", host.name, "nft", *damage)
            assert await driver.auditing.audit() != (), damage
            assert await driver.auditing.audit() == (), damage
            for address in (ipv6_of(host), host.address):
                assert tell(other.netns, address, port=80)[0] == "web"
            assert tell(host.netns, "::1", port=80)[0] == "web"


async def test_leaving_leaves_nothing(hosts: list[Machine]) -> None:
    host = hosts[0]

    def listing() -> str:
        routes = run("ip", "-n", host.name, "-6", "route", "show", "table", "all")
        forwarding = run("ip", "netns", "exec", host.name, "sysctl", "-n", "net.ipv6.conf.all.forwarding")
        return host.listing() + routes.replace("ff00::/8", "") + forwarding

    before = listing()
    driver = host.driver()
    await driver.start()
    await attach(driver, "web", WEB)
    assert run("ip", "netns", "exec", host.name, "sysctl", "-n", "net.ipv6.conf.all.forwarding") == "1\n"
    await driver.detach("web")
    assert run("ip", "netns", "exec", host.name, "sysctl", "-n", "net.ipv6.conf.all.forwarding") == "0\n"
    assert "table ip6" not in run("ip", "netns", "exec", host.name, "nft", "list", "ruleset")
    await driver.teardown()
    eventually(lambda: listing() == before)


async def test_a_host_without_ipv6_is_left_alone(tmp_path: Path) -> None:
    with machines(tmp_path) as (host, other):
        run("ip", "netns", "exec", host.name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        driver = host.driver()
        await driver.start()
        try:
            place = await driver.attach(SandboxRequest(id="web", hostname="web", ports=(WEB,)))
            assert [port.shown for port in place.ports] == ["0.0.0.0:80"]
            with Answerer(place.netns_path, "web"):
                assert tell(other.netns, host.address, port=80) == ("web", other.address, 1)
            with pytest.raises(InvalidArgument, match="cannot publish on ::1: this host has no IPv6"):
                await attach(driver, "other", PortRequest(container_port=80, host_address="::1", first_host_port=81))
            assert "ip6" not in run("ip", "netns", "exec", host.name, "nft", "list", "ruleset")
            assert run("ip", "-n", host.name, "-6", "address") == ""
        finally:
            await driver.teardown()


async def test_docker_shows_both(node: RuntimeNode, hosts: list[Machine]) -> None:
    async with local_node(node, hosts[0]) as box:
        serve = "while true; do echo hello | nc -ll -p 80; done"
        published = ["-p", "8080:80", "-p", "[::1]:8081:80", "-p", "0.0.0.0:8082:80"]
        await box.docker("run", "-d", "--name", "web", *published, "box:1", "sh", "-c", serve)
        shown = await box.docker("port", "web", "80/tcp")
        assert set(shown.splitlines()) == {"0.0.0.0:8080", "[::]:8080", "[::1]:8081", "0.0.0.0:8082"}
        shown = await box.docker("ps", "--format", "{{.Ports}}")
        assert "0.0.0.0:8080->80/tcp" in shown
        assert "[::]:8080->80/tcp" in shown or ":::8080->80/tcp" in shown
        template = '{{range index .NetworkSettings.Ports "80/tcp"}}{{.HostIp}} {{.HostPort}},{{end}}'
        ports = await box.docker("inspect", "--format", template, "web")
        assert ports.strip() == "0.0.0.0 8080,:: 8080,::1 8081,0.0.0.0 8082,"
