"""Updates of services through the API: what becomes of their status and generation, and which rules are refused."""

from typing import Any

import httpx
import msgspec
import pytest

from pyswarm_common.objects import Node, Service, Task, TaskStatus, UpdateStatus
from pyswarm_common.specs import NodeSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

SECOND_NS = 1_000_000_000


def web(image: str = "nginx:1", **members: Any) -> dict[str, Any]:
    return {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": image}}, **members}


def reserving(resource: dict[str, Any]) -> dict[str, Any]:
    return {"TaskTemplate": {"ContainerSpec": {"Image": "i"}, "Resources": {"Reservations": {"GenericResources": [resource]}}}}


async def create(client: httpx.AsyncClient, store: Store, spec: dict[str, Any]) -> Service:
    response = await client.post("/services/create", json=spec)
    assert response.status_code == 201, response.text
    return store.view.services.must_get(response.json()["ID"])


async def update(client: httpx.AsyncClient, store: Store, spec: dict[str, Any], **parameters: Any) -> Service:
    shown = (await client.get("/services/web")).json()
    parameters = {"version": shown["Version"]["Index"], **parameters}
    response = await client.post("/services/web/update", params=parameters, json=spec)
    assert response.status_code == 200, response.text
    return store.view.services.must_get(shown["ID"])


async def set_status(store: Store, service: Service, state: str) -> None:
    status = UpdateStatus(state=state, message="update paused due to failure", started_at_ns=5 * SECOND_NS, unit_count=3)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.services.must_get(service.id), update_status=status)))


async def test_an_update_sets_the_status_back_and_keeps_its_rules(client: httpx.AsyncClient, store: Store) -> None:
    await set_status(store, await create(client, store, web()), "completed")
    rules = {"Parallelism": 2, "Delay": SECOND_NS, "FailureAction": "rollback", "Monitor": SECOND_NS, "Order": "start-first"}
    after = await update(client, store, web("nginx:2", UpdateConfig=rules, RollbackConfig={"Parallelism": 0}))
    assert (after.update_status, after.spec_generation) == (None, 2)
    config, rollback = after.spec.update_config, after.spec.rollback_config
    assert config is not None
    assert (config.parallelism, config.order, config.failure_action) == (2, "start-first", "rollback")
    assert rollback is not None
    assert rollback.parallelism == 0
    assert (await client.get("/services/web")).json()["Spec"]["UpdateConfig"] == rules


async def test_a_paused_update_goes_on_as_a_new_generation(client: httpx.AsyncClient, store: Store) -> None:
    await create(client, store, web())
    before = await update(client, store, web("nginx:2"))
    await set_status(store, before, "paused")
    shown = (await client.get("/services/web")).json()
    assert shown["UpdateStatus"]["State"] == "paused"
    assert shown["UpdateStatus"].keys() == {"State", "StartedAt", "Message"}
    after = await update(client, store, shown["Spec"])
    assert after.task_spec_id == before.task_spec_id
    assert (after.update_status, after.spec_generation) == (None, before.spec_generation + 1)


async def test_a_requested_rollback_says_so(client: httpx.AsyncClient, store: Store) -> None:
    first = await create(client, store, web())
    await update(client, store, web("nginx:2", Mode={"Replicated": {"Replicas": 5}}))
    after = await update(client, store, {}, rollback="previous")
    assert (after.task_spec_id, after.spec_generation, after.spec.replicas) == (first.task_spec_id, 3, 1)
    shown = (await client.get("/services/web")).json()
    assert shown["UpdateStatus"]["State"] == "rollback_started"
    assert shown["UpdateStatus"]["Message"] == "manually requested rollback"
    assert shown["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "nginx:2"


async def test_a_rollback_does_not_take_a_port_that_another_service_publishes_meanwhile(
    client: httpx.AsyncClient, store: Store
) -> None:
    published = {"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}}
    before = await create(client, store, web(**published))
    after = await update(client, store, web())
    other = await create(client, store, {**web(**published), "Name": "other"})
    parameters = {"version": (await client.get("/services/web")).json()["Version"]["Index"], "rollback": "previous"}
    refused = await client.post("/services/web/update", params=parameters, json={})
    assert refused.status_code == 400
    assert f"port '8080' is already in use by service 'other' ({other.id})" in refused.json()["message"]
    assert store.view.services.must_get(before.id) == after
    assert (await client.delete("/services/other")).status_code == 200
    assert (await client.post("/services/web/update", params=parameters, json={})).status_code == 200
    assert store.view.services.must_get(before.id).spec_json == before.spec_json


async def test_what_a_rollback_is_to_go_back_to_has_one_name(client: httpx.AsyncClient, store: Store) -> None:
    await create(client, store, web())
    before = await update(client, store, web("nginx:2"))
    shown = (await client.get("/services/web")).json()
    parameters = {"version": shown["Version"]["Index"], "rollback": "yesterday"}
    refused = await client.post("/services/web/update", params=parameters, json=shown["Spec"])
    assert (refused.status_code, refused.json()["message"]) == (400, "unrecognized rollback option yesterday")
    assert store.view.services.must_get(before.id) == before
    after = await update(client, store, shown["Spec"], rollback="none")
    assert after.update_status is None


async def test_empty_update_rules_mean_all_at_once_and_are_shown_so(client: httpx.AsyncClient, store: Store) -> None:
    service = await create(client, store, web(UpdateConfig={}, EndpointSpec={}))
    spec = (await client.get("/services/web", params={"insertDefaults": "true"})).json()["Spec"]
    assert service.spec.update_config is not None
    assert spec["UpdateConfig"]["Parallelism"] == service.spec.update_config.parallelism == 0
    assert spec["RollbackConfig"]["Parallelism"] == 1
    assert spec["EndpointSpec"] == {"Mode": "vip"}


@pytest.mark.parametrize(
    ("privileges", "warnings"),
    [
        ({"CredentialSpec": None, "SELinuxContext": None, "NoNewPrivileges": False}, None),  # as `docker stack deploy` posts it
        ({"SELinuxContext": {"Disable": True}}, ["SELinuxContext is stored but has no effect"]),
    ],
)
async def test_only_what_says_something_is_warned_of(
    client: httpx.AsyncClient, privileges: dict[str, Any], warnings: list[str] | None
) -> None:
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "nginx", "Privileges": privileges}}}
    assert (await client.post("/services/create", json=spec)).json()["Warnings"] == warnings


