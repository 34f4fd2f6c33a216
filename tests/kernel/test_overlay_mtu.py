"""Sizes: an overlay's packets fit the smallest underlay, change while connections stand, and large transfers arrive."""

import errno
import socket
from pathlib import Path

import msgspec
import pytest
from overlay_hosts import Machine, in_namespace, machines, run
from overlay_ipv6 import FAR, FAR6, IPV6_SUBNET, NEAR, Answerer, ask_for, datagrams, inside, network, running, tell

from pyswarm_common.mtu import overlay_mtu_bytes
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

LARGE = b"large transfer " * 400_000
UDP_HEADERS_BYTES = 28
UDP6_HEADERS_BYTES = 48


def places(hosts: list[Machine]) -> dict[str, tuple[str, Machine]]:
    return {"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])}


async def attached(drivers: list[NetworkDriver], hosts: list[Machine], **changes: object) -> tuple[str, str]:
    """Put one container on each host; return their namespaces."""
    for driver in drivers:
        await driver.apply_views({"net-a": network(places(hosts), **changes)})
    near, far = await drivers[0].attach(ask_for("near", NEAR)), await drivers[1].attach(ask_for("far", FAR))
    return near.netns_path, far.netns_path


def mtu_bytes(netns: str, interface: str = "eth0") -> int:
    return int(inside(netns, "ip", "-oneline", "link", "show", interface).split(" mtu ")[1].split()[0])


def largest_echo(netns: str, address: str, size: int) -> bytes:
    """Send a datagram that must not be cut up and return the answer. Raises OSError when it does not fit the interface."""
    with datagrams(netns, address) as client:
        is_ipv6 = ":" in address
        client.setsockopt(41 if is_ipv6 else 0, 23 if is_ipv6 else 10, 3)  # IPV6_MTU_DISCOVER, IP_MTU_DISCOVER: PROBE
        client.send(b"x" * size)
        return client.recv(200)


async def test_large_transfers_cross_an_underlay_of_1280_bytes(tmp_path: Path) -> None:
    with machines(tmp_path, mtu_bytes=1280) as hosts:
        async with running(hosts) as drivers:
            near, far = await attached(drivers, hosts)
            assert mtu_bytes(near) == 1230
            with Answerer(far, "far"):
                assert tell(near, FAR, LARGE) == ("far", NEAR, len(LARGE))
                assert largest_echo(near, FAR, 1230 - UDP_HEADERS_BYTES).split()[2] == b"1202"
                with pytest.raises(OSError, match="too long") as raised:
                    largest_echo(near, FAR, 1230 - UDP_HEADERS_BYTES + 1)
                assert raised.value.errno == errno.EMSGSIZE


async def test_ipv6_has_its_1280_bytes_on_a_smaller_underlay(tmp_path: Path) -> None:
    """The kernel has no IPv6 below that: VXLAN's packets travel in fragments instead."""
    with machines(tmp_path, mtu_bytes=1280) as hosts:
        async with running(hosts) as drivers:
            near, far = await attached(drivers, hosts, ipv6_subnet=IPV6_SUBNET)
            assert mtu_bytes(near) == 1280
            with Answerer(far, "far"):
                assert tell(near, FAR6, LARGE)[2] == len(LARGE)
                assert tell(near, FAR, LARGE)[2] == len(LARGE)
                assert largest_echo(near, FAR6, 1280 - UDP6_HEADERS_BYTES).split()[2] == b"1232"


async def test_hosts_with_different_underlays_agree_on_the_smallest(tmp_path: Path) -> None:
    with machines(tmp_path) as hosts:
        run("ip", "-n", hosts[1].name, "link", "set", "eth0", "mtu", "1280")
        async with running(hosts) as drivers:
            near, far = await attached(drivers, hosts, mtu_bytes=overlay_mtu_bytes(1280))
            assert mtu_bytes(near) == mtu_bytes(far) == 1230
            with Answerer(far, "far"), Answerer(near, "near"):
                assert tell(near, FAR, LARGE)[2] == tell(far, NEAR, LARGE)[2] == len(LARGE)
                assert largest_echo(near, FAR, 1230 - UDP_HEADERS_BYTES).startswith(b"far")
                assert largest_echo(far, NEAR, 1230 - UDP_HEADERS_BYTES).startswith(b"near")


async def test_a_host_with_a_smaller_underlay_joins_while_connections_stand(tmp_path: Path) -> None:
    """No interface is taken away: a connection and its interface's index outlive the change, both ways."""
    with machines(tmp_path) as hosts:
        async with running(hosts) as drivers:
            near, far = await attached(drivers, hosts)
            index = inside(near, "ip", "-oneline", "link", "show", "eth0").partition(":")[0]
            with Answerer(far, "far"):
                client = in_namespace(near, lambda: socket.create_connection((FAR, 8080), 5))
                with client:
                    client.sendall(LARGE)
                    for version, size in ((2, 1230), (3, 1400)):
                        for driver in drivers:
                            await driver.apply_views({"net-a": network(places(hosts), mtu_bytes=size, version=version)})
                        assert mtu_bytes(near) == mtu_bytes(far) == size
                        assert mtu_bytes(hosts[0].overlay("net-a"), "vxlan0") == size
                        client.sendall(LARGE)
                    client.shutdown(1)
                    assert client.recv(100).split()[2] == str(3 * len(LARGE)).encode()
            assert inside(near, "ip", "-oneline", "link", "show", "eth0").partition(":")[0] == index


async def test_a_daemon_that_died_between_the_ends_of_a_link_finishes(tmp_path: Path) -> None:
    with machines(tmp_path, 1) as hosts:
        async with running(hosts) as drivers:
            view = network({"near": (NEAR, hosts[0])})
            await drivers[0].apply_views({"net-a": view})
            near = (await drivers[0].attach(ask_for("near", NEAR))).netns_path
            overlay = hosts[0].overlay("net-a")
            port = next(
                line.split(": ")[1].partition("@")[0] for line in inside(overlay, "ip", "-o", "link").splitlines() if ": p" in line
            )
            await drivers[0].close()
            inside(overlay, "ip", "link", "set", port, "mtu", "1300")
            inside(overlay, "ip", "link", "set", "vxlan0", "mtu", "1300")
            drivers[0] = hosts[0].driver()
            await drivers[0].start()
            await drivers[0].apply_views({"net-a": msgspec.structs.replace(view, version=2, mtu_bytes=1400)})
            assert [mtu_bytes(near), mtu_bytes(overlay, port), mtu_bytes(overlay, "vxlan0")] == [1400] * 3
