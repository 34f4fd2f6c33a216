"""Nodes, the swarm and membership through the API."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID, node
from json_shapes import shape_differences

from pyswarm_common.generic_resources import parse_generic_resources
from pyswarm_common.objects import IssuedCertificate, ManagerStatus, NodeStatus
from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

Golden = Callable[[str], Any]


async def update_node(client: httpx.AsyncClient, node_id: str, **changes: Any) -> httpx.Response:
    node = (await client.get(f"/nodes/{node_id}")).json()
    parameters = {"version": node["Version"]["Index"]}
    return await client.post(f"/nodes/{node_id}/update", params=parameters, json={**node["Spec"], **changes})


async def update_swarm(client: httpx.AsyncClient, spec: dict[str, Any] | None = None, **flags: str) -> httpx.Response:
    swarm = (await client.get("/swarm")).json()
    parameters = {"version": swarm["Version"]["Index"], **flags}
    return await client.post("/swarm/update", params=parameters, json={**swarm["Spec"], **(spec or {})})


async def test_node_looks_as_docker_shows_it(client: httpx.AsyncClient, golden: Golden) -> None:
    ours = (await client.get("/nodes/vm")).json()
    theirs = golden("nodes")[0]
    assert shape_differences(ours, theirs) == []
    assert (ours["ManagerStatus"], ours["Status"]) == (theirs["ManagerStatus"], theirs["Status"])
    assert list(ours) == list(theirs)


async def test_a_node_shows_its_generic_resources(client: httpx.AsyncClient, store: Store) -> None:
    before = store.view.nodes.must_get(WORKER_ID)
    given = parse_generic_resources(["gpu=uuid1", "ssd=4"])
    resources = msgspec.structs.replace(before.description.resources, generic_resources=given)
    description = msgspec.structs.replace(before.description, resources=resources)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(before, description=description)))
    assert (await client.get(f"/nodes/{WORKER_ID}")).json()["Description"]["Resources"]["GenericResources"] == [
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "uuid1"}},
        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 4}},
    ]


async def test_worker_has_no_manager_status(client: httpx.AsyncClient) -> None:
    worker = (await client.get(f"/nodes/{WORKER_ID}")).json()
    assert "ManagerStatus" not in worker
    assert worker["Spec"] == {"Labels": {}, "Role": "worker", "Availability": "active"}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["vm", "worker1"]),
        ({"role": {"worker": True}}, ["worker1"]),
        ({"name": {"wor": True}}, ["worker1"]),
        ({"id": {MANAGER_ID[:5]: True}}, ["vm"]),
        ({"node.label": {"zone": True}}, []),
        ({"membership": {"accepted": True}}, ["vm", "worker1"]),
        ({"membership": {"pending": True}}, []),
    ],
)
async def test_filters(client: httpx.AsyncClient, filters: Any, names: list[str]) -> None:
    nodes = (await client.get("/nodes", params={"filters": json.dumps(filters)})).json()
    assert sorted(node["Description"]["Hostname"] for node in nodes) == names


async def test_node_update_changes_labels_and_availability(client: httpx.AsyncClient, store: Store) -> None:
    assert (await update_node(client, WORKER_ID, Labels={"zone": "a"}, Availability="drain")).status_code == 200
    spec = store.view.nodes.must_get(WORKER_ID).spec
    assert (spec.labels, spec.availability, spec.role) == ({"zone": "a"}, "drain", "worker")


async def test_node_update_errors(client: httpx.AsyncClient) -> None:
    for node_id, changes, status, message in (
        (
            MANAGER_ID,
            {"Role": "worker"},
            400,
            "code = FailedPrecondition desc = attempting to demote the last manager of the swarm",
        ),
        (WORKER_ID, {"Role": "boss"}, 400, 'invalid Role: "boss"'),
        (WORKER_ID, {"Availability": "asleep"}, 400, 'invalid Availability: "asleep"'),
    ):
        answer = await update_node(client, node_id, **changes)
        assert answer.status_code == status
        assert message in answer.json()["message"]
    stale = await client.post(f"/nodes/{WORKER_ID}/update", params={"version": "1"}, json={})
    assert (stale.status_code, stale.json()["message"]) == (500, "rpc error: code = Unknown desc = update out of sequence")
    unknown = await client.get("/nodes/self")
    assert (unknown.status_code, unknown.json()["message"]) == (404, "node self not found")


async def test_only_dead_workers_can_be_removed_unforced(client: httpx.AsyncClient, store: Store) -> None:
    ready = await client.delete("/nodes/worker1")
    assert ready.status_code == 400
    assert f"node {WORKER_ID} is not down and can't be removed" in ready.json()["message"]
    manager = await client.delete("/nodes/vm", params={"force": "1"})
    assert manager.status_code == 400
    assert "must be demoted to worker before removal" in manager.json()["message"]
    node = store.view.nodes.must_get(WORKER_ID)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(node, status=NodeStatus(state="down"))))
    assert (await client.delete("/nodes/worker1")).status_code == 200
    assert WORKER_ID not in store.view.nodes


async def test_roles_are_changed_when_the_quorum_bears_it(client: httpx.AsyncClient, store: Store) -> None:
    assert (await update_node(client, WORKER_ID, Role="manager")).status_code == 200
    assert store.view.nodes.must_get(WORKER_ID).spec.role == "manager"
    voter = ManagerStatus(address="127.0.0.1:2377", etcd_member_id=1, is_voter=True)
    node = store.view.nodes.must_get(MANAGER_ID)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(node, manager=voter)))
    refused = await update_node(client, MANAGER_ID, Role="worker")
    assert (refused.status_code, refused.json()["message"]) == (
        400,
        "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this would result in a loss of quorum: "
        "no other manager has joined yet",
    )
    assert (await update_node(client, WORKER_ID, Role="worker")).status_code == 200
    assert store.view.nodes.must_get(WORKER_ID).spec.role == "worker"


async def test_there_are_seven_managers_at_most(client: httpx.AsyncClient, store: Store) -> None:
    others = [node(f"manager{number}", f"host{number}", "manager") for number in range(2, 8)]
    for other in others:
        await store.update(lambda tx, other=other: tx.create(other))  # type: ignore[misc]
    refused = await update_node(client, WORKER_ID, Role="manager")
    assert (refused.status_code, refused.json()["message"]) == (
        400,
        "rpc error: code = FailedPrecondition desc = the swarm has 7 managers, the most it can have: demote one first",
    )


async def test_a_manager_that_never_entered_can_be_removed_by_force(client: httpx.AsyncClient, store: Store) -> None:
    certificate = IssuedCertificate(serial="5eed", expires_at_ns=4_000_000_000 * 10**9, is_manager=True)
    waiting = msgspec.structs.replace(node("waiting", "waiting", "manager"), manager=None, certificates=(certificate,))
    await store.update(lambda tx: tx.create(waiting))
    assert "must be demoted to worker" in (await client.delete("/nodes/waiting")).json()["message"]
    assert (await client.delete("/nodes/waiting", params={"force": "1"})).status_code == 200
    assert "waiting" not in store.view.nodes
    assert store.view.cluster.revoked_certificates == (certificate,)


async def test_forced_removal(client: httpx.AsyncClient, store: Store) -> None:
    assert (await client.delete("/nodes/worker1", params={"force": "1"})).status_code == 200
    assert WORKER_ID not in store.view.nodes


async def test_swarm_looks_as_docker_shows_it(client: httpx.AsyncClient, golden: Golden) -> None:
    ours = (await client.get("/swarm")).json()
    theirs = golden("swarm")
    assert shape_differences(ours, theirs) == []
    assert list(ours) == list(theirs)
    assert ours["JoinTokens"]["Worker"].startswith("SWMTKN-1-")


async def test_tokens_rotate_one_by_one(client: httpx.AsyncClient) -> None:
    before = (await client.get("/swarm")).json()["JoinTokens"]
    assert (await update_swarm(client, rotateWorkerToken="true", rotateManagerToken="false")).status_code == 200
    after = (await client.get("/swarm")).json()["JoinTokens"]
    assert after["Manager"] == before["Manager"]
    assert after["Worker"] != before["Worker"]
    assert after["Worker"].split("-")[2] == before["Worker"].split("-")[2]


async def test_settings_are_kept_and_in_force(client: httpx.AsyncClient, store: Store) -> None:
    spec = {
        "Orchestration": {"TaskHistoryRetentionLimit": 3},
        "Dispatcher": {"HeartbeatPeriod": 2_000_000_000},
        "Labels": {"a": "b"},
    }
    assert (await update_swarm(client, spec)).status_code == 200
    cluster = store.view.cluster
    assert (cluster.task_history_limit, cluster.heartbeat_period_s) == (3, 2.0)
    shown = (await client.get("/swarm")).json()["Spec"]
    assert (shown["Orchestration"], shown["Labels"]) == (spec["Orchestration"], {"a": "b"})


async def test_swarm_update_errors(client: httpx.AsyncClient) -> None:
    for spec, status in (
        ({"EncryptionConfig": True}, 400),
        ({"Orchestration": {"TaskHistoryRetentionLimit": "x"}}, 400),
        ({"Dispatcher": {"HeartbeatPeriod": 5}}, 400),
        ({"Dispatcher": 5}, 400),
    ):
        assert (await update_swarm(client, spec)).status_code == status
    stale = await client.post("/swarm/update", params={"version": "1"}, json={})
    assert stale.json()["message"] == "rpc error: code = Unknown desc = update out of sequence"


async def test_a_node_that_is_in_no_swarm(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    control.manager = None
    control.local = dataclasses.replace(control.local, swarm_state="inactive", is_manager=False)
    for method, path in (
        ("GET", "/swarm"),
        ("GET", "/services"),
        ("POST", "/services/create"),
        ("GET", "/nodes"),
        ("GET", "/secrets"),
    ):
        answer = await client.request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == 503
        assert answer.json()["message"].startswith('This node is not a swarm manager. Use "docker swarm init"')
    for path in ("/swarm/leave", "/swarm/leave?force=1"):
        answer = await client.post(path)
        assert (answer.status_code, answer.json()) == (503, {"message": "This node is not part of a swarm"})


async def test_init_join_and_leave(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    again = await client.post("/swarm/init", json={"ListenAddr": "0.0.0.0:2377"})
    assert again.status_code == 503
    assert again.json()["message"].startswith("This node is already part of a swarm.")
    assert (await client.post("/swarm/join", json={})).status_code == 503
    last = await client.post("/swarm/leave")
    assert last.status_code == 503
    assert "Removing the last manager erases all current state of the swarm. Use `--force`" in last.json()["message"]
    assert (await client.post("/swarm/leave?force=1")).status_code == 200
    answer = await client.post("/swarm/init", json={"ListenAddr": "0.0.0.0:2377", "Spec": {"Labels": None}})
    assert (answer.status_code, answer.json()) == (200, MANAGER_ID)
    assert control.requests == [("leave", True), ("init", {"ListenAddr": "0.0.0.0:2377", "Spec": {}})]
    await client.post("/swarm/leave?force=1")
    assert (await client.post("/swarm/join", json={"JoinToken": "x"})).status_code == 200
    assert control.requests[-1] == ("join", {"JoinToken": "x"})
    worker = await client.get("/services")
    assert worker.json()["message"].startswith("This node is not a swarm manager. Worker nodes can't be used")
