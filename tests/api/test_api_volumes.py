"""Volumes through the API, with a real store of volumes: routes, the docker CLI, and our own."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from docker_command import DockerCLI
from json_shapes import shape_differences

from pyswarm_agent.runtime.records import ContainerConfig, MountConfig
from pyswarm_cli.main import pyswarm
from pyswarm_node.api.fake_control import FakeNodeControl

pytestmark = pytest.mark.kernel

Golden = Callable[[str], Any]
USER = "c" * 64


async def create(client: httpx.AsyncClient, name: str, **more: Any) -> dict[str, Any]:
    answer = await client.post("/volumes/create", json={"Name": name, **more})
    assert answer.status_code == 201
    found: dict[str, Any] = answer.json()
    return found


async def use(control: FakeNodeControl, *names: str) -> None:
    """Make a container that mounts the volumes."""
    mounts = tuple(MountConfig(type="bind", source="/", target=f"/{name}", volume=name) for name in names)
    await control.agent.containers.create(ContainerConfig(id=USER, args=("x",), mounts=mounts))


async def test_a_volume_looks_as_docker_shows_it(client: httpx.AsyncClient, control: FakeNodeControl, golden: Golden) -> None:
    labels = {"com.docker.stack.namespace": "st"}
    made = await create(client, "st_vol", Labels=labels, DriverOpts={})
    theirs = golden("system_df")["Volumes"][0]
    usage = theirs.pop("UsageData")
    assert shape_differences(made, theirs) == []
    assert (made["Labels"], made["Options"], made["Scope"], made["Driver"]) == (labels, None, "local", "local")
    assert made["Mountpoint"] == str(control.agent.volumes.data_path("st_vol"))
    assert (await client.get("/volumes/st_vol")).json() == made
    assert (await client.get("/volumes")).json() == {"Volumes": [made], "Warnings": None}
    assert (await client.get("/system/df")).json()["Volumes"] == [{**made, "UsageData": usage}]


async def test_options_and_anonymous_volumes(client: httpx.AsyncClient) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    assert (await create(client, "memory", DriverOpts=options))["Options"] == options
    anonymous = (await client.post("/volumes/create")).json()
    assert (len(anonymous["Name"]), anonymous["Labels"]) == (64, {"com.docker.volume.anonymous": ""})


async def test_disk_use_counts_bytes_and_containers(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    await create(client, "used")
    (control.agent.volumes.data_path("used") / "x").write_bytes(bytes(123))
    await use(control, "used")
    assert (await client.get("/system/df")).json()["Volumes"][0]["UsageData"] == {"RefCount": 1, "Size": 123}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"Name": "x"}, 400, "create x: volume name is too short, names should be at least two alphanumeric characters"),
        ({"Name": "taken", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}}, 409, "create taken: a volume of this name exists"),
        ({"Name": "new", "Driver": "nosuch"}, 404, 'create new: error looking up volume plugin nosuch: plugin "nosuch" not found'),
        ({"Name": "new", "DriverOpts": {"size": "1G"}}, 400, "create new: quota size requested but no quota support"),
        ({"Name": "new", "ClusterVolumeSpec": {"Group": "x"}}, 501, "a cluster volume (CSI) is not supported yet"),
        ({"Name": 7}, 400, "Name must be a text"),
        ({"Name": "new", "Labels": ["a"]}, 400, "Labels must be an object of texts"),
    ],
)
async def test_volumes_that_cannot_be_made(client: httpx.AsyncClient, body: dict[str, Any], status: int, message: str) -> None:
    await create(client, "taken")
    answer = await client.post("/volumes/create", json=body)
    assert answer.status_code == status
    assert answer.json()["message"].startswith(message)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["alpha", "beta"]),
        ({"name": ["lph"]}, ["alpha"]),
        ({"label": ["a"]}, ["alpha"]),
        ({"label": ["a=c"]}, []),
        ({"driver": ["local"]}, ["alpha", "beta"]),
        ({"driver": ["other"]}, []),
        ({"dangling": ["true"]}, ["alpha"]),
        ({"dangling": ["0"]}, ["beta"]),
    ],
)
async def test_filters(client: httpx.AsyncClient, control: FakeNodeControl, filters: Any, names: list[str]) -> None:
    await create(client, "alpha", Labels={"a": "b"})
    await create(client, "beta")
    await use(control, "beta")
    answer = await client.get("/volumes", params={"filters": json.dumps(filters)})
    assert [volume["Name"] for volume in answer.json()["Volumes"]] == names


@pytest.mark.parametrize(("filters", "message"), [({"x": ["1"]}, "Invalid filter 'x'"), ({"dangling": ["?"]}, "invalid filter")])
async def test_filters_that_cannot_be(client: httpx.AsyncClient, filters: Any, message: str) -> None:
    answer = await client.get("/volumes", params={"filters": json.dumps(filters)})
    assert (answer.status_code, answer.json()["message"][: len(message)]) == (400, message)


async def test_what_a_container_uses_stays(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    await create(client, "data")
    await use(control, "data")
    answer = await client.delete("/volumes/data", params={"force": "1"})
    assert (answer.status_code, answer.json()) == (409, {"message": f"remove data: volume is in use - [{USER}]"})
    await control.agent.containers.remove(USER)
    assert (await client.delete("/volumes/data")).status_code == 204
    assert (await client.delete("/volumes/data")).json() == {"message": "get data: no such volume"}
    assert (await client.delete("/volumes/data", params={"force": "1"})).status_code == 204


async def test_changing_is_for_cluster_volumes(client: httpx.AsyncClient) -> None:
    assert (await client.put("/volumes/data", params={"version": 1})).status_code == 404
    await create(client, "data")
    assert (await client.put("/volumes/data", params={"version": 1})).status_code == 503


@pytest.mark.parametrize(
    ("path", "filters", "left"),
    [
        ("/volumes/prune", {}, ["keep", "named", "used"]),
        ("/volumes/prune", {"all": ["true"]}, ["used"]),
        ("/volumes/prune", {"all": ["1"], "label!": ["keep"]}, ["keep", "used"]),
        ("/volumes/prune", {"all": ["1"], "label": ["keep=yes"]}, ["named", "used", "…"]),
        ("/v1.41/volumes/prune", {}, ["used"]),
        ("/v1.41/volumes/prune", {"all": ["false"]}, ["keep", "named", "used"]),
    ],
)
async def test_prune(client: httpx.AsyncClient, control: FakeNodeControl, path: str, filters: Any, left: list[str]) -> None:
    await create(client, "named")
    await create(client, "keep", Labels={"keep": "yes"})
    await create(client, "used")
    await create(client, "")
    await use(control, "used")
    before = {volume.name for volume in control.agent.volumes.list()}
    answer = (await client.post(path, params={"filters": json.dumps(filters)})).json()
    after = {volume.name for volume in control.agent.volumes.list()}
    assert sorted("…" if len(name) == 64 else name for name in after) == left
    assert sorted(answer["VolumesDeleted"]) == sorted(before - after)
    assert answer["SpaceReclaimed"] == 0


async def test_the_docker_cli(api_socket: str, control: FakeNodeControl) -> None:
    docker = DockerCLI(api_socket)
    assert await docker("volume", "create", "data", "--label", "a=b") == "data\n"
    assert await docker("volume", "create", "data") == "data\n"
    assert len((await docker("volume", "create")).strip()) == 64
    assert (await docker("volume", "ls", "--filter", "name=data")).split() == ["DRIVER", "VOLUME", "NAME", "local", "data"]
    assert json.loads(await docker("volume", "inspect", "data"))[0]["Labels"] == {"a": "b"}
    assert await docker("volume", "ls", "-q", "--filter", "label=a=b") == "data\n"
    await use(control, "data")
    code, _, errors = await docker.run("volume", "rm", "data")
    assert (code, errors) == (1, f"Error response from daemon: remove data: volume is in use - [{USER}]\n")
    code, _, errors = await docker.run("volume", "inspect", "nosuch")
    assert code == 1
    assert errors in (
        "Error response from daemon: get nosuch: no such volume\n",
        "Error: No such volume: nosuch\n",
    )  # 20.10: the latter
    assert "Total reclaimed space: 0B" in await docker("volume", "prune", "-f")
    await control.agent.containers.remove(USER)
    assert await docker("volume", "rm", "data") == "data\n"
    assert await docker("volume", "ls", "-q") == ""
    await docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=5m", "mem")
    assert "mem" in await docker("system", "df", "-v")


async def run_cli(socket: str, *arguments: str, code: int = 0, answer: str = "") -> str:
    """Return what our own command prints."""
    result = await asyncio.to_thread(CliRunner().invoke, pyswarm, ["--host", f"unix://{socket}", *arguments], input=answer)
    assert result.exit_code == code, result.output
    return result.output


async def test_our_own_cli(api_socket: str, control: FakeNodeControl) -> None:
    options = ("-o", "type=tmpfs", "-o", "device=tmpfs", "--label", "a=b")
    assert await run_cli(api_socket, "volume", "create", *options, "memory") == "memory\n"
    assert await run_cli(api_socket, "volume", "create", "data") == "data\n"
    anonymous = (await run_cli(api_socket, "volume", "create")).strip()
    listed = await run_cli(api_socket, "volume", "ls")
    assert listed.splitlines()[0].split() == ["DRIVER", "VOLUME", "NAME"]
    assert [line.split() for line in listed.splitlines()[1:]] == [["local", n] for n in sorted(["memory", "data", anonymous])]
    assert await run_cli(api_socket, "volume", "ls", "--filter", "label=a", "--format", "{{.Name}} {{.Labels}}") == "memory a=b\n"
    assert await run_cli(api_socket, "volume", "inspect", "data", "--format", "{{.Driver}} {{.Scope}}") == "local local\n"
    await use(control, "data")
    assert "Are you sure" in await run_cli(api_socket, "volume", "prune", answer="n\n")
    pruned = await run_cli(api_socket, "volume", "prune", "--force")
    assert pruned.split("\n") == ["Deleted Volumes:", anonymous, "", "Total reclaimed space: 0B", ""]
    assert "volume is in use" in await run_cli(api_socket, "volume", "rm", "data", "nosuch", code=1)
    assert "memory" in await run_cli(api_socket, "volume", "prune", "--all", answer="y\n")
    assert await run_cli(api_socket, "volume", "ls", "-q") == "data\n"
