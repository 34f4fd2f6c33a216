"""A driver's daemon stops, is killed, loses power, leaves: what stays, what is repaired, what is removed."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from overlay_hosts import TIMEOUT_S, Machine, Server, ask, eventually, in_namespace, machines, request, run, view

from pyswarm_common.errors import FailedPrecondition
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_netplugin.fake_dns import FakeDNS

pytestmark = pytest.mark.kernel

NEAR, FAR, VIRTUAL_IP = "10.0.1.5", "10.0.1.6", "10.0.1.2"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path) as made:
        yield made


def network(hosts: list[Machine], backends: tuple[str, ...] = (FAR,), version: int = 1) -> NetworkView:
    """Return the view of a container on each host."""
    return view({"near": (NEAR, hosts[0]), "far": (FAR, hosts[1])}, backends, version=version)


async def started(hosts: list[Machine]) -> tuple[list[NetworkDriver], str, str]:
    """Start a driver and a container on each host."""
    drivers = [host.driver() for host in hosts]
    for driver in drivers:
        await driver.start()
        await driver.apply_views({"net-a": network(hosts)})
    near = await drivers[0].attach(request("near", NEAR))
    far = await drivers[1].attach(request("far", FAR))
    return drivers, near.netns_path, far.netns_path


async def torn_down(drivers: list[NetworkDriver]) -> None:
    """Tear the drivers down."""
    for driver in drivers:
        await driver.teardown()


def kernel_view(host: Machine, near: str) -> str:
    """Return everything that a restart must not touch, interface numbers and rule handles included."""
    overlay = host.overlay("net-a")
    return "\n".join(
        [
            run("ip", "-n", host.name, "-oneline", "link"),
            run("ip", "netns", "exec", host.name, "nft", "--handle", "list", "ruleset"),
            run("nsenter", f"--net={overlay}", "ip", "-oneline", "link"),
            run("nsenter", f"--net={overlay}", "bridge", "fdb"),
            run("nsenter", f"--net={near}", "ip", "-oneline", "address"),
            run("nsenter", f"--net={near}", "nft", "--handle", "list", "ruleset"),
        ]
    )


async def test_a_restart_touches_nothing_and_connections_go_on(hosts: list[Machine]) -> None:
    drivers, near, far = await started(hosts)
    listener = in_namespace(far, lambda: socket.create_server(("0.0.0.0", 9000)))
    client = in_namespace(near, lambda: socket.create_connection((VIRTUAL_IP, 9000), TIMEOUT_S))
    server, _ = listener.accept()
    with listener, client, server:
        before = kernel_view(hosts[0], near)
        await drivers[0].close()
        client.sendall(b"while away")
        assert server.recv(100) == b"while away"
        drivers[0] = hosts[0].driver()
        await drivers[0].start()
        assert drivers[0].sandboxes() == {"near"}
        assert kernel_view(hosts[0], near) == before
        await drivers[0].apply_views({"net-a": network(hosts)})
        assert kernel_view(hosts[0], near) == before
        server.sendall(b"back again")
        assert client.recv(100) == b"back again"
    await torn_down(drivers)


@pytest.mark.parametrize(
    "damage",
    [
        "nsenter --net={near} ip link delete eth0",
        "nsenter --net={near} ip address flush dev eth0",
        "nsenter --net={near} nft delete table ip pyswarm",
        "nsenter --net={overlay} ip link delete vxlan0",
        "nsenter --net={overlay} ip link delete br0",
        "nsenter --net={overlay} ip neighbour flush nud permanent dev vxlan0",
        "nsenter --net={overlay} bridge fdb delete 02:42:0a:00:01:06 dev vxlan0 self",
        "ip -n {host} link delete {tag}-egress",
        "ip netns exec {host} nft flush ruleset",
        "ip netns exec {host} sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward'",
    ],
)
async def test_damage_is_repaired_at_start(hosts: list[Machine], damage: str) -> None:
    drivers, near, far = await started(hosts)
    await drivers[0].close()
    tag = near.split("/run/netns/")[0].rsplit("/", 1)[1]
    run("sh", "-c", damage.format(near=near, overlay=hosts[0].overlay("net-a"), host=hosts[0].name, tag=tag))
    drivers[0] = hosts[0].driver()
    await drivers[0].start()
    with Server(far, "far"), Server(hosts[1].netns, "outside"):
        assert ask(near, VIRTUAL_IP) == ask(near, FAR) == ("far", NEAR)
        assert ask(near, hosts[1].address) == ("outside", hosts[0].address)
    await torn_down(drivers)


async def test_after_a_power_cut_only_what_is_wanted_is_made_again(hosts: list[Machine]) -> None:
    drivers, near, far = await started(hosts)
    await drivers[0].close()
    for path in (near, hosts[0].overlay("net-a")):
        run("umount", path)
        assert Path(path).is_file()
    run("ip", "-n", hosts[0].name, "link", "delete", f"{near.split('/run/netns/')[0].rsplit('/', 1)[1]}-egress")
    run("ip", "netns", "exec", hosts[0].name, "nft", "flush", "ruleset")
    drivers[0] = hosts[0].driver()
    eventually(lambda: can_make_vxlan(hosts[0]))
    await drivers[0].start()
    assert drivers[0].sandboxes() == frozenset()
    assert not Path(near).exists()
    again = await drivers[0].attach(request("near", NEAR))
    with Server(far, "far"):
        assert ask(again.netns_path, VIRTUAL_IP) == ("far", NEAR)
    await torn_down(drivers)


def can_make_vxlan(host: Machine) -> bool:
    """Whether the VNI is free: the kernel has taken down what was in namespaces without a name."""
    make = f"ip -n {host.name} link add probe type vxlan id 4097 dstport 4789 && ip -n {host.name} link delete probe"
    return subprocess.run(make, shell=True, stderr=subprocess.DEVNULL, check=False).returncode == 0


async def test_teardown_leaves_nothing(hosts: list[Machine]) -> None:
    before = hosts[0].listing()
    drivers, _, _ = await started(hosts)
    for number in range(5):
        await drivers[0].attach(request(f"more{number}", f"10.0.1.{number + 10}"))
    await drivers[0].detach("more1")
    await torn_down(drivers)
    assert hosts[0].listing() == before


async def test_what_nothing_wants_is_removed_at_start(hosts: list[Machine]) -> None:
    drivers, near, _ = await started(hosts)
    await drivers[0].attach(request("other", "10.0.1.7"))
    await drivers[0].close()
    folder = Path(near).parents[2] / "data/network"
    (folder / "sandboxes/near").unlink()
    drivers[0] = hosts[0].driver()
    await drivers[0].start()
    assert drivers[0].sandboxes() == {"other"}
    assert not Path(near).exists()
    await drivers[0].close()
    for path in (*(folder / "sandboxes").iterdir(), *(folder / "views").iterdir()):
        path.unlink()
    drivers[0] = hosts[0].driver()
    await drivers[0].start()
    assert list(Path(near).parent.iterdir()) == []
    await torn_down(drivers)


async def test_a_container_without_its_namespaces_name_does_not_block_its_address(hosts: list[Machine]) -> None:
    drivers, near, far = await started(hosts)
    held = os.open(near, os.O_RDONLY)
    try:
        await drivers[0].detach("near")
        again = await drivers[0].attach(request("near2", NEAR))
        with Server(far, "far"):
            assert ask(again.netns_path, FAR) == ("far", NEAR)
    finally:
        os.close(held)
    await torn_down(drivers)


async def test_a_host_without_the_data_path_address_is_told(tmp_path: Path, hosts: list[Machine]) -> None:
    driver = NetworkDriver(
        instance_tag="none",
        data_dir=tmp_path / "data",
        runtime_dir=tmp_path / "run",
        data_path_address="203.0.113.9",
        dns=FakeDNS(),
        make_kernel=hosts[0].kernel,
    )
    with pytest.raises(FailedPrecondition, match=r"no interface of this host has the data path address 203\.0\.113\.9"):
        await driver.start()
    await driver.close()
