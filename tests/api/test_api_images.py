"""Images and containers through the API, with a real image store, a real registry and the docker CLI."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive
from image_registries import RealRegistry, running_registry
from json_shapes import shape_differences
from test_docker_clients import DockerCLI

from pyswarm_agent.runtime import ContainerConfig
from pyswarm_node.api.fake_control import FakeNodeControl

pytestmark = pytest.mark.kernel

Golden = Callable[[str], Any]
IMAGE = BuiltImage([make_layer([Entry("hello", b"hi")])], {"Cmd": ["/hello"], "Env": ["A=1"], "Labels": {"a": "b"}})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        registry.push(IMAGE, "hello", "1")
        yield registry


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "saved.tar"
    write_docker_archive(path, [(IMAGE, ["hello:1", "quay.io/x/hello:2"])])
    return path


async def load(client: httpx.AsyncClient, archive: Path) -> None:
    answer = await client.post("/images/load", content=archive.read_bytes(), params={"quiet": "1"})
    assert answer.status_code == 200
    lines = [json.loads(one) for one in answer.text.splitlines()]
    assert lines == [{"stream": "Loaded image: hello:1\n"}, {"stream": "Loaded image: quay.io/x/hello:2\n"}]


async def test_loaded_image_looks_as_docker_shows_it(client: httpx.AsyncClient, archive: Path, golden: Golden) -> None:
    await load(client, archive)
    ours, theirs = (await client.get("/images/json")).json(), golden("images")[:1]
    theirs[0]["Labels"] = {"a": "b"}
    assert shape_differences(ours, theirs) == []
    assert (ours[0]["Id"], ours[0]["RepoTags"]) == (IMAGE.id, ["hello:1", "quay.io/x/hello:2"])
    ours, theirs = (await client.get("/images/hello:1/json")).json(), golden("image_inspect")
    theirs["Config"] |= {"Env": ["A=1"], "Labels": {"a": "b"}}
    theirs["GraphDriver"]["Data"] = None
    assert shape_differences(ours, theirs) == []
    assert ours["Config"]["Cmd"] == ["/hello"]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"reference": {"hello": True}}, 1),
        ({"reference": {"quay.io/*/hello:2": True}}, 1),
        ({"reference": {"*": True}}, 1),
        ({"reference": {"nosuch": True}}, 0),
        ({"dangling": {"true": True}}, 0),
        ({"label": {"a=b": True}}, 1),
        ({"label": {"c": True}}, 0),
    ],
)
async def test_filters(client: httpx.AsyncClient, archive: Path, filters: Any, count: int) -> None:
    await load(client, archive)
    assert len((await client.get("/images/json", params={"filters": json.dumps(filters)})).json()) == count


async def test_tag_and_remove(client: httpx.AsyncClient, archive: Path) -> None:
    await load(client, archive)
    parameters = {"repo": "docker.io/library/other", "tag": "3"}
    assert (await client.post("/images/hello:1/tag", params=parameters)).status_code == 201
    assert (await client.get("/images/other:3/json")).json()["Id"] == IMAGE.id
    for name in ("other:3", "hello:1"):
        assert (await client.delete(f"/images/{name}")).json() == [{"Untagged": name}]
    removed = (await client.delete("/images/quay.io/x/hello:2")).json()
    assert removed[:2] == [{"Untagged": "quay.io/x/hello:2"}, {"Deleted": IMAGE.id}]
    assert (await client.get("/images/json")).json() == []
    gone = await client.delete("/images/hello:1")
    assert (gone.status_code, gone.json()) == (404, {"message": "No such image: hello:1"})


async def test_pull_reports_progress(client: httpx.AsyncClient, registry: RealRegistry) -> None:
    answer = await client.post("/images/create", params={"fromImage": f"{registry.host}/hello", "tag": "1"})
    assert answer.status_code == 200
    lines = [json.loads(one) for one in answer.text.splitlines()]
    assert lines[0]["status"] == "Pulling from hello"
    assert lines[0]["id"] == "1"
    assert lines[-1]["status"] == f"Status: Downloaded newer image for {registry.host}/hello:1"
    assert any(one["status"] == "Pull complete" and "progressDetail" in one for one in lines)
    assert (await client.get(f"/images/{registry.host}/hello:1/json")).json()["Id"] == IMAGE.id


async def test_pull_errors_reach_the_client(client: httpx.AsyncClient, registry: RealRegistry) -> None:
    bad_name = await client.post("/images/create", params={"fromImage": "No Good", "tag": "1"})
    assert bad_name.status_code == 400
    unknown = await client.post("/images/create", params={"fromImage": f"{registry.host}/nosuch", "tag": "1"})
    last = json.loads(unknown.text.splitlines()[-1])
    assert "nosuch" in (last["error"] if unknown.status_code == 200 else last["message"])
    importing = await client.post("/images/create", params={"fromSrc": "http://127.0.0.1/files.tar"})
    assert importing.status_code == 501
    empty = await client.post("/images/create", params={"fromSrc": "-"})
    assert (empty.status_code, empty.json()) == (400, {"message": "the tarball to import is empty"})


async def test_distribution_tells_digest_and_platforms(client: httpx.AsyncClient, registry: RealRegistry) -> None:
    auth = base64.urlsafe_b64encode(b'{"username":"a","password":"b","serveraddress":"x"}').decode()
    answer = await client.get(f"/distribution/{registry.host}/hello:1/json", headers={"X-Registry-Auth": auth})
    body = answer.json()
    assert body["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    assert body["Descriptor"]["digest"].startswith("sha256:")
    assert body["Descriptor"]["size"] > 0
    unknown = await client.get(f"/distribution/{registry.host}/nosuch:1/json")
    assert unknown.status_code in (401, 403, 404)
    bad_auth = await client.get("/distribution/hello:1/json", headers={"X-Registry-Auth": "e30x"})
    assert bad_auth.status_code == 400


async def test_containers_of_tasks_are_listed(client: httpx.AsyncClient, control: FakeNodeControl, golden: Golden) -> None:
    labels = golden("containers")[0]["Labels"]
    runtime = control.agent.containers
    for number, name in enumerate(("web.1.task1", "web.2.task2")):
        args = ("sh", "-c", "sleep 5")
        await runtime.create(ContainerConfig(id=f"{number}" * 64, name=name, image="a:1", labels=labels, args=args))
    await runtime.start_container("0" * 64)
    listed = (await client.get("/containers/json")).json()
    theirs = golden("containers")[0]
    theirs["NetworkSettings"]["Networks"] = {}
    assert shape_differences(listed, [theirs]) == []
    assert (listed[0]["Names"], listed[0]["State"], listed[0]["Command"]) == (["/web.1.task1"], "running", "sh -c 'sleep 5'")
    assert listed[0]["Status"].startswith("Up ")
    both = (await client.get("/containers/json", params={"all": "1"})).json()
    assert [container["Status"].split()[0] for container in both] == ["Created", "Up"]
    filters = json.dumps({"label": {"com.docker.swarm.service.name=gsvc": True}, "status": ["created"]})
    found = (await client.get("/containers/json", params={"filters": filters})).json()
    assert [container["Id"] for container in found] == ["1" * 64]
    for reference in ("0" * 64, "web.1.task1", "000"):
        shown = (await client.get(f"/containers/{reference}/json")).json()
        assert (shown["Path"], shown["State"]["Status"], shown["Config"]["Labels"]) == ("sh", "running", labels)
    assert (await client.get("/info")).json()["ContainersRunning"] == 1


async def test_cli_loads_pulls_and_lists(api_socket: str, archive: Path, registry: RealRegistry) -> None:
    docker_cli = DockerCLI(api_socket)
    assert "Loaded image: hello:1" in await docker_cli("load", "-i", str(archive))
    pulled = await docker_cli("pull", f"{registry.host}/hello:1")
    assert "Downloaded newer image" in pulled or "Image is up to date" in pulled
    names = await docker_cli("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert sorted(names.split()) == sorted(["hello:1", "quay.io/x/hello:2", f"{registry.host}/hello:1"])
    code, _, errors = await docker_cli.run("pull", f"{registry.host}/nosuch:1")
    assert code != 0
    assert "nosuch" in errors
    await docker_cli("service", "create", "-d", "--name", "web", f"{registry.host}/hello:1")
    image = await docker_cli("service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "web")
    assert image.startswith(f"{registry.host}/hello:1@sha256:")
    assert "No such image" not in await docker_cli("image", "inspect", "hello:1")
