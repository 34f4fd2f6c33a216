"""Networks of one node by the unmodified docker CLI and the Docker SDK for Python: made, shown, connected, pruned, removed."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import docker.errors
import httpx
import pytest
from docker.types import IPAMConfig, IPAMPool
from docker_command import DockerCLI
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive
from json_shapes import shape_differences

from pyswarm_common.own_networks import id_on_node
from pyswarm_node.api.fake_control import FakeNodeControl


@pytest.fixture
async def cli(api_socket: str, control: FakeNodeControl, tmp_path: Path) -> DockerCLI:
    """The CLI on a node that has an image."""
    archive = tmp_path / "box.tar"
    write_docker_archive(archive, [(BuiltImage([make_layer([Entry("x")])], {"Cmd": ["sh"]}), ["box:1"])])
    await control.agent.images.load(archive)
    return DockerCLI(api_socket)


async def refused(cli: DockerCLI, *arguments: str) -> str:
    code, _, errors = await cli.run(*arguments)
    assert code != 0
    return errors.strip()


async def test_connecting(cli: DockerCLI) -> None:
    app = (await cli("network", "create", "--subnet", "10.9.0.0/24", "app")).strip()
    web = (await cli("run", "-d", "--name", "web", "box:1")).strip()
    await cli("network", "connect", "--alias", "db", "--ip", "10.9.0.7", "app", "web")
    (shown,) = json.loads(await cli("inspect", "web"))
    assert shown["NetworkSettings"]["Networks"]["app"]["IPAMConfig"] == {"IPv4Address": "10.9.0.7"}
    assert shown["NetworkSettings"]["Networks"]["app"]["NetworkID"] == app
    words = "Error response from daemon: "
    assert await refused(cli, "network", "connect", "app", "web") == (
        f"{words}endpoint with name web already exists in network app"
    )
    assert await refused(cli, "network", "connect", "nosuch", "web") == f"{words}network nosuch not found"
    assert await refused(cli, "network", "connect", "app", "nosuch") == f"{words}No such container: nosuch"
    assert "cannot be disconnected from host network or connected to host" in await refused(
        cli, "network", "connect", "host", "web"
    )
    await cli("network", "disconnect", "app", "web")
    assert await refused(cli, "network", "disconnect", "app", "web") == f"{words}container {web} is not connected to network app"
    await cli("network", "disconnect", "-f", "bridge", web[:12])
    assert (await cli("ps", "--format", "{{.Networks}}")).strip() == ""


async def test_several_networks_at_once(cli: DockerCLI) -> None:
    for name in ("one", "two"):
        await cli("network", "create", name)
    await cli("run", "-d", "--name", "web", "--network", "one", "--network", "name=two,alias=db", "box:1")
    shown = json.loads(await cli("inspect", "-f", "{{json .NetworkSettings.Networks}}", "web"))
    assert sorted(shown) == ["one", "two"]
    assert "db" in shown["two"]["Aliases"]


async def test_events(cli: DockerCLI, client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    app = (await cli("network", "create", "app")).strip()
    web = (await cli("run", "-d", "--name", "web", "box:1")).strip()
    await cli("network", "connect", "app", "web")
    await cli("kill", "web")
    await cli("network", "disconnect", "app", "web")
    await cli("network", "connect", "app", "web")
    await cli("rm", "web")
    at_host = (await cli("run", "-d", "--network", "host", "box:1")).strip()
    await cli("network", "rm", "app")
    until = f"{control.agent.clock.now_ns() / 1_000_000_000:.9f}"
    answer = await client.get("/events", params={"since": "1", "until": until, "filters": '{"type":["network"],"scope":["local"]}'})
    events = [json.loads(line) for line in answer.text.splitlines()]
    on_app, on_bridge, on_host = {"name": "app"}, {"name": "bridge"}, {"name": "host"}
    assert [(event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"]) for event in events] == [
        ("create", app, {**on_app, "type": "bridge"}),
        ("connect", id_on_node("bridge"), {"container": web, **on_bridge, "type": "bridge"}),
        ("connect", app, {"container": web, **on_app, "type": "bridge"}),
        ("disconnect", id_on_node("bridge"), {"container": web, **on_bridge, "type": "bridge"}),
        ("disconnect", app, {"container": web, **on_app, "type": "bridge"}),
        ("disconnect", app, {"container": web, **on_app, "type": "bridge"}),
        ("connect", id_on_node("host"), {"container": at_host, **on_host, "type": "host"}),
        ("destroy", app, {**on_app, "type": "bridge"}),
    ]
    assert all(event["scope"] == "local" for event in events)


async def test_sdk(cli: DockerCLI, api_socket: str, golden: Callable[[str], Any]) -> None:
    def use() -> dict[str, Any]:
        client = docker.DockerClient(base_url=f"unix://{api_socket}")
        try:
            ipam = IPAMConfig(
                pool_configs=[IPAMPool(subnet="10.9.0.0/24", gateway="10.9.0.9", aux_addresses={"router": "10.9.0.8"})]
            )
            app = client.networks.create("app", driver="bridge", ipam=ipam, labels={"a": "b"}, internal=True, check_duplicate=True)
            client.networks.create("unused")
            web = client.containers.run("box:1", name="web", detach=True, network="app")
            app.disconnect(web)
            app.connect("web", aliases=["db"], ipv4_address="10.9.0.7")
            app.reload()
            assert [one.name for one in app.containers] == ["web"]
            assert [one.name for one in client.networks.list(names=["app"], greedy=True)] == ["app"]
            assert [one.id for one in client.networks.list(filters={"label": "a=b"})] == [app.id]
            assert client.networks.get(app.id[:12]).attrs["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"router": "10.9.0.8"}
            assert client.networks.prune()["NetworksDeleted"] == ["unused"]
            with pytest.raises(docker.errors.APIError, match="already exists"):
                client.networks.create("app")
            with pytest.raises(docker.errors.NotFound, match="network nosuch not found"):
                client.networks.get("nosuch")
            attributes: dict[str, Any] = app.attrs
            web.remove(force=True)
            app.remove()
            return attributes
        finally:
            client.close()

    ours = await asyncio.to_thread(use)
    theirs = next(one for one in golden("networks") if one["Name"] == "docker_gwbridge")
    theirs |= {"Options": {}, "Labels": {"a": "b"}, "Containers": ours["Containers"]}
    theirs["IPAM"]["Config"][0]["AuxiliaryAddresses"] = {"router": "10.9.0.8"}
    assert shape_differences(ours, theirs) == ["$.IPAM.Options: dict, theirs is NoneType"], (
        "they are so for networks that users make"
    )
