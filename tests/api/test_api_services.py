"""Services through the API: shapes as Docker's, create, update, rollback, refusals in Docker's words."""

import copy
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from api_server import WORKER_ID
from json_shapes import shape_differences

from pyswarm_common.objects import Node, Task, TaskStatus, VirtualIP
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import View

Golden = Callable[[str], Any]


def service_spec(name: str = "web", replicas: int = 2, **template: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "nginx:1"}, **template},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


async def create(client: httpx.AsyncClient, spec: dict[str, Any], **headers: str) -> str:
    response = await client.post("/services/create", json=spec, headers=headers)
    assert response.status_code == 201, response.text
    service_id: str = response.json()["ID"]
    return service_id


async def inspect(client: httpx.AsyncClient, reference: str, **parameters: Any) -> dict[str, Any]:
    response = await client.get(f"/services/{reference}", params=parameters)
    assert response.status_code == 200, response.text
    service: dict[str, Any] = response.json()
    return service


async def update(client: httpx.AsyncClient, reference: str, spec: dict[str, Any], **parameters: Any) -> httpx.Response:
    if "version" not in parameters:
        parameters["version"] = (await inspect(client, reference))["Version"]["Index"]
    return await client.post(f"/services/{reference}/update", params=parameters, json=spec)


def on_worker(view: View, *, availability: str, state: str) -> Node:
    """The worker, available and heard as said."""
    node = view.nodes.must_get(WORKER_ID)
    spec, status = (
        msgspec.structs.replace(node.spec, availability=availability),
        msgspec.structs.replace(node.status, state=state),
    )
    return msgspec.structs.replace(node, spec=spec, status=status)


async def create_golden(client: httpx.AsyncClient, golden: Golden, store: Store) -> dict[str, Any]:
    """Create Docker's golden service (but for its secret and config) and give it addresses; returns Docker's answer."""
    network = await client.post("/networks/create", json={"Name": "gnet", "Driver": "overlay"})
    theirs = golden("service_gsvc")
    for kind in ("Secrets", "Configs"):
        del theirs["Spec"]["TaskTemplate"]["ContainerSpec"][kind]
    posted = copy.deepcopy(theirs["Spec"])
    posted["TaskTemplate"]["Networks"] = [{"Target": "gnet"}]
    theirs["Spec"]["TaskTemplate"]["Networks"] = [{"Target": network.json()["Id"]}]
    service_id = await create(client, posted)
    address = VirtualIP(network_id=network.json()["Id"], address="10.0.1.2/24")

    def allocate(tx: Any) -> None:
        tx.update(msgspec.structs.replace(tx.services.must_get(service_id), virtual_ips=(address,)))

    await store.update(allocate)
    return dict(theirs)


async def test_service_looks_as_docker_shows_it(client: httpx.AsyncClient, golden: Golden, store: Store) -> None:
    theirs = await create_golden(client, golden, store)
    ours = await inspect(client, "gsvc")
    assert shape_differences(ours, theirs) == []
    assert ours["Spec"] == theirs["Spec"]
    assert list(ours) == list(theirs)


async def test_inspect_inserts_dockers_defaults(client: httpx.AsyncClient, golden: Golden, store: Store) -> None:
    await create_golden(client, golden, store)
    theirs = golden("service_gsvc_defaults")["Spec"]
    ours = (await inspect(client, "gsvc", insertDefaults="true"))["Spec"]
    for kind in ("Secrets", "Configs"):
        del theirs["TaskTemplate"]["ContainerSpec"][kind]
    ours["TaskTemplate"]["Networks"] = theirs["TaskTemplate"]["Networks"]
    assert ours == theirs


