"""Networks through the API: shapes as Docker's, filters, refusals, removal."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from api_server import MANAGER_ID
from json_shapes import shape_differences

from pyswarm_common.objects import NetworkAttachment, Service, Task, TaskStatus, VirtualIP
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

Golden = Callable[[str], Any]


async def create(client: httpx.AsyncClient, **spec: Any) -> str:
    answer = await client.post("/networks/create", json={"Name": "gnet", "Driver": "overlay", **spec})
    assert answer.status_code == 201, answer.text
    network_id: str = answer.json()["Id"]
    return network_id


async def allocate(store: Store, network_id: str) -> None:
    """Do what the allocator does."""

    def change(tx: Any) -> None:
        network = tx.networks.must_get(network_id)
        tx.update(msgspec.structs.replace(network, vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1"))

    await store.update(change)


async def run_service(client: httpx.AsyncClient, store: Store) -> tuple[Service, Task]:
    """A service on the network with a task that runs."""
    spec = {"Name": "gsvc", "TaskTemplate": {"ContainerSpec": {"Image": "a"}, "Networks": [{"Target": "gnet"}]}}
    service_id = (await client.post("/services/create", json=spec)).json()["ID"]
    network_id = store.view.networks.named("gnet")[0].id

    def run(tx: Any) -> tuple[Service, Task]:
        service = tx.services.must_get(service_id)
        vip = VirtualIP(network_id=network_id, address="10.0.1.2/24")
        task = Task(
            id="task1",
            task_spec_id=service.task_spec_id,
            service_id=service.id,
            slot=1,
            node_id=MANAGER_ID,
            status=TaskStatus(state=TaskState.RUNNING, container_id="c" * 64),
            attachments=(NetworkAttachment(network_id=network_id, address="10.0.1.7/24"),),
        )
        return tx.update(msgspec.structs.replace(service, virtual_ips=(vip,))), tx.create(task)

    return await store.update(run)


async def test_list_looks_as_docker_shows_it(client: httpx.AsyncClient, store: Store, golden: Golden) -> None:
    await allocate(store, await create(client, Attachable=True, Labels=None, Options={}))
    ours = [network for network in (await client.get("/networks")).json() if network["Scope"] == "swarm"]
    theirs = golden("networks")[:2]
    assert [network["Name"] for network in theirs] == ["ingress", "gnet"]
    assert shape_differences(ours, theirs) == []
    for network in (*ours, *theirs):
        del network["Id"], network["Created"]
    assert ours == theirs


@pytest.mark.parametrize("is_verbose", [False, True])
async def test_inspect_looks_as_docker_shows_it(client: httpx.AsyncClient, store: Store, golden: Golden, is_verbose: bool) -> None:
    await allocate(store, await create(client, Attachable=True))
    await run_service(client, store)
    ours = (await client.get("/networks/gnet", params={"verbose": str(is_verbose).lower(), "scope": "swarm"})).json()
    theirs = golden("network_gnet_verbose" if is_verbose else "network_gnet")
    endpoint = theirs["Containers"].popitem()[1]
    theirs["Containers"] = {"c" * 64: endpoint}
    if is_verbose:
        info = ours["Services"]["gsvc"]["Tasks"][0]["Info"]
        own = {name: info.pop(name) for name in ("Node", "Node ID", "Service ID", "Task ID")}
        assert (own["Task ID"][:5], own["Node"], bool(own["Node ID"])) == ("task1", "vm", True)
    assert shape_differences(ours, theirs) == []
    assert ours["Containers"]["c" * 64]["Name"] == "gsvc.1.task1"
    assert ours["Containers"]["c" * 64]["MacAddress"] == "02:42:0a:00:01:07"
    if is_verbose:
        assert ours["Services"]["gsvc"]["VIP"] == "10.0.1.2"
        assert ours["Services"]["gsvc"]["Tasks"][0]["EndpointIP"] == "10.0.1.7"


async def test_network_is_found_in_the_swarm_only(client: httpx.AsyncClient) -> None:
    network_id = await create(client)
    for reference in ("gnet", network_id, network_id[:12]):
        assert (await client.get(f"/networks/{reference}")).json()["Id"] == network_id
    local = await client.get("/networks/gnet", params={"scope": "local"})
    assert (local.status_code, local.json()) == (404, {"message": "network gnet not found"})


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"label": {"com.docker.stack.namespace=st": True}}, ["st_app"]),
        ({"name": {"app": True}}, ["app", "st_app"]),
        ({"driver": {"overlay": True}}, ["app", "ingress", "st_app"]),
        ({"driver": {"bridge": True}}, ["bridge"]),
        ({"driver": {"null": True}}, ["none"]),
        ({"scope": {"local": True}}, ["bridge", "host", "none"]),
        ({"type": {"builtin": True}, "name": {"o": True}}, ["host", "none"]),
        ({"dangling": {"false": True}}, ["bridge", "host", "none"]),
        ({"type": {"custom": True}}, ["app", "ingress", "st_app"]),
        ({"dangling": {"true": True}}, ["app", "ingress", "st_app"]),
    ],
)
async def test_filters(client: httpx.AsyncClient, filters: Any, names: list[str]) -> None:
    await create(client, Name="app")
    await create(client, Name="st_app", Labels={"com.docker.stack.namespace": "st"})
    found = (await client.get("/networks", params={"filters": json.dumps(filters)})).json()
    assert sorted(network["Name"] for network in found) == names


async def test_network_in_use_stays(client: httpx.AsyncClient, store: Store) -> None:
    network_id = await create(client)
    service, _ = await run_service(client, store)
    refused = await client.delete("/networks/gnet")
    assert refused.status_code == 400
    text = f"rpc error: code = FailedPrecondition desc = network {network_id} is in use by service {service.id}"
    assert refused.json() == {"message": text}
    await client.delete("/services/gsvc")
    removed = await client.delete("/networks/gnet")
    assert (removed.status_code, removed.content) == (204, b"")
    assert not store.view.networks.named("gnet")


async def test_prune_removes_what_nothing_uses(client: httpx.AsyncClient, store: Store) -> None:
    await create(client)
    await run_service(client, store)
    await create(client, Name="idle")
    assert (await client.post("/networks/prune")).json() == {"NetworksDeleted": ["idle"]}
    assert (await client.post("/networks/prune")).json() == {"NetworksDeleted": None}


MTU = "com.docker.network.driver.mtu"
OUTSIDE = "parent subnet 10.9.0.0/24 doesn't contain this address"


def pool(**members: Any) -> dict[str, Any]:
    return pools(members)


def pools(*configs: dict[str, Any]) -> dict[str, Any]:
    return {"IPAM": {"Config": list(configs)}}


@pytest.mark.parametrize(
    ("spec", "status", "message"),
    [
        ({"Driver": "nosuch"}, 404, 'plugin "nosuch" not found'),
        ({"Name": "host"}, 403, "operation is not permitted on predefined host network"),
        ({"Name": ""}, 400, "name must be provided"),
        ({"Name": "a.b/c"}, 400, "name must be valid as a DNS name component"),
        ({"Scope": "local"}, 400, "an overlay network has the scope swarm"),
        ({"ConfigOnly": True}, 501, "a network that only holds configuration is not supported yet"),
        ({"ConfigFrom": {"Network": "taken"}}, 501, "configuration from another network is not supported yet"),
        ({"Ingress": True}, 409, "ingress network (awu67qfnd58e0cob36l18efg3) is already present"),
        ({"Ingress": True, "Attachable": True}, 400, "ingress network cannot be attachable"),
        ({"Ingress": True, "Internal": True}, 400, "ingress network cannot be internal"),
        ({"Options": {MTU: "575"}}, 400, 'invalid MTU "575"'),
        ({"Options": {MTU: "65536"}}, 400, "576 to 65535 bytes"),
        ({"Options": {MTU: "1279"}, "EnableIPv6": True}, 400, "a network with IPv6 needs 1280 to 65535 bytes"),
        ({"Options": {"com.docker.network.driver.overlay.vxlanid_list": "0"}}, 400, "VXLAN id 0 is not between 1 and"),
        ({"IPAM": {"Driver": "dhcp"}}, 404, 'ipam driver "dhcp" not found'),
        (pool(), 400, "an address pool needs a subnet"),
        (pool(Subnet="10.0.0.300/24"), 400, "invalid subnet 10.0.0.300/24: invalid CIDR block notation"),
        (pool(Subnet="10.9.0.1/24"), 400, "invalid network config:\ninvalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
        (pool(Subnet="10.9.0.0/30"), 400, "too small"),
        (pool(Subnet="10.9.0.0/24", Gateway="10.8.0.1"), 400, f"invalid gateway 10.8.0.1: {OUTSIDE}"),
        (pool(Subnet="10.9.0.0/24", Gateway="10.9.0.255"), 400, "invalid gateway 10.9.0.255: it is no host's address"),
        (pool(Subnet="10.9.0.0/24", Gateway="fd00::1"), 400, "invalid gateway fd00::1: parent subnet is an IPv4 block"),
        (pool(Subnet="10.9.0.0/24", Gateway="x"), 400, "invalid gateway x: invalid address"),
        (pool(Subnet="10.9.0.0/24", IPRange="10.9.0.0/16"), 400, "CIDR block is bigger than its parent subnet 10.9.0.0/24"),
        (pool(Subnet="10.9.0.0/24", IPRange="10.9.0.1/25"), 400, "invalid ip-range 10.9.0.1/25: it should be 10.9.0.0/25"),
        (pool(Subnet="10.9.0.0/24", IPRange="10.8.0.0/25"), 400, "parent subnet 10.9.0.0/24 doesn't contain ip-range"),
        (pool(Subnet="10.9.0.0/24", IPRange="x"), 400, "invalid ip-range x: invalid CIDR block notation"),
        (pool(Subnet="10.9.0.0/24", IPRange="fd00::/64"), 400, "invalid ip-range fd00::/64: parent subnet is an IPv4 block"),
        (pool(Subnet="10.9.0.0/24", AuxiliaryAddresses={"r": "10.8.0.9"}), 400, f"invalid auxiliary address r: {OUTSIDE}"),
        (pools({"Subnet": "10.9.0.0/24"}, {"Subnet": "10.9.0.0/16"}), 400, "subnet 10.9.0.0/16 overlaps with 10.9.0.0/24"),
        (pool(Subnet="10.0.0.0/16"), 400, "overlaps with network ingress"),
        (pool(Subnet="10.0.4.0/22"), 400, "overlaps with network taken: Pool overlaps with other one on this address space"),
        (pool(Subnet="fd00::/64"), 400, "subnet fd00::/64 is an IPv6 block, and the network has no IPv6"),
        ({"EnableIPv6": True, **pool(Subnet="fd00::/97")}, 400, "an IPv6 subnet has a prefix of at most 96 bits"),
        ({"EnableIPv6": True, **pools({"Subnet": "fd00::/64"}, {"Subnet": "fd01::/64"})}, 501, "more than one IPv6 subnet"),
        ({"EnableIPv6": True, **pool(Subnet="fd00::/64", Gateway="fd00::1")}, 400, "so leave it out"),
        (
            {"EnableIPv6": True, **pools({"Subnet": "10.9.0.0/24"}, {"Subnet": "fd00::/64", "Gateway": "fd00::1"})},
            400,
            "invalid gateway fd00::1: it follows from the IPv4 gateway, so it should be fd00::a09:1",
        ),
    ],
)
async def test_bad_networks_are_refused(client: httpx.AsyncClient, spec: dict[str, Any], status: int, message: str) -> None:
    await create(client, Name="taken", **pool(Subnet="10.0.5.0/24"))
    answer = await client.post("/networks/create", json={"Name": "gnet", "Driver": "overlay", **spec})
    assert answer.status_code == status
    assert message in answer.json()["message"]


async def test_names_are_unique(client: httpx.AsyncClient) -> None:
    await create(client)
    answer = await client.post("/networks/create", json={"Name": "gnet", "Driver": "overlay"})
    assert (answer.status_code, answer.json()) == (409, {"message": "network with name gnet already exists"})


async def test_options_without_effect_are_said(client: httpx.AsyncClient) -> None:
    answer = await client.post("/networks/create", json={"Name": "n", "Driver": "overlay", "Options": {"mtu": "1400"}})
    assert answer.json()["Warning"] == "these options are stored but have no effect: mtu"
