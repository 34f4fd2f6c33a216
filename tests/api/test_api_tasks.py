"""Tasks through the API: shapes as Docker's, filters, and the time that a long list takes."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID
from json_shapes import shape_differences

from pyswarm_common.objects import Network, NetworkAttachment, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

Golden = Callable[[str], Any]
TEMPLATE = {"ContainerSpec": {"Image": "nginx:1", "Isolation": "default"}, "ForceUpdate": 0, "Runtime": "container"}
NOW_NS = 1_795_226_105_968_698_776


def running(container_id: str = "c" * 64) -> TaskStatus:
    return TaskStatus(state=TaskState.RUNNING, at_ns=NOW_NS, message="started", container_id=container_id, pid=12)


@pytest.fixture
async def tasks(store: Store) -> dict[str, Task]:
    """A service with an old and a new task, one that waits, and another service's."""

    def fill(tx: Any) -> dict[str, Task]:
        tx.create(
            Network(id="net1", name="gnet", spec_json=b'{"Driver":"overlay"}', vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1")
        )
        for spec_id in ("spec1", "spec2"):
            tx.create(TaskSpec(id=spec_id, template_json=json.dumps(TEMPLATE).encode()))
        tx.create(
            Service(
                id="service1",
                name="web",
                spec_json=b'{"Labels":{"stack":"a"}}',
                task_spec_id="spec2",
                previous_task_spec_id="spec1",
            )
        )
        tx.create(Service(id="service2", name="db", task_spec_id="spec1"))
        attached = (NetworkAttachment(network_id="net1", address="10.0.1.4/24"),)
        failed = TaskStatus(
            state=TaskState.FAILED, at_ns=NOW_NS, message="failed", error="exit 1", container_id="d" * 64, exit_code=1
        )
        old = Task(id="old1", task_spec_id="spec1", service_id="service1", slot=1, node_id=WORKER_ID, attachments=attached)
        new = Task(id="new1", task_spec_id="spec2", service_id="service1", slot=1, node_id=MANAGER_ID, attachments=attached)
        made = [
            msgspec.structs.replace(old, desired_state=TaskState.SHUTDOWN, status=failed),
            msgspec.structs.replace(new, status=running()),
            Task(id="new2", task_spec_id="spec2", service_id="service1", slot=2),
            Task(id="other", task_spec_id="spec1", service_id="service2", slot=1, node_id=WORKER_ID, status=running()),
        ]
        return {task.id: tx.create(task) for task in made}

    return await store.update(fill)


async def list_tasks(client: httpx.AsyncClient, **filters: Any) -> list[dict[str, Any]]:
    answer = await client.get("/tasks", params={"filters": json.dumps(filters)} if filters else {})
    assert answer.status_code == 200, answer.text
    listed: list[dict[str, Any]] = answer.json()
    return listed


async def test_task_looks_as_docker_shows_it(client: httpx.AsyncClient, tasks: dict[str, Task], golden: Golden) -> None:
    theirs = golden("tasks")[1]
    theirs["Spec"] = {key: value for key, value in TEMPLATE.items() if key != "Runtime"}
    theirs["NetworksAttachments"] = [theirs["NetworksAttachments"][1]]
    del theirs["NetworksAttachments"][0]["Network"]["Spec"]["Attachable"]
    ours = (await client.get("/tasks/new1")).json()
    assert shape_differences(ours, theirs) == []
    assert list(ours) == list(theirs)
    assert ours["Spec"] == theirs["Spec"]
    assert ours["Status"]["Timestamp"] == "2026-11-21T01:55:05.968698776Z"
    assert ours["NetworksAttachments"][0]["Addresses"] == ["10.0.1.4/24"]


async def test_task_that_waits_has_neither_node_nor_container(client: httpx.AsyncClient, tasks: dict[str, Task]) -> None:
    task = (await client.get("/tasks/new2")).json()
    assert "NodeID" not in task
    assert "NetworksAttachments" not in task
    assert task["Status"] == {"Timestamp": "0001-01-01T00:00:00Z", "State": "new", "PortStatus": {}}


async def test_failed_task_says_why(client: httpx.AsyncClient, tasks: dict[str, Task]) -> None:
    task = (await client.get("/tasks/old1")).json()
    assert (task["Status"]["Err"], task["Status"]["ContainerStatus"]["ExitCode"]) == ("exit 1", 1)
    assert (task["Status"]["State"], task["DesiredState"]) == ("failed", "shutdown")


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({}, ["new1", "new2", "old1", "other"]),
        ({"service": {"web": True}}, ["new1", "new2", "old1"]),
        ({"service": ["service2"]}, ["other"]),
        ({"service": {"service1": True}, "_up-to-date": {"true": True}}, ["new1", "new2"]),
        ({"service": {"service1": True}, "_up-to-date": {"false": True}}, ["old1"]),
        ({"node": {"worker1": True}}, ["old1", "other"]),
        ({"node": {MANAGER_ID: True}, "service": {"web": True}}, ["new1"]),
        ({"desired-state": {"shutdown": True}}, ["old1"]),
        ({"desired-state": {"running": True, "shutdown": True}}, ["new1", "new2", "old1", "other"]),
        ({"name": {"web.1": True}}, ["new1", "old1"]),
        ({"id": {"new": True}}, ["new1", "new2"]),
        ({"label": {"stack=a": True}}, ["new1", "new2", "old1"]),
        ({"label": {"stack=b": True}}, []),
    ],
)
async def test_filters(client: httpx.AsyncClient, tasks: dict[str, Task], filters: dict[str, Any], ids: list[str]) -> None:
    assert sorted(task["ID"] for task in await list_tasks(client, **filters)) == ids