async def test_minimal_service_with_defaults(client: httpx.AsyncClient) -> None:
    await create(client, {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "nginx"}}})
    plain = await inspect(client, "web")
    assert plain["Spec"] == {
        "Name": "web",
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "nginx", "Isolation": "default"},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": 1}},
    }
    assert plain["Endpoint"] == {"Spec": {}}
    filled = (await inspect(client, "web", insertDefaults=True))["Spec"]
    assert filled["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 10_000_000_000
    assert filled["TaskTemplate"]["RestartPolicy"] == {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0}
    assert filled["UpdateConfig"]["Monitor"] == 5_000_000_000
    assert filled["EndpointSpec"] == {"Mode": "vip"}


async def test_list_with_status_matches_docker(client: httpx.AsyncClient, golden: Golden, store: Store) -> None:
    theirs = await create_golden(client, golden, store)
    service = await inspect(client, "gsvc")
    spec_id = store.view.services.must_get(service["ID"]).task_spec_id
    for slot, state in ((1, TaskState.RUNNING), (2, TaskState.PENDING)):
        task = Task(id=f"task{slot}", task_spec_id=spec_id, service_id=service["ID"], slot=slot, status=TaskStatus(state=state))
        task = msgspec.structs.replace(task, node_id=WORKER_ID)
        await store.update(lambda tx, task=task: tx.create(task))
    listed = (await client.get("/services", params={"status": "true"})).json()
    theirs["ServiceStatus"] = golden("services")[0]["ServiceStatus"]
    assert shape_differences(listed, [theirs]) == []
    assert listed[0]["ServiceStatus"] == {"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 0}
    await store.update(lambda tx: tx.update(on_worker(tx, availability="active", state="down")))
    silent = (await client.get("/services", params={"status": "true"})).json()[0]["ServiceStatus"]
    assert silent == {"RunningTasks": 0, "DesiredTasks": 2, "CompletedTasks": 0}
    assert "ServiceStatus" not in (await client.get("/services")).json()[0]


@pytest.mark.parametrize(
    ("availability", "state", "task_node", "desired"),
    [
        ("active", "ready", "", 2),
        ("active", "down", "", 1),
        ("drain", "ready", WORKER_ID, 1),
        ("pause", "ready", "", 1),
        ("pause", "ready", WORKER_ID, 2),
    ],
)
async def test_a_global_service_should_have_a_task_on_each_eligible_node(
    client: httpx.AsyncClient, store: Store, availability: str, state: str, task_node: str, desired: int
) -> None:
    service_id = await create(client, {**service_spec("agent"), "Mode": {"Global": {}}})
    task = Task(id="task", task_spec_id=store.view.services.must_get(service_id).task_spec_id, service_id=service_id)
    task = msgspec.structs.replace(task, status=TaskStatus(state=TaskState.ASSIGNED))
    await store.update(lambda tx: tx.update(on_worker(tx, availability=availability, state=state)))
    if task_node:
        await store.update(lambda tx: tx.create(msgspec.structs.replace(task, node_id=task_node)))
    listed = (await client.get("/services", params={"status": "true"})).json()
    assert listed[0]["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": desired, "CompletedTasks": 0}
    if task_node:
        named = await client.get(f"/tasks/agent.{WORKER_ID}.task")
        assert (named.status_code, named.json().get("Slot")) == (200, None)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"name": {"we": True}}, ["web", "web2"]),
        ({"name": ["web2"]}, ["web2"]),
        ({"id": {"web": True}}, []),
        ({"label": {"stack=a": True}}, ["web"]),
        ({"label": {"stack": True}}, ["web"]),
        ({"mode": {"replicated": True}}, ["db", "web", "web2"]),
        ({"mode": {"global": True}}, []),
    ],
)
async def test_filters(client: httpx.AsyncClient, filters: Any, names: list[str]) -> None:
    await create(client, {**service_spec("web"), "Labels": {"stack": "a"}})
    await create(client, service_spec("web2"))
    await create(client, service_spec("db"))
    found = (await client.get("/services", params={"filters": json.dumps(filters)})).json()
    assert sorted(service["Spec"]["Name"] for service in found) == names


