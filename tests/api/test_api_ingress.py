"""The ingress network, pools of addresses, and addresses that users choose, through the API."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from api_server import INGRESS, MANAGER_ID, WORKER_ID
from json_shapes import shape_differences

from pyswarm_common.objects import NetworkAttachment, Node, Service, Task, TaskStatus, VirtualIP
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.decide import decide
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

Golden = Callable[[str], Any]
ADDRESSES = "pyswarm.addresses"
MAC = "com.docker.network.endpoint.macaddress"


async def allocate(store: Store) -> None:
    """Do what the allocator does."""
    await store.update(lambda tx: decide(tx, tx.now_ns, None).apply_to(tx))


async def create_network(client: httpx.AsyncClient, name: str = "app", *configs: dict[str, Any], **spec: Any) -> httpx.Response:
    ipam = {"IPAM": {"Config": list(configs)}} if configs else {}
    return await client.post("/networks/create", json={"Name": name, "Driver": "overlay", **ipam, **spec})


def web(*ports: dict[str, Any], name: str = "web", **spec: Any) -> dict[str, Any]:
    template = {"ContainerSpec": {"Image": "nginx"}, **spec.pop("TaskTemplate", {})}
    return {"Name": name, "TaskTemplate": template, "EndpointSpec": {"Ports": list(ports)}, **spec}


def mesh(published: int = 0, target: int = 80) -> dict[str, Any]:
    return {"TargetPort": target, "PublishedPort": published, "PublishMode": "ingress"}


async def create_service(client: httpx.AsyncClient, spec: dict[str, Any]) -> httpx.Response:
    return await client.post("/services/create", json=spec)


async def update_service(client: httpx.AsyncClient, spec: dict[str, Any]) -> httpx.Response:
    version = (await client.get("/services/web")).json()["Version"]["Index"]
    return await client.post("/services/web/update", params={"version": version}, json=spec)


def the_service(store: Store) -> Service:
    return store.view.services.named("web")[0]


async def test_inspect_looks_as_docker_shows_it(client: httpx.AsyncClient, store: Store, golden: Golden) -> None:
    await create_service(client, web(mesh(8080)))
    await allocate(store)

    def run(tx: Transaction) -> None:
        place = NetworkAttachment(network_id=INGRESS.id, address="10.0.0.9/24")
        status = TaskStatus(state=TaskState.RUNNING, container_id="c" * 64)
        spec_id = the_service(store).task_spec_id
        tx.create(Task(id="t", task_spec_id=spec_id, node_id=WORKER_ID, slot=1, status=status, attachments=(place,)))

    await store.update(run)
    ours, theirs = (await client.get("/networks/ingress")).json(), golden("network_ingress")
    task_endpoint = theirs["Containers"].popitem()[1]
    containers = {"c" * 64: task_endpoint, "ingress-sbox": task_endpoint, f"ingress-sbox.{MANAGER_ID}": task_endpoint}
    theirs |= {"Containers": containers, "Peers": theirs["Peers"] * 2}
    assert shape_differences(ours, theirs) == []
    (sandbox,) = (e for key, e in ours["Containers"].items() if key == "ingress-sbox")
    assert sandbox["Name"] == "ingress-endpoint"
    addresses = {e["IPv4Address"] for e in ours["Containers"].values()}
    assert addresses == {"10.0.0.9/24", *(n.attachments[0].address for n in store.view.nodes)}


async def test_it_goes_only_when_no_service_needs_it(client: httpx.AsyncClient, store: Store) -> None:
    service_id = (await create_service(client, web(mesh(8080)))).json()["ID"]
    refused = await client.delete("/networks/ingress")
    text = f"ingress network cannot be removed because service {service_id} depends on it"
    assert refused.json() == {"message": f"rpc error: code = FailedPrecondition desc = {text}"}
    assert (await client.post("/networks/prune")).json() == {"NetworksDeleted": None}
    await client.delete("/services/web")
    assert (await client.post("/networks/prune")).json() == {"NetworksDeleted": None}
    assert (await client.delete("/networks/ingress")).status_code == 204
    await allocate(store)
    assert all(not node.attachments for node in store.view.nodes)


async def test_without_it_nothing_is_published_in_the_mesh_until_there_is_another(client: httpx.AsyncClient, store: Store) -> None:
    await client.delete("/networks/ingress")
    refused = await create_service(client, web(mesh(8080)))
    assert refused.status_code == 400
    assert "service needs ingress network, but no ingress network is present" in refused.json()["message"]
    at_host = {**mesh(8080), "PublishMode": "host"}
    assert (await create_service(client, web(at_host))).status_code == 201
    assert "no ingress network is present" in (await update_service(client, web(mesh(8080)))).json()["message"]
    made = await create_network(client, "my-ingress", {"Subnet": "10.11.0.0/16", "Gateway": "10.11.0.2"}, Ingress=True)
    assert made.status_code == 201
    second = await create_network(client, "another", Ingress=True)
    assert second.status_code == 409
    assert second.json()["message"].endswith(f"ingress network ({made.json()['Id']}) is already present")
    assert (await update_service(client, web(mesh(8080)))).status_code == 200
    await allocate(store)
    network_id = made.json()["Id"]
    assert [node.attachments[0].network_id for node in store.view.nodes] == [network_id] * 2
    assert [node.attachments[0].address.rpartition(".")[0] for node in store.view.nodes] == ["10.11.0"] * 2
    endpoint = (await client.get("/services/web")).json()["Endpoint"]
    assert [vip["NetworkID"] for vip in endpoint["VirtualIPs"]] == [network_id]


async def test_a_rollback_to_ports_in_the_mesh_needs_it_too(client: httpx.AsyncClient) -> None:
    await create_service(client, web(mesh(8080)))
    assert (await update_service(client, web())).status_code == 200
    assert (await client.delete("/networks/ingress")).status_code == 204
    version = (await client.get("/services/web")).json()["Version"]["Index"]
    refused = await client.post("/services/web/update", params={"version": version, "rollback": "previous"}, json={})
    assert (refused.status_code, "no ingress network is present" in refused.text) == (400, True)


async def test_only_the_first_and_the_last_port_of_the_mesh_need_other_tasks(client: httpx.AsyncClient, store: Store) -> None:
    await create_service(client, web())
    generations = []
    for ports in ([mesh(8080)], [mesh(8081)], [mesh(8081), mesh(0, 443)], [mesh(0, 443)], []):
        assert (await update_service(client, web(*ports))).status_code == 200
        generations.append(the_service(store).spec_generation)
    assert generations == [2, 2, 2, 2, 3]


async def test_numbers_are_given_and_stay(client: httpx.AsyncClient, store: Store) -> None:
    await create_service(client, web(mesh(), mesh(0, 81)))
    await create_service(client, web(mesh(), name="other"))
    await allocate(store)
    shown = (await client.get("/services/web")).json()
    given = [port["PublishedPort"] for port in shown["Endpoint"]["Ports"]]
    (other,) = store.view.services.named("other")[0].ports
    assert len({*given, other.published_port}) == 3
    assert all(30000 <= number <= 32767 for number in (*given, other.published_port))
    taken = await create_service(client, web(mesh(given[0]), name="third"))
    assert f"port '{given[0]}' is already in use by service 'web'" in taken.json()["message"]
    await update_service(client, web(mesh(0, 81), mesh(8080, 82)))
    await allocate(store)
    assert [port.published_port for port in the_service(store).ports] == [given[1], 8080]
    assert (await create_service(client, web(mesh(given[0]), name="third"))).status_code == 201


async def test_several_subnets_and_ipv6_are_shown(client: httpx.AsyncClient, store: Store) -> None:
    pools: list[dict[str, Any]] = [
        {
            "Subnet": "10.5.0.0/24",
            "Gateway": "10.5.0.9",
            "IPRange": "10.5.0.128/25",
            "AuxiliaryAddresses": {"router": "10.5.0.129"},
        },
        {"Subnet": "10.6.0.0/24"},
        {"Subnet": "fd00:5::/64"},
    ]
    assert (await create_network(client, "app", *pools, EnableIPv6=True)).status_code == 201
    assert (await client.get("/networks/app")).json()["IPAM"]["Config"] == pools
    await allocate(store)
    shown = (await client.get("/networks/app")).json()
    assert shown["EnableIPv6"] is True
    assert shown["IPAM"]["Config"] == [
        pools[0],
        {"Subnet": "10.6.0.0/24", "Gateway": "10.6.0.1"},
        {"Subnet": "fd00:5::/64", "Gateway": "fd00:5::a05:9"},
    ]
    network_id = shown["Id"]

    def run(tx: Transaction) -> None:
        place = NetworkAttachment(network_id=network_id, address="10.6.0.7/24", mac="02:00:00:00:00:01")
        status = TaskStatus(state=TaskState.RUNNING, container_id="c" * 64)
        tx.create(Task(id="t", task_spec_id="s", node_id=WORKER_ID, status=status, attachments=(place,)))

    await store.update(run)
    endpoint = (await client.get("/networks/app")).json()["Containers"]["c" * 64]
    assert endpoint["IPv6Address"] == "fd00:5::a06:7/64"
    assert (endpoint["IPv4Address"], endpoint["MacAddress"]) == ("10.6.0.7/24", "02:00:00:00:00:01")


async def test_a_unique_local_subnet_where_none_is_given(client: httpx.AsyncClient, store: Store) -> None:
    for name in ("app", "db"):
        await create_network(client, name, EnableIPv6=True)
    await allocate(store)
    subnets = [(await client.get(f"/networks/{name}")).json()["IPAM"]["Config"][1]["Subnet"] for name in ("app", "db")]
    assert all(subnet.startswith("fd") and subnet.endswith("::/64") for subnet in subnets)
    assert len(set(subnets)) == 2
    overlapping = await create_network(client, "third", {"Subnet": subnets[0]}, EnableIPv6=True)
    assert (overlapping.status_code, "overlaps with network app" in overlapping.text) == (400, True)


async def test_options_that_are_honoured_are_not_warned_of(client: httpx.AsyncClient) -> None:
    options = {"com.docker.network.driver.mtu": "1400", "com.docker.network.driver.overlay.vxlanid_list": "5000"}
    answer = await create_network(client, "app", Options=options, Scope="swarm", Labels={"a": "b"}, Internal=True, Attachable=True)
    assert answer.json()["Warning"] == ""


async def test_prune_by_age_and_missing_label(client: httpx.AsyncClient) -> None:
    for name, labels in (("one", {"keep": "1"}), ("two", {})):
        await create_network(client, name, Labels=labels)

    async def prune(**filters: list[str]) -> Any:
        answer = await client.post("/networks/prune", params={"filters": json.dumps(filters)})
        return answer.json().get("NetworksDeleted", answer.status_code)

    assert await prune(until=["1h"]) is None
    assert await prune(until=["2001-01-01T00:00:00Z"]) is None
    assert await prune(until=["1h", "2h"]) == 400
    assert await prune(until=["tomorrow"]) == 400
    assert await prune(**{"label!": ["keep"]}) == ["two"]
    assert await prune(until=["0s"]) == ["one"]


def on_app(options: dict[str, str], **spec: Any) -> dict[str, Any]:
    return web(TaskTemplate={"Networks": [{"Target": "app", "DriverOpts": options}]}, **spec)


START_FIRST = {"Order": "start-first"}


@pytest.mark.parametrize(
    ("options", "spec", "message"),
    [
        ({ADDRESSES: "10.5.0.10-10.5.0.9"}, {}, "the range ends before it begins"),
        ({ADDRESSES: "10.5.0.10+10.5.0.8-10.5.0.12"}, {}, "10.5.0.10 is in it twice"),
        ({ADDRESSES: ""}, {}, "invalid IPv4 address"),
        ({ADDRESSES: "10.0.0.0-10.255.0.0"}, {}, "more than 4096"),
        ({ADDRESSES: "10.6.0.10"}, {}, "network app: no configured subnet contains IP address 10.6.0.10"),
        ({ADDRESSES: "10.5.0.0"}, {}, "no configured subnet contains IP address 10.5.0.0"),
        ({ADDRESSES: "10.5.0.1"}, {}, "address 10.5.0.1 is the network's gateway"),
        ({ADDRESSES: "10.5.0.5-10.5.0.6"}, {}, "address 10.5.0.6 is an auxiliary address"),
        ({ADDRESSES: "10.5.0.2"}, {}, "address 10.5.0.2 is the virtual IP of service other"),
        ({ADDRESSES: "10.5.0.20"}, {}, "address 10.5.0.20 is chosen for service fixed"),
        ({ADDRESSES: "10.5.0.30"}, {"Mode": {"Global": {}}}, "needs a replicated service: the tasks of mode global"),
        ({ADDRESSES: "10.5.0.30"}, {"UpdateConfig": START_FIRST}, "rules start-first out"),
        ({ADDRESSES: "10.5.0.30"}, {"RollbackConfig": START_FIRST}, "rules start-first out"),
        ({ADDRESSES: "10.5.0.30"}, {"Labels": {"pyswarm.move.order": "start-first"}}, "rules start-first out"),
        ({MAC: "02:00:00:00:00:09"}, {"Mode": {"Replicated": {"Replicas": 2}}}, "needs a service with one replica"),
        ({MAC: "02:00:00:00:00:09"}, {"UpdateConfig": START_FIRST}, "rules start-first out"),
        ({MAC: "03:00:00:00:00:09"}, {}, "not the address of a single host"),
        ({MAC: "02:00"}, {}, "six pairs of hexadecimal digits"),
        ({MAC: "02:42:0a:05:00:07"}, {}, "belongs to the network's address 10.5.0.7"),
        ({MAC: "02:00:00:00:00:01"}, {}, "is chosen for service fixed"),
    ],
)
async def test_addresses_that_cannot_be_chosen(
    client: httpx.AsyncClient, store: Store, options: dict[str, str], spec: dict[str, Any], message: str
) -> None:
    await create_network(client, "app", {"Subnet": "10.5.0.0/24", "AuxiliaryAddresses": {"a": "10.5.0.6"}})
    fixed = await create_service(client, on_app({ADDRESSES: "10.5.0.20", MAC: "02-00-00-00-00-01"}, name="fixed"))
    assert fixed.status_code == 201, fixed.text
    await allocate(store)
    await create_service(client, on_app({}, name="other"))
    vip = VirtualIP(network_id=store.view.networks.named("app")[0].id, address="10.5.0.2/24")
    for name, vips in (("fixed", ()), ("other", (vip,))):
        service = store.view.services.named(name)[0]
        await store.update(lambda tx, s=service, v=vips: tx.update(msgspec.structs.replace(s, virtual_ips=v)))  # type: ignore[misc]
    refused = await create_service(client, on_app(options, **spec))
    assert (refused.status_code, message in refused.json()["message"]) == (400, True), refused.text
    assert (await create_service(client, on_app({}))).status_code == 201
    updated = await update_service(client, on_app(options, **spec))
    assert updated.status_code in (400, 501)
    assert (await client.get("/services/web")).json()["Spec"]["TaskTemplate"]["Networks"][0].get("DriverOpts") in (None, {})


async def test_addresses_that_can_be_chosen(client: httpx.AsyncClient, store: Store) -> None:
    await create_network(client, "app", {"Subnet": "10.5.0.0/24"})
    options = {ADDRESSES: "10.5.0.10-10.5.0.11+10.5.0.20", MAC: "02-00-00-00-00-01"}
    assert (await create_service(client, on_app(options))).status_code == 201
    await allocate(store)
    assert (await update_service(client, on_app({**options, ADDRESSES: "10.5.0.10"}))).status_code == 200
    assert the_service(store).spec_generation == 2


async def test_a_network_that_has_no_subnet_yet_offers_none(client: httpx.AsyncClient, store: Store) -> None:
    await create_network(client, "app")
    refused = await create_service(client, on_app({ADDRESSES: "10.0.1.10"}))
    assert "it has no subnet yet" in refused.json()["message"]
    await allocate(store)
    assert (await create_service(client, on_app({ADDRESSES: "10.0.1.10"}))).status_code == 201


async def test_a_node_that_leaves_gives_its_address_back(client: httpx.AsyncClient, store: Store) -> None:
    await allocate(store)
    before = {node.id: node.attachments for node in store.view.nodes}
    await store.update(lambda tx: tx.delete(Node, WORKER_ID))
    await allocate(store)
    assert {node.id: node.attachments for node in store.view.nodes} == {MANAGER_ID: before[MANAGER_ID]}
