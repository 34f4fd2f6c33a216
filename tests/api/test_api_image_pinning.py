"""Services whose image is named by a tag: its digest is recorded once, so that all their tasks run the same."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from docker_command import DockerCLI
from image_builder import BuiltImage, Entry, make_layer
from image_registries import RealRegistry, free_port, running_registry

from pyswarm_agent.images.records import registry_auth_of_header
from pyswarm_common.clock import SystemClock
from pyswarm_manager.api.image_pinning import ImagePinning, digest_warning
from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

pytestmark = pytest.mark.kernel

OLD, NEW = (BuiltImage([make_layer([Entry("f", data)])]) for data in (b"1", b"2"))
AUTH = base64.urlsafe_b64encode(b'{"username":"tester","password":"opensesame"}').decode()
HTPASSWD = "tester:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(autouse=True)
def pinning(control: FakeNodeControl) -> ImagePinning:
    """The manager pins images by asking registries, as the daemon puts it together."""

    async def pin(image: str, registry_auth: str) -> str:
        return await control.agent.images.pin(image, auth=registry_auth_of_header(registry_auth))

    assert control.manager is not None
    pinning = ImagePinning(pin, SystemClock())
    object.__setattr__(control.manager, "image_pinning", pinning)
    return pinning


def spec(image: str, replicas: int = 1, **container: Any) -> dict[str, Any]:
    return {
        "Name": "web",
        "TaskTemplate": {"ContainerSpec": {"Image": image, **container}},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


async def create(client: httpx.AsyncClient, image: str, **parameters: str) -> dict[str, Any]:
    answer = await client.post("/services/create", json=spec(image), params=parameters)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def image_of(client: httpx.AsyncClient) -> str:
    return str((await client.get("/services/web")).json()["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])


async def update(client: httpx.AsyncClient, posted: dict[str, Any], **headers: str) -> dict[str, Any]:
    version = (await client.get("/services/web")).json()["Version"]["Index"]
    answer = await client.post("/services/web/update", params={"version": version}, json=posted, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_tag_becomes_a_digest_when_a_service_is_created(client: httpx.AsyncClient, registry: RealRegistry) -> None:
    digest = registry.push(OLD, "created", "latest")
    answer = await create(client, f"{registry.host}/created")
    assert answer["Warnings"] is None
    assert await image_of(client) == f"{registry.host}/created:latest@{digest}"


async def test_a_digest_is_kept_as_it_is_posted(client: httpx.AsyncClient) -> None:
    image = f"127.0.0.1:{free_port()}/nobody:1@sha256:{'a' * 64}"
    assert (await create(client, image))["Warnings"] is None  # nobody was asked
    assert await image_of(client) == image


async def test_a_service_that_is_posted_anew_stays_at_its_version(
    client: httpx.AsyncClient, registry: RealRegistry, store: Store
) -> None:
    name = f"{registry.host}/same"
    old = registry.push(OLD, "same", "1")
    await create(client, f"{name}:1")
    new = registry.push(NEW, "same", "1")
    task_spec = store.view.services.resolve("web").task_spec_id
    await update(client, spec(f"{name}:1", replicas=3))
    assert await image_of(client) == f"{name}:1@{old}"
    assert store.view.services.resolve("web").task_spec_id == task_spec  # no task is replaced
    assert new != old


async def test_another_tag_is_looked_up(client: httpx.AsyncClient, registry: RealRegistry) -> None:
    name = f"{registry.host}/moved"
    registry.push(OLD, "moved", "1")
    digest = registry.push(NEW, "moved", "2")
    await create(client, f"{name}:1")
    await update(client, spec(f"{name}:2"))
    assert await image_of(client) == f"{name}:2@{digest}"


async def test_a_registry_that_is_not_there_costs_a_warning_and_no_wait_twice(client: httpx.AsyncClient) -> None:
    image = f"127.0.0.1:{free_port()}/web:1"
    assert (await create(client, image))["Warnings"] == [digest_warning(image)]
    assert await image_of(client) == image
    taken = await client.post("/services/create", json=spec(image))
    assert taken.status_code == 409


async def test_it_can_be_left_out(client: httpx.AsyncClient, registry: RealRegistry) -> None:
    registry.push(OLD, "left", "1")
    assert (await create(client, f"{registry.host}/left:1", resolveImage="false"))["Warnings"] is None
    assert await image_of(client) == f"{registry.host}/left:1"


async def test_credentials_are_used_kept_and_never_shown(
    client: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_registry(tmp_path_factory.mktemp("guarded"), htpasswd=HTPASSWD) as guarded:
        guarded.authorization = "Basic " + base64.b64encode(b"tester:opensesame").decode()
        digests = [guarded.push(image, "private", tag) for image, tag in ((OLD, "1"), (NEW, "2"))]
        name = f"{guarded.host}/private"
        without = await client.post("/services/create", json={**spec(f"{name}:1"), "Name": "other"})
        assert without.json()["Warnings"] == [digest_warning(f"{name}:1")]
        answer = await client.post("/services/create", json=spec(f"{name}:1"), headers={"X-Registry-Auth": AUTH})
        assert answer.json()["Warnings"] is None
        assert await image_of(client) == f"{name}:1@{digests[0]}"
        await update(client, spec(f"{name}:2"))  # by the credentials that the service has
        assert await image_of(client) == f"{name}:2@{digests[1]}"
        shown = [
            (await client.get(path)).text for path in ("/services/web", "/services", "/tasks", "/services/web?insertDefaults=1")
        ]
        shown += [json.dumps(answer.json()), *capfd.readouterr()]
        for text in shown:
            assert AUTH not in text
            assert "opensesame" not in text


async def test_dockers_client_leaves_it_to_the_manager_when_told_so(api_socket: str, registry: RealRegistry) -> None:
    digest = registry.push(OLD, "docker", "1")
    docker = DockerCLI(api_socket)
    await docker("service", "create", "-d", "--no-resolve-image", "--name", "web", f"{registry.host}/docker:1")
    image = await docker("service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "web")
    assert image.strip() == f"{registry.host}/docker:1@{digest}"
