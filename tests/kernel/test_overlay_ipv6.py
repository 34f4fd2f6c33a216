"""Overlays with IPv6: containers, virtual IPs and the way out, next to networks and hosts that know nothing of it."""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from overlay_hosts import TAG, Machine, Sniffer, in_namespace, machines, run, view
from overlay_ipv6 import (
    FAR,
    FAR6,
    IPV6_SUBNET,
    NEAR,
    NEAR6,
    VIRTUAL_IP6,
    Answerer,
    ask_for,
    datagrams,
    inside,
    network,
    ping,
    running,
    tell,
)

from pyswarm_common.wire import Endpoint
from pyswarm_netplugin.driver import NetworkDriver, Sandbox
from pyswarm_netplugin.state import State

pytestmark = pytest.mark.kernel


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path) as made:
        yield made


@pytest.fixture
async def drivers(hosts: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    async with running(hosts) as made:
        yield made


@pytest.fixture
async def pair(hosts: list[Machine], drivers: list[NetworkDriver]) -> tuple[Sandbox, Sandbox]:
    """One container on each host, on a network with IPv6, behind one service."""
    both = network({"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])}, (NEAR, FAR), ipv6_subnet=IPV6_SUBNET)
    for driver in drivers:
        await driver.apply_views({"net-a": both})
    return await drivers[0].attach(ask_for("near", NEAR)), await drivers[1].attach(ask_for("far", FAR))


def global_addresses(netns: str) -> list[str]:
    """Return the IPv6 addresses that are valid beyond the link."""
    lines = inside(netns, "ip", "-6", "-oneline", "address", "show", "scope", "global").splitlines()
    return [line.split()[3] for line in lines]


def test_containers_on_two_hosts_talk_by_ipv6(pair: tuple[Sandbox, Sandbox], hosts: list[Machine]) -> None:
    near, far = (sandbox.netns_path for sandbox in pair)
    with Answerer(far, "far"), Sniffer(hosts[1]) as sniffer:
        assert ping(near, FAR6, "-6")
        assert tell(near, FAR6, b"x" * 300_000) == ("far", NEAR6, 300_000)
        assert tell(near, FAR) == ("far", NEAR, 1)
        frames = [frame for _, frame in sniffer.tunnelled()]
    solicited = [frame for frame in frames if frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] in (135, 136)]
    assert solicited == [], "the VXLAN device answers for the neighbours; nothing is asked through the tunnel"


def test_the_container_shows_its_addresses_and_nothing_it_was_not_given(pair: tuple[Sandbox, Sandbox]) -> None:
    addresses = global_addresses(pair[0].netns_path)
    assert addresses[0] == f"{NEAR6}/64"
    assert len(addresses) == 2, "the network's and that of the way out"
    assert "tentative" not in inside(pair[0].netns_path, "ip", "-6", "address")
    assert pair[0].hosts.splitlines()[-2:] == [f"{NEAR}\tnear", f"{NEAR6}\tnear"]


async def test_unknown_neighbours_do_not_flood(pair: tuple[Sandbox, Sandbox], hosts: list[Machine]) -> None:
    with Sniffer(hosts[1]) as sniffer:
        assert not ping(pair[0].netns_path, "fd12:3456:789a:1::a00:199", "-6")
        assert sniffer.tunnelled() == []


def test_a_virtual_ip_is_spread_by_ipv6_too(pair: tuple[Sandbox, Sandbox]) -> None:
    near, far = (sandbox.netns_path for sandbox in pair)
    with Answerer(near, "near"), Answerer(far, "far"):
        answers = {tell(near, VIRTUAL_IP6)[:2] for _ in range(40)}
    assert {name for name, _ in answers} == {"near", "far"}
    assert {peer for name, peer in answers if name == "far"} == {NEAR6}


async def test_a_virtual_ip_without_backends_refuses_and_datagrams_move_on(
    pair: tuple[Sandbox, Sandbox], drivers: list[NetworkDriver], hosts: list[Machine]
) -> None:
    near, far = (sandbox.netns_path for sandbox in pair)
    places = {"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])}
    await drivers[0].apply_views({"net-a": network(places, (FAR,), ipv6_subnet=IPV6_SUBNET, version=2)})
    with Answerer(near, "near"), Answerer(far, "far"), datagrams(near, VIRTUAL_IP6) as client:
        client.send(b"x")
        assert client.recv(100).split()[0] == b"far"
        await drivers[0].apply_views({"net-a": network(places, (NEAR,), ipv6_subnet=IPV6_SUBNET, version=3)})
        client.send(b"x")
        assert client.recv(100).split()[0] == b"near"
    await drivers[0].apply_views({"net-a": network(places, (), ipv6_subnet=IPV6_SUBNET, version=4)})
    with pytest.raises(ConnectionRefusedError):
        tell(near, VIRTUAL_IP6, timeout_s=1)


async def test_the_world_sees_the_hosts_ipv6_address(pair: tuple[Sandbox, Sandbox], hosts: list[Machine]) -> None:
    for number, host in enumerate(hosts, 1):
        run("ip", "-n", host.name, "address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad")
    with Answerer(hosts[1].netns, "outside"):
        assert tell(pair[0].netns_path, "2001:db8::2")[:2] == ("outside", "2001:db8::1")
    way_in = global_addresses(pair[0].netns_path)[1].partition("/")[0]
    run("ip", "-n", hosts[1].name, "route", "add", f"{way_in}/128", "via", "2001:db8::1")
    assert not ping(hosts[1].netns, way_in, "-6"), "nothing new comes in"


async def test_ipv6_is_turned_on_where_it_is_needed_and_off_again(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    def setting(name: str) -> str:
        return in_namespace(hosts[0].netns, lambda: Path(f"/proc/sys/net/ipv6/conf/{name}").read_text().strip())

    def tables() -> str:
        return run("ip", "netns", "exec", hosts[0].name, "nft", "list", "tables", "ip6")

    await drivers[0].apply_views({"net-a": view({})})
    plain = await drivers[0].attach(ask_for("plain", "10.0.1.7"))
    assert inside(plain.netns_path, "ip", "-6", "address").count("inet6") == 1, "the loopback's alone"
    assert (setting("all/forwarding"), setting("eth0/accept_ra"), tables()) == ("0", "1", "")
    six = network({}, ipv6_subnet="fd99::/64", network_id="net-b", vni=4098)
    await drivers[0].apply_views({"net-a": view({}), "net-b": six})
    await drivers[0].attach(ask_for("six", "10.0.2.7", network_ids=("net-b",)))
    assert (setting("all/forwarding"), setting("eth0/accept_ra")) == ("1", "2"), "the host still listens to its routers"
    assert tables() != ""
    assert inside(plain.netns_path, "ip", "-6", "address").count("inet6") == 1
    await drivers[0].detach("six")
    assert (tables(), setting("all/forwarding")) == ("", "0")


async def test_a_host_becomes_a_router_for_its_containers_alone(tmp_path: Path) -> None:
    """Between two interfaces of the host nothing passes as nothing did before, while containers get to both."""
    with machines(tmp_path, 3) as (router, left, right):
        run("ip", "-n", router.name, "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", right.name)
        for host, interface, address in (
            (router, "eth0", "2001:db8::1/64"),
            (router, "eth1", "2001:db8:1::1/64"),
            (left, "eth0", "2001:db8::2/64"),
            (right, "eth1", "2001:db8:1::2/64"),
        ):
            run("ip", "-n", host.name, "link", "set", interface, "up")
            run("ip", "-n", host.name, "address", "add", address, "dev", interface, "nodad")
        run("ip", "-n", left.name, "route", "add", "2001:db8:1::/64", "via", "2001:db8::1")
        run("ip", "-n", right.name, "route", "add", "2001:db8::/64", "via", "2001:db8:1::1")
        async with running([router]) as (driver,):
            await driver.apply_views({"net-a": network({}, ipv6_subnet=IPV6_SUBNET)})
            near = (await driver.attach(ask_for("near", NEAR))).netns_path
            assert ping(near, "2001:db8::2", "-6")
            assert ping(near, "2001:db8:1::2", "-6")
            assert not ping(left.netns, "2001:db8:1::2", "-6")
            run("ip", "netns", "exec", router.name, "nft", "delete", "table", "ip6", "pyswarm_ipv6guard")
            assert ping(left.netns, "2001:db8:1::2", "-6"), "it was this that held it back"


async def test_two_instances_on_a_host_share_its_forwarding(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    def router() -> tuple[str, bool]:
        forwarding = in_namespace(hosts[0].netns, lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text().strip())
        return forwarding, "pyswarm_ipv6guard" in run("ip", "netns", "exec", hosts[0].name, "nft", "list", "tables")

    second = hosts[0].driver(tag=f"x{os.getpid() % 4096:03x}")
    await second.start()
    for driver, vni in ((drivers[0], 4097), (second, 4098)):
        await driver.apply_views({"net-a": network({}, ipv6_subnet=IPV6_SUBNET, vni=vni)})
        await driver.attach(ask_for("near", NEAR))
    await drivers[0].detach("near")
    assert router() == ("1", True), "the other needs it"
    await second.teardown()
    assert router() == ("0", False)


async def test_the_next_life_finds_all_in_place(
    pair: tuple[Sandbox, Sandbox], hosts: list[Machine], drivers: list[NetworkDriver]
) -> None:
    before = in_namespace(pair[0].netns_path, lambda: socket.if_nameindex())
    await drivers[0].close()
    drivers[0] = hosts[0].driver()
    await drivers[0].start()
    assert in_namespace(pair[0].netns_path, lambda: socket.if_nameindex()) == before, "no interface was made anew"
    assert ping(pair[0].netns_path, FAR6, "-6")


async def test_a_hardware_address_of_ones_own_is_used_everywhere(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    mac = "02:11:22:33:44:AA"
    plain = network({"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])}, ipv6_subnet=IPV6_SUBNET)
    told = {**plain.endpoints, "near": msgspec.structs.replace(plain.endpoints["near"], mac=mac)}
    for driver in drivers:
        await driver.apply_views({"net-a": network({}, ipv6_subnet=IPV6_SUBNET, endpoints=told)})
    near = await drivers[0].attach(ask_for("near", NEAR, macs=(mac,)))
    far = await drivers[1].attach(ask_for("far", FAR))
    assert mac.lower() in inside(near.netns_path, "ip", "link", "show", "eth0")
    assert ping(far.netns_path, NEAR)
    assert ping(far.netns_path, NEAR6, "-6")
    assert f"{NEAR} dev eth0 lladdr {mac.lower()}" in inside(far.netns_path, "ip", "neighbour")
    assert ping(near.netns_path, FAR)


def observed(host: Machine) -> State:
    """Return what the kernel has, as a new daemon reads it."""

    def read() -> State:
        kernel = host.kernel()
        try:
            return kernel.observe()
        finally:
            kernel.close()

    return in_namespace(host.netns, read)


@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("sandbox", f"ip -6 address delete {NEAR6}/64 dev eth0"),
        ("sandbox", "ip -6 route delete default"),
        ("sandbox", "ip route delete 10.0.9.0/24"),
        ("sandbox", "nft delete table ip6 pyswarm"),
        ("overlay", f"ip neighbour delete {FAR6} dev vxlan0"),
        ("overlay", "bridge fdb delete 02:11:22:33:44:55 dev vxlan0 self"),
        ("overlay", "bridge fdb delete 02:11:22:33:44:55 dev vxlan0 master"),
        ("overlay", "bridge fdb add 02:99:22:33:44:55 dev vxlan0 self dst 192.0.2.9"),
        ("overlay", "ip neighbour add fd00::99 lladdr 02:99:22:33:44:55 dev vxlan0 nud permanent"),
        ("host", "nft delete table ip6 pyswarm_{tag}"),
        ("host", "ip -6 address flush dev {tag}-egress scope global"),
    ],
)
async def test_what_was_changed_behind_its_back_is_put_right(
    hosts: list[Machine], drivers: list[NetworkDriver], where: str, command: str
) -> None:
    far = Endpoint(address=f"{FAR}/24", data_path_address=hosts[1].address, mac="02:11:22:33:44:55")
    seen = network(
        {"near": (NEAR, hosts[0])}, (FAR,), ipv6_subnet=IPV6_SUBNET, further_subnets=("10.0.9.0/24",), endpoints={"far": far}
    )
    await drivers[0].apply_views({"net-a": seen})
    near = await drivers[0].attach(ask_for("near", NEAR))
    before = observed(hosts[0])
    path = {"sandbox": near.netns_path, "overlay": hosts[0].overlay("net-a"), "host": hosts[0].netns}[where]
    await drivers[0].close()
    inside(path, *command.format(tag=TAG).split())
    assert observed(hosts[0]) != before, "the change is noticed"
    drivers[0] = hosts[0].driver()
    await drivers[0].start()
    assert observed(hosts[0]) == before
