"""The networks of a task's container, as inspect and the list show them."""

from collections.abc import Callable
from typing import Any

import httpx
from json_shapes import shape_differences

from pyswarm_agent.runtime.records import ContainerConfig, NetworkConfig
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


async def test_addresses_end_with_the_run(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    await control.agent.containers.create(CONFIG)
    await control.agent.containers.start_container(CONFIG.id)
    await control.agent.containers.stop(CONFIG.id)
    networks = (await client.get("/containers/web.1.x/json")).json()["NetworkSettings"]["Networks"]
    assert {network["IPAddress"] for network in networks.values()} == {""}