async def test_service_is_found_by_name_id_and_prefix(client: httpx.AsyncClient) -> None:
    service_id = await create(client, service_spec())
    for reference in ("web", service_id, service_id[:10]):
        assert (await inspect(client, reference))["ID"] == service_id


async def test_unknown_fields_come_back(client: httpx.AsyncClient) -> None:
    spec = service_spec(Healthcheck={"Test": ["CMD", "x"]}, Unknown={"Deep": [1, {"A": None, "B": 1.5}]})
    spec["UpdateConfig"] = {"Parallelism": 0, "Order": "start-first"}
    await create(client, spec)
    shown = (await inspect(client, "web"))["Spec"]
    assert shown["TaskTemplate"]["Unknown"] == {"Deep": [1, {"B": 1.5}]}
    assert shown["UpdateConfig"] == spec["UpdateConfig"]


async def test_nameless_service_gets_a_name(client: httpx.AsyncClient) -> None:
    service_id = await create(client, {**service_spec(), "Name": None})
    assert "_" in (await inspect(client, service_id))["Spec"]["Name"]


async def test_top_level_networks_move_into_the_template(client: httpx.AsyncClient) -> None:
    network_id = (await client.post("/networks/create", json={"Name": "app", "Driver": "overlay"})).json()["Id"]
    await create(client, {**service_spec(), "Networks": [{"Target": "app", "Aliases": ["w"]}]})
    spec = (await inspect(client, "web"))["Spec"]
    assert spec["TaskTemplate"]["Networks"] == [{"Target": network_id, "Aliases": ["w"]}]
    assert "Networks" not in spec


