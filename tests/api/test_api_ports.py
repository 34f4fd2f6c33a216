"""Published ports as the API takes, refuses and shows them: of services (asked for and given) and of tasks."""

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from json_shapes import shape_differences

from pyswarm_common.objects import NetworkAttachment, Service, Task, TaskStatus, VirtualIP
from pyswarm_common.service_labels import balancing_of
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

Golden = Callable[[str], Any]


def port(target: int, published: int = 0, **members: Any) -> dict[str, Any]:
    return {"TargetPort": target, **({"PublishedPort": published} if published else {}), **members}


def spec_of(name: str, *ports: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "nginx:1"}},
        "EndpointSpec": {"Ports": list(ports)},
        **changes,
    }


async def create(client: httpx.AsyncClient, spec: dict[str, Any]) -> str:
    answer = await client.post("/services/create", json=spec)
    assert answer.status_code == 201, answer.text
    service_id: str = answer.json()["ID"]
    return service_id


async def give(store: Store, service_id: str, *ports: PortConfig, virtual_ips: tuple[VirtualIP, ...] = ()) -> None:
    """Be the allocator."""
    service = store.view.services.must_get(service_id)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(service, ports=ports, virtual_ips=virtual_ips)))


async def endpoint_of(client: httpx.AsyncClient, service_id: str) -> dict[str, Any]:
    endpoint: dict[str, Any] = (await client.get(f"/services/{service_id}")).json()["Endpoint"]
    return endpoint


async def test_an_endpoint_looks_as_docker_shows_it(client: httpx.AsyncClient, store: Store, golden: Golden) -> None:
    theirs = golden("service_gsvc")["Endpoint"]
    service_id = await create(client, spec_of("gsvc", port(80, 18090)))
    given = PortConfig(target_port=80, published_port=18090)
    addresses = tuple(VirtualIP(network_id=v["NetworkID"], address=v["Addr"]) for v in theirs["VirtualIPs"])
    await give(store, service_id, given, virtual_ips=addresses)
    ours = await endpoint_of(client, service_id)
    assert (ours, list(ours)) == (theirs, list(theirs))


async def test_ports_show_as_asked_for_until_they_are_given(client: httpx.AsyncClient, store: Store) -> None:
    asked = [port(80), port(80), port(53, Protocol="udp", PublishMode="host"), port(443, 8443, Name="tls")]
    service_id = await create(client, spec_of("web", *asked))
    full = [{"Protocol": "tcp", "PublishMode": "ingress", **each} for each in asked]
    assert await endpoint_of(client, service_id) == {"Spec": {"Mode": "vip", "Ports": full}, "Ports": full}
    await give(
        store,
        service_id,
        PortConfig(target_port=80, published_port=30000),
        PortConfig(target_port=80, published_port=30001),
        PortConfig(target_port=53, protocol="udp", publish_mode="host"),
        PortConfig(target_port=443, published_port=8443, name="tls"),
    )
    given = [{**full[0], "PublishedPort": 30000}, {**full[1], "PublishedPort": 30001}, *full[2:]]
    assert await endpoint_of(client, service_id) == {"Spec": {"Mode": "vip", "Ports": full}, "Ports": given}


async def test_what_was_given_before_an_update_is_not_shown_for_what_is_asked_now(client: httpx.AsyncClient, store: Store) -> None:
    service_id = await create(client, spec_of("web", port(80)))
    await give(store, service_id, PortConfig(target_port=80, published_port=30000))
    shown = (await client.get(f"/services/{service_id}")).json()
    changed = spec_of("web", port(81), port(80, 8080))
    answer = await client.post(f"/services/{service_id}/update", params={"version": shown["Version"]["Index"]}, json=changed)
    assert answer.status_code == 200, answer.text
    ports = (await endpoint_of(client, service_id))["Ports"]
    assert [(each["TargetPort"], each.get("PublishedPort")) for each in ports] == [(81, None), (80, 8080)]


TCP, UDP = {"Protocol": "tcp"}, {"Protocol": "udp"}
HOST = {"PublishMode": "host"}


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ([port(0, 80)], "EndpointSpec: invalid port 80:0"),
        ([port(80, 65536)], "EndpointSpec: invalid port 65536:80"),
        ([port(80, 80, Protocol="icmp")], 'EndpointSpec: invalid protocol "icmp"'),
        ([port(80, 80, PublishMode="mesh")], 'EndpointSpec: invalid publish mode "mesh"'),
        ([port(80, 80), port(81, 80)], "EndpointSpec: duplicate published ports provided"),
        ([port(80, 80), port(80, 80, **HOST)], "EndpointSpec: duplicate published ports provided"),
        ([port(80, 80, **HOST), port(81, 80, **HOST)], "EndpointSpec: duplicate published ports provided"),
    ],
)
async def test_ports_that_cannot_be_are_refused(client: httpx.AsyncClient, ports: list[dict[str, Any]], message: str) -> None:
    answer = await client.post("/services/create", json=spec_of("web", *ports))
    assert (answer.status_code, message in answer.json()["message"]) == (400, True), answer.text


