"""The unmodified docker CLI and SDK with secrets and configs; nothing runs tasks behind the API."""

import asyncio
import json
from pathlib import Path

import docker
import httpx
import pytest
from docker.types import ConfigReference, SecretReference
from docker_command import DockerCLI

from pyswarm_common.container_spec import ContainerSpec
from pyswarm_manager.store.store import Store

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def docker_cli(api_socket: str) -> DockerCLI:
    return DockerCLI(api_socket)


def container_of(store: Store, service: str) -> ContainerSpec:
    found = store.view.services.named(service)[0]
    container = store.view.task_specs.must_get(found.task_spec_id).template.container_spec
    assert container is not None
    return container


@pytest.mark.parametrize("noun", ["secret", "config"])
async def test_cli_life(docker_cli: DockerCLI, tmp_path: Path, noun: str) -> None:
    file = tmp_path / "value"
    file.write_text("open sesame")
    created = (await docker_cli(noun, "create", "--label", "a=b", "--template-driver", "golang", "key", str(file))).strip()
    assert (
        await docker_cli(noun, "ls", "--format", "{{.ID}} {{.Name}} {{.Labels}}", "--filter", "name=key") == f"{created} key a=b\n"
    )
    (found,) = json.loads(await docker_cli(noun, "inspect", "key"))
    assert found["Spec"]["Templating"]["Name"] == "golang"
    assert ("Data" in found["Spec"]) == (noun == "config")
    pretty = await docker_cli(noun, "inspect", "--pretty", created)
    assert ("open sesame" in pretty) == (noun == "config")
    code, _, errors = await docker_cli.run(noun, "create", "key", str(file))
    assert code != 0
    assert f"code = AlreadyExists desc = {noun} key already exists" in errors
    await docker_cli("service", "create", "-d", "--no-resolve-image", "--name", "web", f"--{noun}", "key", "nginx:1")
    code, _, errors = await docker_cli.run(noun, "rm", "key")
    assert code != 0
    assert f"{noun} 'key' is in use by the following service: web" in errors
    await docker_cli("service", "rm", "web")
    assert (await docker_cli(noun, "rm", "key")) == "key\n"
    code, _, errors = await docker_cli.run(noun, "inspect", "key")
    assert code != 0
    assert any(
        words in errors.lower() for words in (f"no such {noun}: key", f"{noun} key not found")
    )  # as the client's version has it


async def test_cli_gives_them_to_services(docker_cli: DockerCLI, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("x")
    for name in ("s1", "s2"):
        await docker_cli("secret", "create", name, str(file))
    await docker_cli("config", "create", "c1", str(file))
    create = ("service", "create", "-d", "--no-resolve-image", "--name", "web", "--secret", "s1")
    await docker_cli(*create, "--config", "source=c1,target=/etc/c1,uid=33,gid=50,mode=0440", "nginx:1")
    container = container_of(store, "web")
    assert container.secrets is not None
    assert container.configs is not None
    secret, config = container.secrets[0].file, container.configs[0].file
    assert secret is not None
    assert config is not None
    assert (secret.name, secret.uid, secret.gid, secret.mode) == ("s1", "0", "0", 0o444)
    assert (config.name, config.uid, config.gid, config.mode) == ("/etc/c1", "33", "50", 0o440)
    await docker_cli(
        "service", "update", "-d", "--secret-rm", "s1", "--secret-add", "source=s2,target=s1", "--config-rm", "c1", "web"
    )
    container = container_of(store, "web")
    assert [(r.secret_name, r.file.name if r.file else "") for r in container.secrets or ()] == [("s2", "s1")]
    assert not container.configs
    code, _, errors = await docker_cli.run("service", "update", "-d", "--secret-add", "nosuch", "web")
    assert code != 0
    assert "secret not found: nosuch" in errors


async def test_cli_deploys_a_stack_twice(docker_cli: DockerCLI, store: Store, tmp_path: Path) -> None:
    for name in ("key", "conf"):
        (tmp_path / name).write_text(name)
    file = tmp_path / "stack.yml"
    file.write_text(
        """
version: '3.8'
services:
  web:
    image: nginx:1
    secrets: [key]
    configs: [{source: conf, target: /etc/conf, mode: 0400}]
secrets: {key: {file: ./key}}
configs: {conf: {file: ./conf}}
"""
    )
    for _ in range(2):
        await docker_cli("stack", "deploy", "--resolve-image", "never", "-c", str(file), "st")
    container = container_of(store, "st_web")
    assert [reference.secret_name for reference in container.secrets or ()] == ["st_key"]
    assert [reference.config_name for reference in container.configs or ()] == ["st_conf"]
    assert store.view.services.named("st_web")[0].spec_generation == 1
    (tmp_path / "key").write_text("another")
    code, _, errors = await docker_cli.run("stack", "deploy", "--resolve-image", "never", "-c", str(file), "st")
    assert code != 0
    assert "only updates to Labels are allowed" in errors
    await docker_cli("stack", "rm", "st")
    assert (len(store.view.secrets), len(store.view.configs)) == (0, 0)


def _use_sdk(socket_path: str) -> None:
    client = docker.DockerClient(base_url=f"unix://{socket_path}")
    try:
        secret = client.secrets.create(name="key", data=b"open sesame", labels={"a": "b"})
        config = client.configs.create(name="conf", data=b"x")
        assert [item.id for item in client.secrets.list(filters={"name": "key"})] == [secret.id]
        service = client.services.create(
            "nginx:1",
            name="web",
            secrets=[SecretReference(secret.id, "key")],
            configs=[ConfigReference(config.id, "conf", mode=0o400)],
        )
        reference = service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"][0]
        assert (reference["SecretID"], reference["File"]["Name"]) == (secret.id, "key")
        service.remove()
        for item in (secret, config):
            item.reload()
            assert item.remove()
    finally:
        client.close()


async def test_python_sdk(api_socket: str, client: httpx.AsyncClient) -> None:
    await asyncio.to_thread(_use_sdk, api_socket)
    assert [(await client.get(path)).json() for path in ("/secrets", "/configs")] == [[], []]