async def test_published_ports_are_kept(client: httpx.AsyncClient) -> None:
    spec = {**service_spec(), "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}}
    answer = (await client.post("/services/create", json=spec)).json()
    assert answer["Warnings"] is None
    endpoint = (await inspect(client, "web"))["Endpoint"]
    port = {"TargetPort": 80, "PublishedPort": 8080, "Protocol": "tcp", "PublishMode": "ingress"}
    assert endpoint == {"Spec": {"Mode": "vip", "Ports": [port]}, "Ports": [port]}
    taken = await client.post("/services/create", json={**spec, "Name": "other"})
    assert taken.status_code == 400
    assert "port '8080' is already in use by service 'web'" in taken.json()["message"]


async def test_registry_credentials_are_kept_but_never_shown(client: httpx.AsyncClient, store: Store) -> None:
    service_id = await create(client, service_spec(), **{"X-Registry-Auth": "secret-token"})
    shown = await inspect(client, "web")
    assert "secret-token" not in json.dumps(shown)
    assert (await update(client, "web", {**shown["Spec"], "Mode": {"Replicated": {"Replicas": 5}}})).status_code == 200
    service = store.view.services.must_get(service_id)
    assert b"secret-token" in store.view.task_specs.must_get(service.task_spec_id).template_json
    assert service.spec_generation == 1


async def test_scaling_keeps_the_task_spec(client: httpx.AsyncClient, store: Store) -> None:
    """The docker CLI drops empty members and adds its own when it posts a spec back: that is no new template."""
    spec = service_spec(Placement={}, Resources={"Limits": {"MemoryBytes": 0}})
    spec["TaskTemplate"]["ContainerSpec"] |= {"Env": [], "TTY": False}
    service_id = await create(client, spec)
    before = store.view.services.must_get(service_id)
    posted = (await inspect(client, "web"))["Spec"]
    posted["Mode"]["Replicated"]["Replicas"] = 7
    posted["TaskTemplate"]["ContainerSpec"] = {"Image": "nginx:1", "Isolation": "default", "DNSConfig": {}, "Hosts": None}
    assert (await update(client, "web", posted)).json() == {"Warnings": None}
    after = store.view.services.must_get(service_id)
    assert (after.task_spec_id, after.spec_generation) == (before.task_spec_id, 1)
    assert (await inspect(client, "web"))["Spec"]["Mode"]["Replicated"]["Replicas"] == 7


@pytest.mark.parametrize(
    "template",
    [
        {"ContainerSpec": {"Image": "nginx:2"}},
        {"ForceUpdate": 1},
        {"ContainerSpec": {"Image": "nginx:1", "StopGracePeriod": 0}},
        {"RestartPolicy": {"Delay": 0}},
    ],
)
async def test_new_template_is_a_new_generation(client: httpx.AsyncClient, store: Store, template: dict[str, Any]) -> None:
    service_id = await create(client, service_spec())
    before = store.view.services.must_get(service_id)
    assert (await update(client, "web", service_spec(**template))).status_code == 200
    after = store.view.services.must_get(service_id)
    assert after.task_spec_id != before.task_spec_id
    assert (after.spec_generation, after.previous_task_spec_id) == (2, before.task_spec_id)


async def test_updated_service_shows_its_previous_spec(client: httpx.AsyncClient, golden: Golden, store: Store) -> None:
    await create_golden(client, golden, store)
    before = (await inspect(client, "gsvc"))["Spec"]
    after = copy.deepcopy(before)
    after["TaskTemplate"]["ContainerSpec"]["Env"] = ["Y=2", "X=1"]
    assert (await update(client, "gsvc", after)).status_code == 200
    shown = await inspect(client, "gsvc")
    assert (shown["Spec"], shown["PreviousSpec"]) == (after, before)
    theirs = golden("service_gsvc_updated")
    assert set(shown) == set(theirs) - {"UpdateStatus"}


async def test_rollback_swaps_and_swaps_back(client: httpx.AsyncClient, store: Store) -> None:
    service_id = await create(client, service_spec())
    first = store.view.services.must_get(service_id)
    await update(client, "web", service_spec(replicas=5, ContainerSpec={"Image": "nginx:2"}))
    for image, replicas, generation in (("nginx:1", 2, 3), ("nginx:2", 5, 4)):
        assert (await update(client, "web", {}, rollback="previous")).status_code == 200
        spec = (await inspect(client, "web"))["Spec"]
        assert spec["TaskTemplate"]["ContainerSpec"]["Image"] == image
        assert spec["Mode"]["Replicated"]["Replicas"] == replicas
        assert store.view.services.must_get(service_id).spec_generation == generation
    assert store.view.services.must_get(service_id).previous_task_spec_id == first.task_spec_id


async def test_rollback_without_previous_spec(client: httpx.AsyncClient) -> None:
    await create(client, service_spec())
    answer = await update(client, "web", {}, rollback="previous")
    assert answer.status_code == 400
    assert "does not have a previous spec" in answer.json()["message"]


async def test_removed_service_is_gone_with_its_specs(client: httpx.AsyncClient, store: Store) -> None:
    await create(client, service_spec())
    answer = await client.delete("/services/web")
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await client.get("/services/web")).status_code == 404
    assert len(store.view.task_specs) == 0