@pytest.mark.parametrize(
    "ports",
    [
        [port(80, 80, **TCP), port(80, 80, **UDP), port(80, 80, Protocol="sctp")],
        [port(80), port(80), port(81)],
        [port(80, **HOST), port(80, **HOST)],
    ],
)
async def test_ports_that_get_on_with_each_other(client: httpx.AsyncClient, ports: list[dict[str, Any]]) -> None:
    await create(client, spec_of("web", *ports))


async def test_round_robin_dns_goes_with_ports_of_the_nodes_alone(client: httpx.AsyncClient) -> None:
    endpoint = {"Mode": "dnsrr", "Ports": [port(80, 80)]}
    refused = await client.post("/services/create", json=spec_of("web", EndpointSpec=endpoint))
    assert "EndpointSpec: port published with ingress mode can't be used with dnsrr mode" in refused.json()["message"]
    await create(client, spec_of("web", EndpointSpec={**endpoint, "Ports": [port(80, 80, **HOST)]}))


@pytest.mark.parametrize(
    ("held", "wanted", "words"),
    [
        (port(80, 8080), port(90, 8080), "as an ingress port"),
        (port(80, 8080), port(90, 8080, **HOST), "as an ingress port"),
        (port(80, 8080, **HOST), port(90, 8080), "as a host-published port"),
        (port(80, 8080, **HOST), port(90, 8080, **HOST), ""),
        (port(80, 8080, **UDP), port(90, 8080), ""),
        (port(80, 30000), port(90), ""),
    ],
)
async def test_two_services_and_one_port(
    client: httpx.AsyncClient, held: dict[str, Any], wanted: dict[str, Any], words: str
) -> None:
    first = await create(client, spec_of("first", held))
    answer = await client.post("/services/create", json=spec_of("second", wanted))
    if not words:
        assert answer.status_code == 201, answer.text
        return
    assert answer.status_code == 400
    assert f"port '8080' is already in use by service 'first' ({first}) {words}" in answer.json()["message"]


async def test_a_port_that_was_given_is_in_use_too(client: httpx.AsyncClient, store: Store) -> None:
    first = await create(client, spec_of("first", port(80)))
    await give(store, first, PortConfig(target_port=80, published_port=30000))
    answer = await client.post("/services/create", json=spec_of("second", port(80, 30000)))
    assert f"port '30000' is already in use by service 'first' ({first}) as an ingress port" in answer.json()["message"]


@pytest.mark.parametrize(
    ("value", "balancing"),
    [("source-hash", "source-hash"), ("round-robin", "round-robin"), ("", "round-robin"), (None, "round-robin")],
)
async def test_how_connections_are_balanced_is_a_label(
    client: httpx.AsyncClient, store: Store, value: str | None, balancing: str
) -> None:
    labels = {} if value is None else {"pyswarm.balance": value}
    service_id = await create(client, spec_of("web", Labels=labels))
    assert balancing_of(store.view.services.must_get(service_id).spec.labels) == balancing


async def test_another_balancing_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/services/create", json=spec_of("web", Labels={"pyswarm.balance": "least-connections"}))
    assert answer.status_code == 400
    message = "label pyswarm.balance: there is no balancing 'least-connections', only round-robin and source-hash"
    assert message in answer.json()["message"]


async def test_a_task_shows_its_place_in_the_mesh(
    client: httpx.AsyncClient, store: Store, service: Service, golden: Golden
) -> None:
    (ingress,) = store.view.networks.named("ingress")
    place = NetworkAttachment(network_id=ingress.id, address="10.0.0.5/24")
    task = Task(id="t1", task_spec_id=service.task_spec_id, service_id=service.id, slot=1, attachments=(place,))
    await store.update(lambda tx: tx.create(task))
    (ours,) = (await client.get("/tasks/t1")).json()["NetworksAttachments"]
    theirs = next(
        attached
        for each in golden("tasks")
        for attached in each.get("NetworksAttachments", ())
        if attached["Network"]["Spec"].get("Ingress")
    )
    assert shape_differences(ours, theirs) == []
    assert ours["Network"]["Spec"] == theirs["Network"]["Spec"]
    assert ours["Network"]["DriverState"] == theirs["Network"]["DriverState"]
    assert ours["Addresses"] == ["10.0.0.5/24"]


async def test_a_task_shows_the_ports_of_its_node(client: httpx.AsyncClient, store: Store, service: Service) -> None:
    ports = (PortConfig(protocol="udp", target_port=53, published_port=5353, publish_mode="host"),)
    status = TaskStatus(state=TaskState.RUNNING, ports=ports)
    task = Task(id="t1", task_spec_id=service.task_spec_id, service_id=service.id, slot=1, node_id="n1", status=status)
    await store.update(lambda tx: tx.create(task))
    shown = (await client.get("/tasks/t1")).json()["Status"]["PortStatus"]
    docker = {"Ports": [{"Protocol": "udp", "TargetPort": 53, "PublishedPort": 5353, "PublishMode": "host"}]}
    assert shown == docker
    assert shape_differences(shown, docker) == []
