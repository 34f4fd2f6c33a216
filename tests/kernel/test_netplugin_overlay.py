"""Two hosts, a driver on each: containers reach each other by VXLAN and virtual IPs, the world by masquerading."""

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from overlay_hosts import TIMEOUT_S, Machine, Server, Sniffer, ask, machines, request, run, udp_client, view

from pyswarm_common.errors import Conflict, Unavailable
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

NEAR, FAR = "10.0.1.5", "10.0.1.6"
VIRTUAL_IP = "10.0.1.2"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path) as made:
        yield made


@pytest.fixture
async def drivers(hosts: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    made = [host.driver() for host in hosts]
    for driver in made:
        await driver.start()
    yield made
    for driver in made:
        await driver.teardown()


@pytest.fixture
async def pair(hosts: list[Machine], drivers: list[NetworkDriver]) -> tuple[str, str]:
    """One container on each host, behind one service; return the paths of their namespaces."""
    network = view({"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])}, (NEAR, FAR))
    for driver in drivers:
        await driver.apply_views({"net-a": network})
    near = await drivers[0].attach(request("near", NEAR))
    far = await drivers[1].attach(request("far", FAR))
    return near.netns_path, far.netns_path


def ping(netns: str, address: str) -> bool:
    command = ["nsenter", f"--net={netns}", "busybox", "ping", "-c", "1", "-W", "1", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_containers_on_two_hosts_talk_through_the_tunnel(pair: tuple[str, str], hosts: list[Machine]) -> None:
    near, far = pair
    with Server(far, "far"), Sniffer(hosts[1]) as sniffer:
        assert ping(near, FAR)
        assert ask(near, FAR, payload_bytes=300_000) == ("far", NEAR)
        packets = sniffer.tunnelled()
    assert {vni for vni, _ in packets} == {4097}
    addresses = {frame[26:34] for _, frame in packets if frame[12:14] == b"\x08\x00"}
    assert addresses == {bytes([10, 0, 1, 5, 10, 0, 1, 6]), bytes([10, 0, 1, 6, 10, 0, 1, 5])}


def test_nothing_floods(pair: tuple[str, str], hosts: list[Machine]) -> None:
    near, _ = pair
    with Sniffer(hosts[1]) as sniffer:
        assert not ping(near, "10.0.1.77")
        assert ping(near, FAR)
        assert [frame for _, frame in sniffer.tunnelled() if frame[12:14] != b"\x08\x00"] == []


def test_a_virtual_ip_is_spread_over_both_hosts_and_keeps_the_callers_address(pair: tuple[str, str]) -> None:
    near, far = pair
    with Server(near, "near"), Server(far, "far"):
        answers = {ask(near, VIRTUAL_IP) for _ in range(40)}
        seen_from_far = {ask(far, VIRTUAL_IP)[0] for _ in range(40)}
    # Through its own virtual IP a container meets itself; the kernel then shows the address of that one interface.
    assert {name for name, _ in answers} == seen_from_far == {"near", "far"}
    assert {peer for name, peer in answers if name == "far"} == {NEAR}
    assert ping(near, VIRTUAL_IP)


async def test_a_virtual_ip_without_backends_refuses_at_once(
    pair: tuple[str, str], drivers: list[NetworkDriver], hosts: list[Machine]
) -> None:
    await drivers[0].apply_views({"net-a": view({"far": (FAR, hosts[1])}, (), version=2)})
    with pytest.raises(ConnectionRefusedError):
        ask(pair[0], VIRTUAL_IP, timeout_s=1)
    with udp_client(pair[0], VIRTUAL_IP) as client:
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        with Server(pair[1], "far"):
            await drivers[0].apply_views({"net-a": view({"far": (FAR, hosts[1])}, (FAR,), version=3)})
            client.send(b"x")
            assert client.recv(100).split()[0] == b"far"


async def test_udp_leaves_a_backend_that_was_removed(
    pair: tuple[str, str], drivers: list[NetworkDriver], hosts: list[Machine]
) -> None:
    places = {"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])}
    await drivers[0].apply_views({"net-a": view(places, (FAR,), version=2)})
    with Server(pair[0], "near"), Server(pair[1], "far"), udp_client(pair[0], VIRTUAL_IP) as client:
        client.send(b"x")
        assert client.recv(100).split()[0] == b"far"
        await drivers[0].apply_views({"net-a": view(places, (NEAR,), version=3)})
        client.send(b"x")
        assert client.recv(100).split()[0] == b"near"
        await drivers[0].apply_views({"net-a": view(places, (NEAR, FAR), version=4)})
        client.send(b"x")
        assert client.recv(100).split()[0] == b"near", "a flow to a backend that stays is kept"


async def test_an_endpoint_that_moves_is_found_on_its_new_host(tmp_path: Path) -> None:
    with machines(tmp_path, 3) as (here, first, second):
        drivers = {host.name: host.driver() for host in (here, first, second)}
        for driver in drivers.values():
            await driver.start()
        network = view({"near": (NEAR, here), "far": (FAR, first)})
        for host in (here, first):
            await drivers[host.name].apply_views({"net-a": network})
        near = (await drivers[here.name].attach(request("near", NEAR))).netns_path
        await drivers[first.name].attach(request("far", FAR))
        assert ping(near, FAR)
        await drivers[first.name].detach("far")
        moved = view({"near": (NEAR, here), "far": (FAR, second)}, version=2)
        for host in (here, second):
            await drivers[host.name].apply_views({"net-a": moved})
        await drivers[second.name].attach(request("far", FAR))
        assert ping(near, FAR)
        for driver in drivers.values():
            await driver.teardown()


async def test_containers_on_one_host_talk_without_the_tunnel(
    pair: tuple[str, str], drivers: list[NetworkDriver], hosts: list[Machine]
) -> None:
    places = {"near": (NEAR, hosts[0]), "far": (FAR, hosts[1]), "beside": ("10.0.1.7", hosts[0])}
    await drivers[0].apply_views({"net-a": view(places, version=2)})
    beside = (await drivers[0].attach(request("beside", "10.0.1.7"))).netns_path
    with Server(beside, "beside"), Sniffer(hosts[0]) as sniffer:
        assert ask(pair[0], "10.0.1.7") == ("beside", NEAR)
        assert sniffer.tunnelled() == []


def test_the_world_sees_the_hosts_address(pair: tuple[str, str], hosts: list[Machine]) -> None:
    with Server(hosts[1].netns, "outside"):
        assert ask(pair[0], hosts[1].address) == ("outside", hosts[0].address)


async def test_containers_do_not_reach_each_other_by_the_way_out(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    one = (await drivers[0].attach(request("one"))).netns_path
    two = await drivers[0].attach(request("two"))
    address = two.hosts.splitlines()[-1].split()[0]
    assert any(ping(one, "172.19.0.1") for _ in range(5)), "the gateway, which a machine under load may take a moment to make"
    assert not ping(one, address)
    run("ip", "-n", hosts[1].name, "route", "add", f"{address}/32", "via", hosts[0].address)
    assert not ping(hosts[1].netns, address), "nothing new comes in"
    # Even past its neighbour table, by way of the gateway.
    run("nsenter", f"--net={one}", "ip", "route", "add", f"{address}/32", "via", "172.19.0.1")
    assert not ping(one, address)


async def test_an_internal_network_has_no_way_out(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    await drivers[0].apply_views({"net-a": view({}, internal=True)})
    sandbox = await drivers[0].attach(request("inner", NEAR))
    assert run("nsenter", f"--net={sandbox.netns_path}", "ip", "route").split("\n")[0].startswith("10.0.1.0/24")
    assert "default" not in run("nsenter", f"--net={sandbox.netns_path}", "ip", "route")
    with Server(hosts[1].netns, "outside"), pytest.raises(OSError, match="unreachable"):
        ask(sandbox.netns_path, hosts[1].address)


async def test_a_taken_vni_is_explained(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    run("ip", "-n", hosts[0].name, "link", "add", "other9", "type", "vxlan", "id", "4097", "dstport", "4789")
    message = "cannot create the VXLAN device of network net-a: VNI 4097 on UDP port 4789 is already used by device other9"
    with pytest.raises(Unavailable, match=message):
        await drivers[0].apply_views({"net-a": view({})})
    with pytest.raises(Conflict, match="other9"):
        await drivers[0].attach(request("near", NEAR))
    run("ip", "-n", hosts[0].name, "link", "delete", "other9")
    await drivers[0].attach(request("near", NEAR))


async def test_two_instances_share_a_host(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    second = hosts[0].driver(tag=f"x{os.getpid() % 4096:03x}")
    await second.start()
    try:
        one = (await drivers[0].attach(request("one"))).netns_path
        two = (await second.attach(request("two"))).netns_path
        with Server(hosts[1].netns, "outside"):
            assert ask(one, hosts[1].address) == ask(two, hosts[1].address) == ("outside", hosts[0].address)
    finally:
        await second.teardown()


async def test_the_mtu_follows_the_underlay(tmp_path: Path) -> None:
    with machines(tmp_path, 2, mtu_bytes=9000) as hosts:
        drivers = [host.driver() for host in hosts]
        network = view({"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])})
        for driver in drivers:
            await driver.start()
            await driver.apply_views({"net-a": network})
        near = (await drivers[0].attach(request("near", NEAR))).netns_path
        far = (await drivers[1].attach(request("far", FAR))).netns_path
        assert "mtu 8950" in run("nsenter", f"--net={near}", "ip", "link", "show", "eth0")
        with Server(far, "far"):
            assert ask(near, FAR, payload_bytes=1_000_000) == ("far", NEAR)
        for driver in drivers:
            await driver.teardown()


async def test_a_detached_container_is_gone_and_its_id_can_come_back(
    pair: tuple[str, str], drivers: list[NetworkDriver], hosts: list[Machine]
) -> None:
    for _ in range(3):
        await drivers[0].detach("near")
        assert not Path(pair[0]).exists()
        await drivers[0].attach(request("near", NEAR))
        assert ping(pair[0], FAR)


async def test_large_services_balance(pair: tuple[str, str], drivers: list[NetworkDriver], hosts: list[Machine]) -> None:
    many = tuple(f"10.0.{number // 250 + 8}.{number % 250 + 1}" for number in range(3000))
    await drivers[0].apply_views({"net-a": view({"far": (FAR, hosts[1])}, many, version=2)})
    await drivers[0].apply_views({"net-a": view({"far": (FAR, hosts[1])}, (FAR,), version=3)})
    with Server(pair[1], "far"), contextlib.closing(udp_client(pair[0], VIRTUAL_IP)) as client:
        assert ask(pair[0], VIRTUAL_IP, timeout_s=TIMEOUT_S) == ("far", NEAR)
        client.send(b"x")
        assert client.recv(100) == f"far {NEAR}".encode()
