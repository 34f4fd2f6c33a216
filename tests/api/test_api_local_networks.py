"""The node's own networks, bridge, host and none: on managers beside the cluster's, and where there is no manager."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from agent_parts import agent_parts
from docker_command import DockerCLI
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive

from pyswarm_agent.local_containers.fake_network import FakeLocalNetwork
from pyswarm_common.wire import NetworkView
from pyswarm_node.api.app import create_app
from pyswarm_node.api.fake_control import FakeNodeControl

OWN = ["bridge", "host", "none"]


@pytest.fixture
async def worker(control: FakeNodeControl) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a node without a manager, which has an image."""
    local = dataclasses.replace(control.local, is_manager=False)
    app = create_app(FakeNodeControl(local, control.agent, None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://docker") as client:
        yield client


async def run_container(control: FakeNodeControl, client: httpx.AsyncClient, folder: Path, name: str, mode: str) -> str:
    archive = folder / "box.tar"
    write_docker_archive(archive, [(BuiltImage([make_layer([Entry("x")])], {"Cmd": ["sh"]}), ["box:1"])])
    await control.agent.images.load(archive)
    body = {"Image": "box:1", "HostConfig": {"NetworkMode": mode}}
    made = await client.post("/containers/create", params={"name": name}, json=body)
    container_id: str = made.json()["Id"]
    assert (await client.post(f"/containers/{container_id}/start")).status_code == 204
    return container_id


async def test_docker_shows_the_same(client: httpx.AsyncClient, golden: Callable[[str], Any]) -> None:
    theirs = {network["Name"]: network for network in golden("networks") if network["Name"] in OWN}
    ours = {network["Name"]: network for network in (await client.get("/networks")).json() if network["Scope"] == "local"}
    assert sorted(ours) == OWN
    for name, network in ours.items():
        for told in (network, theirs[name]):
            del told["Id"], told["Created"]
    del theirs["bridge"]["Options"]["com.docker.network.bridge.name"]
    assert ours["bridge"]["IPAM"]["Config"][0].pop("Gateway") == "172.17.0.1"
    assert ours == theirs


async def test_workers_have_only_their_own(worker: httpx.AsyncClient) -> None:
    assert sorted(network["Name"] for network in (await worker.get("/v1.41/networks")).json()) == OWN
    assert (await worker.get("/networks", params={"filters": '{"name":["os"]}'})).json()[0]["Driver"] == "host"
    assert (await worker.get("/networks/none")).json()["Driver"] == "null"
    assert (await worker.post("/networks/prune")).json() == {"NetworksDeleted": None}
    missing = await worker.get("/networks/app")
    assert (missing.status_code, missing.json()) == (404, {"message": "network app not found"})
    assert (await worker.post("/networks/create", json={"Name": "app", "Driver": "overlay"})).status_code == 503


async def test_by_name_id_and_beginning_of_an_id(worker: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    for engine in (worker, client):
        whole = (await engine.get("/networks/bridge")).json()["Id"]
        assert (await engine.get(f"/networks/{whole}")).json()["Name"] == "bridge"
        in_swarm = await engine.get("/networks/bridge", params={"scope": "swarm"})
        assert in_swarm.status_code == (404 if engine is worker else 200)
        assert (await engine.get("/networks/bridge", params={"scope": "local"})).json()["Name"] == "bridge"
        assert (await engine.get("/networks", params={"filters": '{"nosuch":["x"]}'})).status_code == 400
        assert (await engine.get(f"/networks/{whole[:12]}")).json()["Name"] == "bridge"
        assert (await engine.get(f"/networks/{whole[:12]}", params={"scope": "local"})).json()["Name"] == "bridge"
        assert (await engine.get(f"/networks/{whole[:12]}x")).status_code == 404


async def test_containers_are_shown_where_they_are(control: FakeNodeControl, client: httpx.AsyncClient, tmp_path: Path) -> None:
    web = await run_container(control, client, tmp_path, "web", "bridge")
    at_host = await run_container(control, client, tmp_path, "at-host", "host")
    (endpoint,) = (members := (await client.get("/networks/bridge")).json()["Containers"]).values()
    assert list(members) == [web]
    assert (endpoint["Name"], endpoint["IPv4Address"], endpoint["MacAddress"]) == ("web", "172.17.0.2/16", "02:42:ac:11:00:02")
    assert list((await client.get("/networks/host")).json()["Containers"]) == [at_host]
    assert (await client.get("/networks/none")).json()["Containers"] == {}
    assert all(network["Containers"] == {} for network in (await client.get("/networks")).json() if network["Scope"] == "local")
    await client.post("/containers/web/kill")
    assert (await client.get("/networks/bridge")).json()["Containers"] == {}


async def test_they_cannot_be_removed(client: httpx.AsyncClient, worker: httpx.AsyncClient) -> None:
    for engine in (client, worker):
        answer = await engine.delete("/networks/bridge")
        assert (answer.status_code, answer.json()) == (403, {"message": "bridge is a pre-defined network and cannot be removed"})


async def test_docker_network_ls(api_socket: str, client: httpx.AsyncClient) -> None:
    await client.post("/networks/create", json={"Name": "app", "Driver": "overlay"})
    shown = await DockerCLI(api_socket)("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}")
    assert shown.splitlines() == [
        "app overlay swarm",
        "bridge bridge local",
        "host host local",
        "ingress overlay swarm",
        "none null local",
    ]
    assert (await DockerCLI(api_socket)("network", "inspect", "-f", "{{.Driver}}", "bridge", "app")).split() == [
        "bridge",
        "overlay",
    ]


async def made(engine: httpx.AsyncClient, name: str, **body: Any) -> str:
    answer = await engine.post("/networks/create", json={"Name": name, **body})
    assert answer.status_code == 201, answer.text
    network_id: str = answer.json()["Id"]
    return network_id


async def test_a_network_of_ones_own(worker: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    pool = {"Subnet": "10.5.0.0/16", "Gateway": "10.5.0.9"}
    for number, engine in enumerate((worker, client)):
        own = f"own{number}"
        asked = {"IPAM": {"Config": [pool]}, "Internal": True, "Labels": {"a": "b"}, "Options": {"com.x": "y"}}
        answer = await engine.post("/v1.41/networks/create", json={"Name": own, "Driver": "bridge", **asked})
        assert answer.status_code == 201
        assert "com.x" in answer.json()["Warning"]
        shown = (await engine.get(f"/networks/{answer.json()['Id'][:12]}")).json()
        assert (shown["Name"], shown["Driver"], shown["Scope"], shown["Internal"]) == (own, "bridge", "local", True)
        assert (shown["IPAM"]["Config"], shown["Labels"], shown["Containers"]) == ([pool], {"a": "b"}, {})
        for filters, names in (
            ('{"type":["custom"],"scope":["local"]}', [own]),
            ('{"label":["a=b"]}', [own]),
            ('{"dangling":["true"],"scope":["local"]}', [own]),
        ):
            assert [one["Name"] for one in (await engine.get("/networks", params={"filters": filters})).json()] == names
        again = await engine.post("/networks/create", json={"Name": own})
        assert (again.status_code, again.json()["message"]) == (409, f"network with name {own} already exists")
        assert (await engine.delete(f"/networks/{own}")).status_code == 204
        assert (await engine.get(f"/networks/{own}")).status_code == 404


async def test_names_are_unique_over_both_kinds(client: httpx.AsyncClient) -> None:
    await made(client, "app", Driver="overlay")
    await made(client, "own")
    for body in ({"Name": "app"}, {"Name": "own", "Driver": "overlay"}):
        assert (await client.post("/networks/create", json=body)).status_code == 409
    pruned = (await client.post("/networks/prune")).json()["NetworksDeleted"]
    assert sorted(pruned) == ["app", "own"]


async def test_prune_spares_what_is_asked(worker: httpx.AsyncClient) -> None:
    await made(worker, "kept", Labels={"keep": "yes"})
    await made(worker, "young")
    for filters in ('{"until":["1h"]}', '{"label":["nosuch"]}'):
        assert (await worker.post("/networks/prune", params={"filters": filters})).json() == {"NetworksDeleted": None}
    answer = await worker.post("/networks/prune", params={"filters": '{"label!":["keep"]}'})
    assert answer.json() == {"NetworksDeleted": ["young"]}


async def test_connecting(control: FakeNodeControl, worker: httpx.AsyncClient, tmp_path: Path) -> None:
    network_id = await made(worker, "app")
    tool = await run_container(control, worker, tmp_path, "tool", "bridge")
    body = {"Container": "tool", "EndpointConfig": {"Aliases": ["helper"], "IPAMConfig": {"IPv4Address": "172.19.0.9"}}}
    assert (await worker.post("/networks/app/connect", json=body)).status_code == 200
    again = await worker.post(f"/networks/{network_id[:12]}/connect", json=body)
    assert (again.status_code, again.json()["message"]) == (403, "endpoint with name tool already exists in network app")
    shown = (await worker.get("/containers/tool/json")).json()["NetworkSettings"]["Networks"]
    assert sorted(shown) == ["app", "bridge"]
    assert (shown["app"]["NetworkID"], shown["app"]["IPAMConfig"]) == (network_id, {"IPv4Address": "172.19.0.9"})
    assert shown["app"]["Aliases"] == ["helper", tool[:12]]
    listed = (await worker.get("/containers/json", params={"filters": '{"network":["app"]}'})).json()
    assert [container["Id"] for container in listed] == [tool]
    assert (await worker.post("/networks/prune")).json() == {"NetworksDeleted": None}
    assert (await worker.post("/networks/bridge/disconnect", json={"Container": "tool"})).status_code == 200
    assert sorted((await worker.get("/containers/tool/json")).json()["NetworkSettings"]["Networks"]) == ["app"]
    refused = await worker.post("/networks/bridge/disconnect", json={"Container": "tool"})
    assert (refused.status_code, refused.json()["message"]) == (403, f"container {tool} is not connected to network bridge")
    for network, container, status in (("app", "nosuch", 404), ("host", "tool", 403), ("none", "tool", 403)):
        answer = await worker.post(f"/networks/{network}/connect", json={"Container": container})
        assert answer.status_code == status, answer.text


async def test_containers_without_networks_of_their_own(
    control: FakeNodeControl, worker: httpx.AsyncClient, tmp_path: Path
) -> None:
    await made(worker, "app")
    await run_container(control, worker, tmp_path, "alone", "none")
    await run_container(control, worker, tmp_path, "at-host", "host")
    for name, text in (("alone", "private (none) mode"), ("at-host", "host network")):
        answer = await worker.post("/networks/app/connect", json={"Container": name})
        assert (answer.status_code, text in answer.json()["message"]) == (403, True)
    assert (await worker.post("/networks/none/disconnect", json={"Container": "alone"})).status_code == 200
    assert (await worker.post("/networks/app/connect", json={"Container": "alone"})).status_code == 200
    assert sorted((await worker.get("/containers/alone/json")).json()["NetworkSettings"]["Networks"]) == ["app"]


async def test_unknown_networks(client: httpx.AsyncClient, control: FakeNodeControl, tmp_path: Path) -> None:
    await run_container(control, client, tmp_path, "tool", "bridge")
    answer = await client.post("/networks/nosuch/connect", json={"Container": "tool"})
    assert (answer.status_code, answer.json()) == (404, {"message": "network nosuch not found"})
    assert (await client.delete("/networks/nosuch")).status_code == 404


async def test_a_worker_lists_the_networks_that_it_carries(tmp_path: Path, control: FakeNodeControl) -> None:
    network = FakeLocalNetwork()
    view = NetworkView(network_id="n" * 25, name="app", version=1, vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1/24")
    network.views = {view.network_id: view}
    async with agent_parts(tmp_path / "worker", control.agent.containers, control.agent.access, network) as agent:
        app = create_app(FakeNodeControl(dataclasses.replace(control.local, is_manager=False), agent, None))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://docker") as engine:
            names = [one["Name"] for one in (await engine.get("/networks", params={"filters": '{"scope":["swarm"]}'})).json()]
            assert names == ["app"]
            shown = (await engine.get("/networks/app")).json()
            assert (shown["Id"], shown["Driver"], shown["Scope"]) == (view.network_id, "overlay", "swarm")
            assert shown["IPAM"]["Config"] == [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]
            assert (await engine.get("/networks/app", params={"scope": "local"})).status_code == 404
            assert (await engine.post("/networks/prune")).json() == {"NetworksDeleted": None}
