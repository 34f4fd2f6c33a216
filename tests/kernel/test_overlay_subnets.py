"""A network of several subnets: all on one link, one tunnel, and a further one while containers talk."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from overlay_hosts import Machine, in_namespace, machines
from overlay_ipv6 import NEAR, Answerer, ask_for, inside, network, ping, running, tell

from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

SECOND, SECOND_VIRTUAL_IP = "10.0.9.6", "10.0.9.2"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path) as made:
        yield made


@pytest.fixture
async def drivers(hosts: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    async with running(hosts) as made:
        yield made


def grown(hosts: list[Machine], *, version: int = 2, internal: bool = True) -> NetworkView:
    """Return the network with a second subnet, in which the other host's container and a service are."""
    return network(
        {"near": (NEAR, hosts[0]), "far": (SECOND, hosts[1])},
        version=version,
        internal=internal,
        further_subnets=("10.0.9.0/24",),
        services={"s1": ServiceEndpoints(names=("web",), virtual_ip=f"{SECOND_VIRTUAL_IP}/24", backends=(f"{SECOND}/24",))},
    )


def routes(netns: str) -> list[str]:
    """Return the destinations that are on the link of eth0."""
    return sorted(line.split()[0] for line in inside(netns, "ip", "route", "show", "dev", "eth0").splitlines())


@pytest.mark.parametrize("internal", [True, False])
async def test_a_subnet_is_added_while_containers_talk(hosts: list[Machine], drivers: list[NetworkDriver], internal: bool) -> None:
    await drivers[0].apply_views({"net-a": network({"near": (NEAR, hosts[0])}, internal=internal)})
    near = (await drivers[0].attach(ask_for("near", NEAR))).netns_path
    assert routes(near) == ["10.0.1.0/24"]
    index = in_namespace(near, lambda: socket.if_nametoindex("eth0"))
    for driver in drivers:
        await driver.apply_views({"net-a": grown(hosts, internal=internal)})
    far = (await drivers[1].attach(ask_for("far", SECOND))).netns_path
    assert routes(near) == routes(far) == ["10.0.1.0/24", "10.0.9.0/24"]
    assert in_namespace(near, lambda: socket.if_nametoindex("eth0")) == index
    with Answerer(far, "far"), Answerer(near, "near"):
        assert tell(near, SECOND) == ("far", NEAR, 1)
        assert tell(far, NEAR) == ("near", SECOND, 1)
        assert tell(near, SECOND_VIRTUAL_IP)[:2] == ("far", NEAR)


async def test_a_subnet_that_is_taken_back_leaves_no_route(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    await drivers[0].apply_views({"net-a": grown(hosts)})
    near = (await drivers[0].attach(ask_for("near", NEAR))).netns_path
    inside(near, "ip", "route", "add", "10.77.0.0/16", "dev", "eth0")
    await drivers[0].apply_views({"net-a": network({"near": (NEAR, hosts[0])}, version=3, internal=True)})
    assert routes(near) == ["10.0.1.0/24", "10.77.0.0/16"], "a container's own route is its own"
    await drivers[0].close()
    drivers[0] = hosts[0].driver()
    await drivers[0].start()
    assert routes(near) == ["10.0.1.0/24", "10.77.0.0/16"]


async def test_containers_of_two_subnets_on_one_host_talk(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    await drivers[0].apply_views({"net-a": grown([hosts[0], hosts[0]])})
    near = (await drivers[0].attach(ask_for("near", NEAR))).netns_path
    await drivers[0].attach(ask_for("far", SECOND))
    assert ping(near, SECOND)


async def test_a_gateway_of_another_node_is_reached(hosts: list[Machine], drivers: list[NetworkDriver]) -> None:
    """The other nodes' own addresses on a network are peers like any endpoint; this node's own is none."""
    gateways = {
        f"node{number}": Endpoint(address=f"10.0.1.25{number}/24", data_path_address=host.address)
        for number, host in enumerate(hosts)
    }
    for driver in drivers:
        await driver.apply_views({"net-a": msgspec.structs.replace(network({}), gateways=gateways)})
    one = (await drivers[0].attach(ask_for("gateway0", "10.0.1.250"))).netns_path
    await drivers[1].attach(ask_for("gateway1", "10.0.1.251"))
    assert ping(one, "10.0.1.251")
    fdb = inside(hosts[0].overlay("net-a"), "bridge", "fdb", "show", "dev", "vxlan0")
    assert "02:42:0a:00:01:fb dst 192.0.2.2" in fdb
    assert "02:42:0a:00:01:fa" not in fdb
