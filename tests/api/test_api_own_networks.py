"""Services on the networks that each node has of its own: what is taken, refused, stored and shown; nothing runs behind it."""

import json
from typing import Any

import httpx
import pytest
from docker_command import DockerCLI

from pyswarm_common.ids import new_id
from pyswarm_common.own_networks import id_in_swarm, id_on_node
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.decide import decide
from pyswarm_manager.orchestrator.replicated.decide import decide as decide_replicas
from pyswarm_manager.store.store import Store

CREATE = ("service", "create", "-d", "--no-resolve-image")
HOST = id_in_swarm("host")


def spec_of(*targets: str, ports: tuple[dict[str, Any], ...] = (), name: str = "web") -> dict[str, Any]:
    networks = [{"Target": target} for target in targets]
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "nginx:1"}, "Networks": networks},
        "EndpointSpec": {"Ports": list(ports)},
    }


def targets_of(store: Store, name: str) -> list[str]:
    (service,) = store.view.services.named(name)
    return [config.target for config in store.view.task_specs.must_get(service.task_spec_id).template.networks or ()]


@pytest.mark.parametrize("target", ["host", HOST, id_on_node("host")])
async def test_it_is_stored_by_its_id_in_the_swarm(client: httpx.AsyncClient, store: Store, target: str) -> None:
    port = {"TargetPort": 80, "PublishedPort": 80, "PublishMode": "host"}
    answer = await client.post("/services/create", json=spec_of(target, ports=(port,)))
    assert answer.status_code == 201, answer.text
    assert targets_of(store, "web") == [HOST]


async def test_its_tasks_need_nothing_of_the_allocator(client: httpx.AsyncClient, store: Store) -> None:
    for name in ("host", "none", "bridge"):
        await client.post("/services/create", json=spec_of(name, name=f"on-{name}"))
    await store.update(lambda tx: decide_replicas(tx, 1, new_id=new_id).apply_to(tx))
    await store.update(lambda tx: decide(tx, 2).apply_to(tx))
    tasks = list(store.view.tasks)
    assert [(task.status.state, task.attachments) for task in tasks] == [(TaskState.PENDING, ())] * 3
    assert all(service.virtual_ips == () for service in store.view.services)


@pytest.mark.parametrize(
    ("targets", "modes", "words"),
    [
        (("host", "none"), (), "on the network host cannot be on others"),
        (("none", "bridge"), (), "private (none) mode"),
        (("host",), ("ingress",), "cannot be published in the routing mesh"),
        (("host",), ("host", "ingress"), "cannot be published in the routing mesh"),
        (("none",), ("host",), "nothing reaches its tasks"),
        (("none",), ("ingress",), "nothing reaches its tasks"),
    ],
)
async def test_what_cannot_go_together(
    client: httpx.AsyncClient, store: Store, targets: tuple[str, ...], modes: tuple[str, ...], words: str
) -> None:
    ports = tuple({"TargetPort": 80 + number, "PublishMode": mode} for number, mode in enumerate(modes))
    for path in ("/services/create", "/pyswarm/services/dry-run"):
        answer = await client.post(path, json=spec_of(*targets, ports=ports))
        assert (answer.status_code, words in answer.json()["message"]) == (400, True), answer.text
    plain = await client.post("/services/create", json=spec_of(*targets[:1]))
    version = (await client.get(f"/services/{plain.json()['ID']}")).json()["Version"]["Index"]
    answer = await client.post(f"/services/web/update?version={version}", json=spec_of(*targets, ports=ports))
    assert (answer.status_code, words in answer.json()["message"]) == (400, True), answer.text


async def test_the_swarms_side_of_it(client: httpx.AsyncClient) -> None:
    shown = (await client.get("/networks/host", params={"scope": "swarm"})).json()
    assert (shown["Id"], shown["Scope"], shown["Driver"]) == (HOST, "swarm", "host")
    assert shown["Labels"] == {"com.docker.swarm.predefined": "true"}
    assert (await client.get(f"/networks/{HOST}")).json() == shown
    assert (await client.get("/networks/host")).json()["Scope"] == "local"
    assert [one["Scope"] for one in (await client.get("/networks")).json() if one["Name"] == "host"] == ["local"]
    for reference in (HOST, "host"):
        assert (await client.delete(f"/networks/{reference}")).status_code in (403, 404)


async def test_docker_command(api_socket: str, store: Store) -> None:
    docker = DockerCLI(api_socket)
    await docker(*CREATE, "--name", "web", "--network", "host", "nginx:1")
    assert targets_of(store, "web") == [HOST]
    assert "Networks: host" in " ".join((await docker("service", "inspect", "--pretty", "web")).split())
    await docker("service", "update", "-d", "--no-resolve-image", "--network-rm", "host", "web")
    assert targets_of(store, "web") == []
    await docker("service", "update", "-d", "--no-resolve-image", "--network-add", "none", "web")
    assert targets_of(store, "web") == [id_in_swarm("none")]
    code, _, errors = await docker.run(*CREATE, "--network", "host", "-p", "8080:80", "nginx:1")
    assert (code, "mode=host" in errors) == (1, True)
    (shown,) = json.loads(await docker("service", "inspect", "web"))
    assert shown["Spec"]["TaskTemplate"]["Networks"] == [{"Target": id_in_swarm("none")}]
