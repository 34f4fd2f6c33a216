"""The node's own networks, bridge, host and none: on managers beside the cluster's, and where there is no manager."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from docker_command import DockerCLI
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive

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
    ours = {network["Name"]: network for network in (await client.get("/networks")).json()}
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
        assert (await engine.get("/networks/bridge", params={"scope": "swarm"})).status_code == 404
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
    assert all(network["Containers"] == {} for network in (await client.get("/networks")).json())
    await client.post("/containers/web/kill")
    assert (await client.get("/networks/bridge")).json()["Containers"] == {}


async def test_they_cannot_be_removed(client: httpx.AsyncClient, worker: httpx.AsyncClient) -> None:
    for engine in (client, worker):
        answer = await engine.delete("/networks/bridge")
        assert (answer.status_code, answer.json()) == (403, {"message": "bridge is a pre-defined network and cannot be removed"})


async def test_docker_network_ls(api_socket: str, client: httpx.AsyncClient) -> None:
    await client.post("/networks/create", json={"Name": "app", "Driver": "overlay"})
    shown = await DockerCLI(api_socket)("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}")
    assert shown.splitlines() == ["app overlay swarm", "bridge bridge local", "host host local", "none null local"]
    assert (await DockerCLI(api_socket)("network", "inspect", "-f", "{{.Driver}}", "bridge", "app")).split() == [
        "bridge",
        "overlay",
    ]