REFUSALS = [
    ({"Name": "-bad-"}, 400, "rpc error: code = InvalidArgument desc = name must be valid as a DNS name component"),
    ({"Name": "a.b"}, 400, "rpc error: code = InvalidArgument desc = name must be valid as a DNS name component"),
    ({"Name": "a" * 64}, 400, "rpc error: code = InvalidArgument desc = name must be 63 characters or fewer"),
    (
        {"TaskTemplate": {"ContainerSpec": {}}},
        400,
        "rpc error: code = InvalidArgument desc = ContainerSpec: image reference must be provided",
    ),
    (
        {"TaskTemplate": {"ContainerSpec": {"Image": "No Such"}}},
        400,
        'rpc error: code = InvalidArgument desc = ContainerSpec: "No Such" is not a valid repository/tag',
    ),
    ({"Networks": [{"Target": "nosuch"}]}, 404, "network nosuch not found"),
    ({"Mode": {"Replicated": {"Replicas": -1}}}, 400, "Number of replicas must be non-negative"),
    ({"Labels": [1]}, 400, "invalid service spec: Expected `object | null`, got `array` - at `$.Labels`"),
    ({"TaskTemplate": "x"}, 400, "TaskTemplate must be an object"),
    (service_spec(Resources={"Limits": {"MemoryBytes": 1024}}), 400, "invalid memory value 1024: Must be at least 4MiB"),
    (service_spec(Resources={"Reservations": {"NanoCPUs": 10}}), 400, "invalid cpu value 1e-08: Must be at least 0.001"),
    (service_spec(Placement={"Constraints": ["node.role"]}), 400, "expected one operator from ==, !="),
    (service_spec(RestartPolicy={"Delay": -1}), 400, "restart-delay cannot be negative"),
    (service_spec(RestartPolicy={"Condition": "often"}), 400, 'invalid RestartCondition: "often"'),
    (service_spec(Runtime="plugin"), 400, 'runtime "plugin" is not supported'),
    (service_spec(ContainerSpec={"Image": "a", "Secrets": [{"SecretName": "s"}]}), 400, "malformed secret reference"),
    (
        {"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 1}, {"TargetPort": 81, "PublishedPort": 1}]}},
        400,
        "EndpointSpec: duplicate published ports provided",
    ),
    (
        {"EndpointSpec": {"Mode": "dnsrr", "Ports": [{"TargetPort": 80, "PublishedPort": 1}]}},
        400,
        "port published with ingress mode can't be used with dnsrr mode",
    ),
]


@pytest.mark.parametrize(("changes", "status", "message"), REFUSALS)
async def test_bad_specs_are_refused_in_dockers_words(
    client: httpx.AsyncClient, changes: dict[str, Any], status: int, message: str
) -> None:
    answer = await client.post("/services/create", json={**service_spec(), **changes})
    assert answer.status_code == status
    assert message in answer.json()["message"]
    assert (await client.get("/services")).json() == []


async def test_name_is_taken(client: httpx.AsyncClient) -> None:
    await create(client, service_spec("s1"))
    answer = await client.post("/services/create", json=service_spec("s1"))
    assert answer.status_code == 409
    assert answer.json() == {
        "message": "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service s1 already exists"
    }


async def test_update_errors(client: httpx.AsyncClient) -> None:
    await create(client, service_spec())
    stale = await update(client, "web", service_spec(replicas=9), version=1)
    assert (stale.status_code, stale.json()["message"]) == (500, "rpc error: code = Unknown desc = update out of sequence")
    missing = await client.post("/services/web/update", json=service_spec())
    assert missing.status_code == 400
    assert missing.json()["message"] == "invalid service version '': strconv.ParseUint: parsing \"\": invalid syntax"
    renamed = await update(client, "web", service_spec("other"))
    assert renamed.status_code == 501
    assert renamed.json()["message"] == "rpc error: code = Unimplemented desc = renaming services is not supported"


async def test_request_errors(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/services/nosuch")
    assert (unknown.status_code, unknown.json()) == (404, {"message": "service nosuch not found"})
    bogus = await client.get("/services", params={"filters": '{"bogus":{"a":true}}'})
    assert (bogus.status_code, bogus.json()) == (400, {"message": "Invalid filter 'bogus'"})
    broken = await client.post("/services/create", content=b'{"Name":')
    assert broken.status_code == 400
    assert "invalid JSON" in broken.json()["message"]


async def test_member_names_in_any_case(client: httpx.AsyncClient) -> None:
    """As the Python SDK sends the mode."""
    spec = {"name": "web", "tasktemplate": {"containerSpec": {"image": "nginx"}}, "Mode": {"replicated": {"replicas": 4}}}
    await create(client, spec)
    shown = (await inspect(client, "web"))["Spec"]
    assert shown["Mode"] == {"Replicated": {"Replicas": 4}}
    assert shown["TaskTemplate"]["ContainerSpec"]["Image"] == "nginx"
