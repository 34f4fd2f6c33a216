"""The unmodified docker CLI and the Docker SDK for Python against a real socket; nothing runs tasks behind it."""

import asyncio
import json
from typing import Any

import docker
import httpx
import pytest
from docker.errors import APIError, NotFound
from docker.types import EndpointSpec, ServiceMode
from docker_command import DockerCLI

from pyswarm_manager.store.store import Store

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def docker_cli(api_socket: str) -> DockerCLI:
    return DockerCLI(api_socket)


async def test_cli_service_life(docker_cli: DockerCLI, store: Store) -> None:
    network_id = (await docker_cli("network", "create", "-d", "overlay", "--attachable", "app")).strip()
    create = ("service", "create", "-d", "--no-resolve-image", "--name", "web", "--replicas", "2", "--network", "app")
    limits = ("--limit-memory", "64M", "--reserve-cpu", "0.5", "--constraint", "node.role==worker", "--env", "A=1")
    service_id = (await docker_cli(*create, *limits, "nginx:1", "sleep", "5")).strip()
    service = store.view.services.must_get(service_id)
    template = store.view.task_specs.must_get(service.task_spec_id).template
    assert template.networks is not None
    assert [attached.target for attached in template.networks] == [network_id]
    assert template.resources is not None
    assert template.resources.limits is not None
    assert template.resources.limits.memory_bytes == 64 * 1024 * 1024

    rows = await docker_cli("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}")
    assert rows == "web replicated 0/2 nginx:1\n"
    assert (await docker_cli("service", "ps", "web", "--format", "{{.Name}}")) == ""
    assert "web scaled to 5" in await docker_cli("service", "scale", "-d", "web=5")
    after = store.view.services.must_get(service_id)
    assert (after.spec.replicas, after.task_spec_id, after.spec_generation) == (5, service.task_spec_id, 1)
    await docker_cli("service", "update", "-d", "--env-add", "B=2", "--force", "web")
    assert store.view.services.must_get(service_id).spec_generation == 2
    await docker_cli("service", "rollback", "-d", "web")
    assert store.view.services.must_get(service_id).spec_generation == 3
    pretty = await docker_cli("service", "inspect", "--pretty", "web")
    assert "Replicas:\t5" in pretty
    assert json.loads(await docker_cli("inspect", "web"))[0]["ID"] == service_id
    assert (await docker_cli("service", "rm", "web")) == "web\n"
    assert (await docker_cli("network", "rm", "app")) == "app\n"


async def test_cli_shows_nodes_networks_and_versions(docker_cli: DockerCLI) -> None:
    nodes = await docker_cli("node", "ls", "--format", "{{.Hostname}} {{.Self}} {{.Status}} {{.Availability}} {{.ManagerStatus}}")
    assert sorted(line.split() for line in nodes.splitlines()) == [
        ["vm", "true", "Ready", "Active", "Leader"],
        ["worker1", "false", "Ready", "Active"],
    ]
    assert "Hostname:              \tvm" in await docker_cli("node", "inspect", "--pretty", "self")
    await docker_cli("node", "update", "--availability", "drain", "--label-add", "zone=a", "worker1")
    assert "Drain" in await docker_cli("node", "ls", "--filter", "name=worker1")
    await docker_cli("network", "create", "-d", "overlay", "--label", "a=b", "app")
    listed = await docker_cli("network", "ls", "-f", "scope=swarm", "--format", "{{.Name}} {{.Driver}}")
    assert listed == "app overlay\ningress overlay\n"
    assert json.loads(await docker_cli("network", "inspect", "app"))[0]["Labels"] == {"a": "b"}
    assert (await docker_cli("version", "--format", "{{.Server.APIVersion}}")) == "1.41\n"
    assert (await docker_cli("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Nodes}}")) == "active 2\n"
    assert "docker swarm join --token SWMTKN-1-" in await docker_cli("swarm", "join-token", "worker")
    assert "rotated worker" in await docker_cli("swarm", "join-token", "--rotate", "worker")
    assert "Swarm updated" in await docker_cli("swarm", "update", "--task-history-limit", "3")


async def test_cli_lists_what_there_is_none_of(docker_cli: DockerCLI) -> None:
    for command in ("secret ls", "config ls", "volume ls", "plugin ls", "ps -a", "images", "stack ls", "system df"):
        await docker_cli(*command.split())
    await docker_cli("system", "prune", "-f")
    await docker_cli("events", "--since", "60s", "--until", "0s")


