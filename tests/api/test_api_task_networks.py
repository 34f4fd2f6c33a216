"""The networks of a task's container, as inspect and the list show them."""

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
from json_shapes import shape_differences

from pyswarm_agent.runtime.records import ContainerConfig, NetworkConfig
from pyswarm_netplugin.published_ports.records import PublishedPort
from pyswarm_node.api.fake_control import FakeNodeControl

CONFIG = ContainerConfig(
    id="c" * 64,
    name="web.1.x",
    args=("run",),
    layer_paths=("/layer",),
    networks=(
        NetworkConfig(id="n1", name="gnet", address="10.0.1.7/24"),
        NetworkConfig(id="n2", name="ingress", address="10.0.0.7/24"),
    ),
)


async def test_overlays_of_a_task(client: httpx.AsyncClient, control: FakeNodeControl, golden: Callable[[str], Any]) -> None:
    await control.agent.containers.create(CONFIG)
    await control.agent.containers.start_container(CONFIG.id)
    ours = (await client.get("/containers/web.1.x/json")).json()["NetworkSettings"]["Networks"]
    theirs = golden("container_inspect")["NetworkSettings"]["Networks"]
    assert shape_differences(ours, theirs) == []
    assert (ours["gnet"]["IPAddress"], ours["gnet"]["IPPrefixLen"]) == ("10.0.1.7", 24)
    assert (ours["gnet"]["NetworkID"], ours["gnet"]["MacAddress"]) == ("n1", "02:42:0a:00:01:07")
    listed = (await client.get("/containers/json", params={"filters": '{"network":["gnet"]}'})).json()
    assert list(listed[0]["NetworkSettings"]["Networks"]) == ["gnet", "ingress"]


async def test_ports_of_the_node_that_lead_to_a_task(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    ports = (PublishedPort(protocol="udp", container_port=53, host_port=5353),)
    config = msgspec.structs.replace(CONFIG, ports=ports)
    await control.agent.containers.create(config)
    await control.agent.containers.start_container(CONFIG.id)
    inspected = (await client.get("/containers/web.1.x/json")).json()["NetworkSettings"]["Ports"]
    assert inspected == {"53/udp": [{"HostIp": "0.0.0.0", "HostPort": "5353"}]}
    listed = (await client.get("/containers/json", params={"filters": '{"publish":["5353/udp"]}'})).json()
    assert listed[0]["Ports"] == [{"IP": "0.0.0.0", "PrivatePort": 53, "PublicPort": 5353, "Type": "udp"}]
    assert (await client.get("/containers/json", params={"filters": '{"publish":["5354/udp"]}'})).json() == []
    await control.agent.containers.stop(CONFIG.id)
    assert (await client.get("/containers/web.1.x/json")).json()["NetworkSettings"]["Ports"] == {}


async def test_addresses_end_with_the_run(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    await control.agent.containers.create(CONFIG)
    await control.agent.containers.start_container(CONFIG.id)
    await control.agent.containers.stop(CONFIG.id)
    networks = (await client.get("/containers/web.1.x/json")).json()["NetworkSettings"]["Networks"]
    assert {network["IPAddress"] for network in networks.values()} == {""}
