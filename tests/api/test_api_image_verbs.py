"""What leaves and enters a node through the API: save, push, import, login, history, prune; with Docker's client."""

import asyncio
import base64
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from docker_command import DockerCLI
from image_builder import BuiltImage, Entry, digest_of, make_layer, write_docker_archive
from image_registries import RealRegistry, running_registry
from msgspec.structs import replace

from pyswarm_agent.runtime import ContainerConfig
from pyswarm_node.api.fake_control import FakeNodeControl

pytestmark = pytest.mark.kernel

BASE = make_layer([Entry("base", b"0123456789")])
IMAGE = BuiltImage([BASE, make_layer([Entry("hello", b"hi")])], {"Cmd": ["/hello"], "Labels": {"a": "b"}})
OTHER = BuiltImage([BASE], {"Labels": {"keep": "yes"}})
HTPASSWD = "tester:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi"
CONTAINER = ContainerConfig(id="c" * 64, name="c", image="hello:1", image_id=IMAGE.id, args=("/hello",))
AUTH = {"username": "tester", "password": "opensesame"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """A registry that wants credentials."""
    with running_registry(tmp_path_factory.mktemp("registry"), htpasswd=HTPASSWD) as registry:
        registry.authorization = "Basic " + base64.b64encode(b"tester:opensesame").decode()
        yield registry


@pytest.fixture
async def loaded(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """The images hello:1, quay.io/x/hello:2 and other:1 are here."""
    path = tmp_path / "saved.tar"
    write_docker_archive(path, [(IMAGE, ["hello:1", "quay.io/x/hello:2"]), (OTHER, ["other:1"])])
    assert (await client.post("/images/load", content=path.read_bytes())).status_code == 200


def header(auth: dict[str, str]) -> dict[str, str]:
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()}


def lines(answer: httpx.Response) -> list[Any]:
    return [json.loads(one) for one in answer.text.splitlines()]


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("path", ["/images/hello:1/get", "/images/get?names=hello:1", "/images/quay.io/x/hello:2/get"])
async def test_save_answers_a_tarball(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-tar")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        assert len(json.load(manifest)) == 1
    assert (await client.get("/images/nosuch/get")).status_code == 404
    assert (await client.get("/images/get")).status_code == 400


@pytest.mark.usefixtures("loaded")
async def test_history_in_dockers_shape(client: httpx.AsyncClient) -> None:
    newest, oldest = (await client.get("/images/hello:1/history")).json()
    assert newest == {
        "Id": IMAGE.id,
        "Created": 0,
        "CreatedBy": "pyswarm build-image",
        "Tags": ["hello:1", "quay.io/x/hello:2"],
        "Size": 2,
        "Comment": "",
    }
    assert (oldest["Id"], oldest["Tags"], oldest["Size"]) == ("<missing>", None, 10)
    assert (await client.get("/images/nosuch/history")).status_code == 404


async def test_login_in_dockers_words(client: httpx.AsyncClient, registry: RealRegistry) -> None:
    right = await client.post("/auth", json={**AUTH, "serveraddress": registry.host})
    assert (right.status_code, right.json()) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    wrong = await client.post("/auth", json={**AUTH, "password": "x", "serveraddress": registry.host})
    message = f"login attempt to http://{registry.host}/v2/ failed with status: 401 Unauthorized"
    assert (wrong.status_code, wrong.json()) == (401, {"message": message})


@pytest.mark.usefixtures("loaded")
async def test_push_reports_progress_and_the_digest(client: httpx.AsyncClient, registry: RealRegistry) -> None:
    await client.post("/images/hello:1/tag", params={"repo": f"{registry.host}/pushed", "tag": "1"})
    answer = await client.post(f"/images/{registry.host}/pushed/push", params={"tag": "1"}, headers=header(AUTH))
    said = lines(answer)
    assert said[0] == {"status": f"The push refers to repository [{registry.host}/pushed]"}
    assert sorted({one["status"] for one in said if "id" in one}) == ["Preparing", "Pushed", "Pushing"]
    assert said[-1]["aux"]["Tag"] == "1"
    assert said[-2]["status"] == f"1: digest: {said[-1]['aux']['Digest']} size: {said[-1]['aux']['Size']}"
    refused = await client.post(f"/images/{registry.host}/pushed/push", params={"tag": "1"})
    assert "authentication required" in lines(refused)[-1]["error"]
    unknown = await client.post(f"/images/{registry.host}/nosuch/push", params={"tag": "1"})
    assert unknown.status_code == 404


@pytest.mark.usefixtures("loaded")
async def test_prune_takes_what_its_filters_say(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    async def prune(**filters: list[str]) -> dict[str, Any]:
        answer = await client.post("/images/prune", params={"filters": json.dumps(filters)})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def names() -> list[str]:
        return sorted(name for image in (await client.get("/images/json")).json() for name in image["RepoTags"] or ["<none>"])

    assert await prune() == {"ImagesDeleted": None, "SpaceReclaimed": 0}
    await control.agent.containers.create(CONTAINER)
    for kept in ({"label": ["none"]}, {"label!": ["keep"]}, {"until": ["1969-01-01T00:00:00Z"]}):
        assert await prune(dangling=["false"], **kept) == {"ImagesDeleted": None, "SpaceReclaimed": 0}
    assert await prune(dangling=["false"], until=["1h"]) == {
        "ImagesDeleted": [{"Untagged": "other:1"}, {"Deleted": OTHER.id}],
        "SpaceReclaimed": 0,  # the other image has its layer too
    }
    assert await names() == ["hello:1", "quay.io/x/hello:2"]
    await control.agent.containers.remove("c" * 64)
    freed = await prune(dangling=["false"])
    assert freed["SpaceReclaimed"] == 12
    assert {"Deleted": digest_of(BASE)} in freed["ImagesDeleted"]
    assert await names() == []


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("bad", [{"dangling": ["maybe"]}, {"until": ["soon"]}, {"colour": ["red"]}, {"until": ["1h", "2h"]}])
async def test_a_prune_with_a_filter_that_makes_no_sense_removes_nothing(client: httpx.AsyncClient, bad: Any) -> None:
    answer = await client.post("/images/prune", params={"filters": json.dumps({"dangling": ["false"], **bad})})
    assert answer.status_code == 400
    assert len((await client.get("/images/json")).json()) == 2


@pytest.mark.usefixtures("loaded")
async def test_an_image_in_use_is_kept_in_dockers_words(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    runtime = control.agent.containers
    await runtime.create(replace(CONTAINER, image_id=OTHER.id))
    refused = await client.delete("/images/other:1")
    assert (refused.status_code, refused.json()["message"]) == (
        409,
        f'conflict: unable to remove repository reference "other:1" (must force) - container {"c" * 12} '
        f"is using its referenced image {OTHER.id[7:19]}",
    )
    by_id = await client.delete(f"/images/{OTHER.id}")
    assert by_id.json()["message"].endswith(f"(must be forced) - image is being used by stopped container {'c' * 12}")
    await runtime.start_container("c" * 64)
    forced = await client.delete(f"/images/{OTHER.id}", params={"force": "1"})
    assert forced.json()["message"].endswith(f"(cannot be forced) - image is being used by running container {'c' * 12}")
    assert (await client.delete("/images/other:1", params={"force": "1"})).json() == [{"Untagged": "other:1"}]


@pytest.mark.usefixtures("loaded")
async def test_disk_use_counts_each_layer_once(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    await control.agent.containers.create(CONTAINER)
    found = (await client.get("/system/df")).json()
    assert found["LayersSize"] == 12
    assert {image["Id"]: (image["Size"], image["SharedSize"], image["Containers"]) for image in found["Images"]} == {
        IMAGE.id: (12, 10, 1),
        OTHER.id: (10, 10, 0),
    }
    shown = (await client.get("/images/json", params={"shared-size": "1"})).json()
    assert {image["SharedSize"] for image in shown} == {10}


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/build", "building images is not supported"),
        ("POST", "/commit", "making images of containers is not supported"),
        ("GET", "/images/search?term=nginx", "searching Docker Hub is not supported"),
    ],
)
async def test_what_is_not_offered_says_what_to_do(client: httpx.AsyncClient, method: str, path: str, words: str) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 501
    assert words in answer.json()["message"]


@pytest.mark.usefixtures("loaded")
async def test_docker_saves_loads_imports_and_shows(api_socket: str, tmp_path: Path) -> None:
    docker = DockerCLI(api_socket)
    saved = tmp_path / "docker-saved.tar"
    await docker("save", "-o", str(saved), "hello:1", "other:1")
    await docker("rmi", "-f", "hello:1", "quay.io/x/hello:2", "other:1")
    assert (await docker("images", "-q")).split() == []
    assert sorted((await docker("load", "-i", str(saved))).split("\n"))[1:] == ["Loaded image: hello:1", "Loaded image: other:1"]
    history = await docker("history", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}}", "hello:1")
    assert history.split("\n")[:2] == [f"{IMAGE.id[7:19]} pyswarm build-image 2B", "<missing> pyswarm build-image 10B"]
    files = tmp_path / "files.tar"
    files.write_bytes(BASE)
    image_id = (await docker("import", "-c", "CMD /base", "-m", "by hand", str(files), "imported:1")).strip()
    shown = await docker("image", "inspect", "--format", "{{.Id}} {{.Comment}} {{json .Config.Cmd}}", "imported:1")
    assert shown.strip() == f'{image_id} by hand ["/bin/sh","-c","/base"]'
    pruned = await docker("image", "prune", "-af")
    assert "deleted: " + image_id in pruned
    assert "Total reclaimed space: 12B" in pruned


@pytest.mark.usefixtures("loaded")
async def test_docker_logs_in_pushes_and_pulls(api_socket: str, registry: RealRegistry, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "DOCKER_HOST": f"unix://{api_socket}", "PATH": os.environ["PATH"]}

    async def docker(*arguments: str, typed: str = "") -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *("docker", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=home,
        )
        output, _ = await process.communicate(typed.encode())
        return process.returncode or 0, output.decode()

    name = f"{registry.host}/by-docker:1"
    assert (await docker("tag", "hello:1", name))[0] == 0
    code, output = await docker("push", name)
    assert code != 0
    assert "authentication required" in output
    code, output = await docker("login", "-u", "tester", "--password-stdin", registry.host, typed="wrong")
    assert code != 0
    assert "401 Unauthorized" in output
    code, output = await docker("login", "-u", "tester", "--password-stdin", registry.host, typed="opensesame")
    assert (code, "Login Succeeded" in output) == (0, True), output
    code, output = await docker("push", name)
    assert (code, "1: digest: sha256:" in output) == (0, True), output
    assert (await docker("rmi", name))[0] == 0
    code, output = await docker("pull", name)
    assert (code, "Downloaded newer image" in output) == (0, True), output