async def test_cli_errors_are_readable(docker_cli: DockerCLI) -> None:
    for command, words in (
        ("service inspect nosuch", "no such service: nosuch"),
        ("service create -d --no-resolve-image --name -x nginx", "name must be valid as a DNS name component"),
        ("service create -d --no-resolve-image --constraint foo nginx", "constraint expected one operator from ==, !="),
        ("service create -d --no-resolve-image --limit-memory 1k nginx", "Must be at least 4MiB"),
        (
            "service create -d --no-resolve-image --network nosuch nginx",
            ": nosuch|network nosuch not found",
        ),  # the client's own words, which changed after 20.10
        ("network create -d nosuch app", 'plugin "nosuch" not found'),
        ("swarm init", "This node is already part of a swarm."),
        ("swarm leave", "Removing the last manager erases all current state of the swarm."),
        ("node promote nosuch", "node nosuch not found|No such node: nosuch"),  # as above
        ("inspect nosuch", "No such object: nosuch"),
        ("create --pull never alpine true", "No such image: alpine:latest"),
        ("service logs nosuch", "no such task or service: nosuch"),
    ):
        code, _, errors = await docker_cli.run(*command.split())
        assert code != 0, command
        assert any(alternative in errors for alternative in words.split("|")), command


async def test_cli_deploys_and_removes_a_stack(docker_cli: DockerCLI, tmp_path: Any) -> None:
    file = tmp_path / "stack.yml"
    file.write_text("version: '3.8'\nservices:\n  web:\n    image: nginx:1\n    deploy:\n      replicas: 2\n")
    for _ in range(2):
        await docker_cli("stack", "deploy", "--resolve-image", "never", "-c", str(file), "st")
    assert (await docker_cli("stack", "services", "st", "--format", "{{.Name}} {{.Replicas}}")) == "st_web 0/2\n"
    await docker_cli("stack", "rm", "st")
    assert (await docker_cli("stack", "ls", "--format", "{{.Name}}")) == ""


def _use_sdk(socket_path: str) -> None:
    client = docker.DockerClient(base_url=f"unix://{socket_path}")
    try:
        assert client.ping()
        assert client.version()["ApiVersion"] == "1.41"
        network = client.networks.create("app", driver="overlay", attachable=True)
        endpoint = EndpointSpec(mode="vip", ports={8080: 80})
        mode = ServiceMode("replicated", replicas=3)
        service = client.services.create(
            "nginx:1", name="web", labels={"a": "b"}, networks=["app"], mode=mode, endpoint_spec=endpoint, env=["A=1"]
        )
        assert [s.name for s in client.services.list(filters={"name": "web"})] == ["web"]
        assert service.tasks() == []
        assert service.scale(5)
        service.reload()
        assert service.attrs["Spec"]["Mode"]["Replicated"]["Replicas"] == 5
        assert service.force_update()
        service.reload()
        assert service.attrs["Spec"]["TaskTemplate"]["ForceUpdate"] == 1
        assert sorted(node.attrs["Description"]["Hostname"] for node in client.nodes.list()) == ["vm", "worker1"]
        client.swarm.reload()
        assert client.swarm.attrs["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
        assert client.swarm.update(rotate_worker_token=True)
        with pytest.raises(APIError, match="is in use by service"):
            network.remove()
        service.remove()
        with pytest.raises(NotFound):
            client.services.get("web")
        network.remove()
        assert (client.images.list(), client.containers.list(), client.volumes.list()) == ([], [], [])
        assert client.info()["Swarm"]["ControlAvailable"]
        assert client.df()["Images"] == []
    finally:
        client.close()


async def test_python_sdk(api_socket: str) -> None:
    await asyncio.to_thread(_use_sdk, api_socket)


async def test_events_flow_to_a_client(api_socket: str) -> None:
    transport = httpx.AsyncHTTPTransport(uds=api_socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://docker") as client:
        filters = json.dumps({"type": {"network": True}})
        async with client.stream("GET", "/events", params={"filters": filters}) as stream:
            await client.post("/services/create", json={"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "a"}}})
            await client.post("/networks/create", json={"Name": "app", "Driver": "overlay"})
            event = json.loads(await anext(stream.aiter_lines()))
    assert (event["Type"], event["Action"], event["Actor"]["Attributes"], event["scope"]) == (
        "network",
        "create",
        {"name": "app"},
        "swarm",
    )