async def test_other_host_ports_need_other_tasks(client: httpx.AsyncClient, store: Store) -> None:
    def published(port: int, mode: str) -> dict[str, Any]:
        return web(EndpointSpec={"Ports": [{"TargetPort": 80, "PublishedPort": port, "PublishMode": mode}]})

    await create(client, store, published(8080, "ingress"))
    assert (await update(client, store, published(8081, "ingress"))).spec_generation == 1
    assert (await update(client, store, published(8081, "host"))).spec_generation == 2
    after = await update(client, store, published(8082, "host"))
    assert (after.spec_generation, len(store.view.task_specs)) == (3, 2)


async def test_tasks_that_new_constraints_allow_are_up_to_date(client: httpx.AsyncClient, store: Store) -> None:
    def placed(zone: str) -> dict[str, Any]:
        spec = web()
        spec["TaskTemplate"]["Placement"] = {"Constraints": [f"node.labels.zone=={zone}"]}
        return spec

    service = await create(client, store, placed("a"))
    node = Node(id="labelled", spec=NodeSpec(labels={"zone": "b"}))
    status = TaskStatus(state=TaskState.RUNNING)
    task = Task(id="t1", service_id=service.id, slot=1, node_id="labelled", task_spec_id=service.task_spec_id, status=status)
    await store.update(lambda tx: (tx.create(node), tx.create(task)))

    async def up_to_date() -> list[str]:
        parameters = {"filters": '{"_up-to-date":{"true":true},"service":{"web":true}}'}
        return [task["ID"] for task in (await client.get("/tasks", params=parameters)).json()]

    await update(client, store, placed("b"))
    assert await up_to_date() == ["t1"]
    await update(client, store, placed("c"))
    assert await up_to_date() == []


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"UpdateConfig": {"FailureAction": "shout"}}, "unrecognized update failure action shout"),
        ({"RollbackConfig": {"Order": "random"}}, "unrecognized update order random"),
        ({"UpdateConfig": {"Delay": -1}}, "TaskSpec: update-delay cannot be negative"),
        ({"RollbackConfig": {"Monitor": -1}}, "TaskSpec: update-monitor cannot be negative"),
        ({"UpdateConfig": {"Parallelism": -1}}, "TaskSpec: update-parallelism cannot be negative"),
        (
            {"UpdateConfig": {"MaxFailureRatio": 1.5}},
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        ),
        ({"Labels": {"pyswarm.move.order": "both"}}, "label pyswarm.move.order: there is no order 'both'"),
        ({"Labels": {"pyswarm.placement.strategy": "tight"}}, "label pyswarm.placement.strategy: there is no strategy 'tight'"),
        (reserving({"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}}), "invalid argument for resource gpu"),
        (reserving({"DiscreteResourceSpec": {"Kind": "ssd", "Value": -1}}), "invalid argument for resource ssd"),
    ],
)
async def test_rules_that_mean_nothing_are_refused(client: httpx.AsyncClient, members: dict[str, Any], message: str) -> None:
    response = await client.post("/services/create", json={**web(), **members})
    assert response.status_code == 400
    assert message in response.json()["message"]