async def test_bad_filters(client: httpx.AsyncClient, tasks: dict[str, Task]) -> None:
    for filters, status, message in (
        ({"service": {"nosuch": True}}, 404, "service nosuch not found"),
        ({"node": {"nosuch": True}}, 404, "node nosuch not found"),
        ({"desired-state": {"asleep": True}}, 400, "Invalid desired_state filter: 'asleep'"),
    ):
        answer = await client.get("/tasks", params={"filters": json.dumps(filters)})
        assert answer.status_code == status
        assert message in answer.json()["message"]


async def test_task_is_found_by_name_and_prefix(client: httpx.AsyncClient, tasks: dict[str, Task]) -> None:
    for reference in ("new1", "web.1.new1", "oth"):
        assert (await client.get(f"/tasks/{reference}")).status_code == 200
    ambiguous = await client.get("/tasks/new")
    assert (ambiguous.status_code, ambiguous.json()["message"]) == (409, "task new is ambiguous (2 matches found)")
    unknown = await client.get("/tasks/nosuch")
    assert (unknown.status_code, unknown.json()["message"]) == (404, "task nosuch not found")
    assert (await client.get("/tasks/db.1.new1")).status_code == 404


async def test_a_thousand_tasks_take_milliseconds(client: httpx.AsyncClient, tasks: dict[str, Task], store: Store) -> None:
    attached = (NetworkAttachment(network_id="net1", address="10.0.1.9/24"),)

    def fill(tx: Any, first: int) -> None:
        for number in range(first, first + 50):
            tx.create(Task(id=f"many{number}", task_spec_id="spec2", service_id="service1", slot=number, node_id=WORKER_ID,
                           status=running(f"{number:064d}"), attachments=attached))  # fmt: skip

    for first in range(0, 1000, 50):
        await store.update(lambda tx, first=first: fill(tx, first))
    durations = []
    for _ in range(5):
        began = time.perf_counter()
        answer = await client.get("/tasks")
        durations.append(time.perf_counter() - began)
    assert len(answer.json()) == 1004
    assert min(durations) < 0.1


async def test_attachments_of_single_containers_are_shown_to_those_who_ask(
    client: httpx.AsyncClient, store: Store, tasks: dict[str, Task]
) -> None:
    template = (
        b'{"Runtime":"attachment","NetworkAttachmentSpec":{"ContainerID":"e"},"Networks":[{"Target":"net1","Aliases":["tool"]}]}'
    )

    def attach(tx: Any) -> None:
        tx.create(TaskSpec(id="spec3", template_json=template))
        place = (NetworkAttachment(network_id="net1", address="10.0.1.9/24"),)
        single: dict[str, Any] = {"attached_container_id": "e" * 64, "status": running("e" * 64)}
        tx.create(Task(id="single", task_spec_id="spec3", node_id=WORKER_ID, attachments=place, **single))

    await store.update(attach)
    assert "single" not in {task["ID"] for task in await list_tasks(client)}
    assert "single" not in {task["ID"] for task in await list_tasks(client, runtime=["container"])}
    assert "single" not in {task["ID"] for task in await list_tasks(client, node=[WORKER_ID])}
    (shown,) = await list_tasks(client, runtime=["attachment"])
    assert (shown["ID"], shown["Spec"]["NetworkAttachmentSpec"]) == ("single", {"ContainerID": "e"})
    members = (await client.get("/networks/gnet")).json()["Containers"]
    assert members["e" * 64]["Name"] == "tool"
    refused = await client.delete("/networks/gnet")
    assert (refused.status_code, "is in use by" in refused.text) == (400, True)
