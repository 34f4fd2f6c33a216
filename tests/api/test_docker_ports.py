"""Published ports and networks by the unmodified docker CLI and the Docker SDK for Python; nothing runs tasks behind them."""

import asyncio
import json
from typing import Any

import docker
import msgspec
import pytest
from docker.types import EndpointSpec, IPAMConfig, IPAMPool
from docker_command import DockerCLI

from pyswarm_common.objects import Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

CREATE = ("service", "create", "-d", "--no-resolve-image")

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def docker_cli(api_socket: str) -> DockerCLI:
    return DockerCLI(api_socket)


def ports_of(store: Store, name: str) -> set[tuple[int, int, str, str]]:
    """Published port, target port, protocol and mode of each."""
    (service,) = store.view.services.named(name)
    ports = (service.spec.endpoint_spec.ports if service.spec.endpoint_spec else None) or []
    return {(p.published_port, p.target_port, p.protocol, p.publish_mode) for p in ports}


async def give(store: Store, name: str, **numbers: int) -> None:
    """Be the allocator, the scheduler and the agent of a service's task: give the ports that were not chosen."""
    (service,) = store.view.services.named(name)
    assert service.spec.endpoint_spec is not None
    ports = tuple(
        msgspec.structs.replace(port, published_port=port.published_port or numbers[port.publish_mode])
        for port in service.spec.endpoint_spec.ports or ()
    )
    in_mesh = tuple(p if p.publish_mode == "ingress" else msgspec.structs.replace(p, published_port=0) for p in ports)
    of_node = tuple(p for p in ports if p.publish_mode == "host")
    status = TaskStatus(state=TaskState.RUNNING, ports=of_node)
    task = Task(id="t1", task_spec_id=service.task_spec_id, service_id=service.id, slot=1, node_id="n1", status=status)
    await store.update(lambda tx: (tx.update(msgspec.structs.replace(service, ports=in_mesh)), tx.create(task)))


async def test_ports_of_the_mesh_and_of_the_nodes(docker_cli: DockerCLI, store: Store) -> None:
    published = ("-p", "8080:80", "-p", "mode=host,target=53,published=5353,protocol=udp", "-p", "9000-9002:90-92/sctp")
    await docker_cli(*CREATE, "--name", "web", *published, "nginx:1")
    in_range = {(9000 + i, 90 + i, "sctp", "ingress") for i in range(3)}
    assert ports_of(store, "web") == {(8080, 80, "tcp", "ingress"), (5353, 53, "udp", "host"), *in_range}
    listed = await docker_cli("service", "ls", "--format", "{{.Name}} {{.Ports}}")
    assert listed == "web *:9000-9002->90-92/sctp, *:8080->80/tcp\n"
    pretty = await docker_cli("service", "inspect", "--pretty", "web")
    assert " PublishedPort = 5353\n  Protocol = udp\n  TargetPort = 53\n  PublishMode = host" in pretty

    await docker_cli("service", "update", "-d", "--publish-rm", "80", "--publish-add", "8081:80", "web")
    await docker_cli("service", "update", "-d", "--publish-rm", "mode=host,target=53,protocol=udp", "web")
    assert ports_of(store, "web") == {(8081, 80, "tcp", "ingress"), *in_range}
    await docker_cli("service", "update", "-d", "--publish-add", "mode=host,target=443,published=443", "web")
    assert (443, 443, "tcp", "host") in ports_of(store, "web")
    await docker_cli("service", "rollback", "-d", "web")
    assert ports_of(store, "web") == {(8081, 80, "tcp", "ingress"), *in_range}


async def test_ports_that_the_cluster_and_the_nodes_choose(docker_cli: DockerCLI, store: Store) -> None:
    await docker_cli(*CREATE, "--name", "web", "-p", "80", "-p", "mode=host,target=53,protocol=udp", "nginx:1")
    assert (await docker_cli("service", "ls", "--format", "{{.Ports}}")) == "\n"
    await give(store, "web", ingress=30000, host=32801)
    assert (await docker_cli("service", "ls", "--format", "{{.Ports}}")) == "*:30000->80/tcp\n"
    assert (await docker_cli("service", "ps", "web", "--format", "{{.Ports}}")) == "*:32801->53/udp\n"
    endpoint = json.loads(await docker_cli("service", "inspect", "web", "--format", "{{json .Endpoint}}"))
    assert [port.get("PublishedPort") for port in endpoint["Ports"]] == [30000, None]
    await docker_cli("service", "scale", "-d", "web=2")
    assert {port[0] for port in ports_of(store, "web")} == {0}, "what was given is not what was asked for"


async def test_ports_that_cannot_be(docker_cli: DockerCLI) -> None:
    await docker_cli(*CREATE, "--name", "first", "-p", "8080:80", "nginx:1")
    for arguments, words in (
        (("-p", "8080:81"), "port '8080' is already in use by service 'first'"),
        (("-p", "mode=host,target=80,published=8080"), "as an ingress port"),
        (("-p", "81:80", "-p", "81:82"), "EndpointSpec: duplicate published ports provided"),
        (("--endpoint-mode", "dnsrr", "-p", "81:80"), "port published with ingress mode can't be used with dnsrr mode"),
        (("--network", "ingress"), 'Service cannot be explicitly attached to the ingress network "ingress"'),
    ):
        code, _, errors = await docker_cli.run(*CREATE, "--name", "second", *arguments, "nginx:1")
        assert (code, words in errors) == (1, True), errors


async def test_networks_of_services_come_and_go(docker_cli: DockerCLI, store: Store) -> None:
    for name in ("app", "back"):
        await docker_cli("network", "create", "-d", "overlay", name)
    attachment = "name=app,alias=www,alias=site,driver-opt=key=value"
    service_id = (await docker_cli(*CREATE, "--name", "web", "--network", attachment, "nginx:1")).strip()

    def networks() -> list[tuple[str, list[str] | None, dict[str, str] | None]]:
        service = store.view.services.must_get(service_id)
        attached = store.view.task_specs.must_get(service.task_spec_id).template.networks or []
        return [(store.view.networks.must_get(n.target).name, n.aliases, n.driver_opts) for n in attached]

    assert networks() == [("app", ["www", "site"], {"key": "value"})]
    await docker_cli("service", "update", "-d", "--network-add", "name=back,alias=db", "web")
    assert sorted(networks()) == [("app", ["www", "site"], {"key": "value"}), ("back", ["db"], None)]
    assert store.view.services.must_get(service_id).spec_generation == 2
    await docker_cli("service", "update", "-d", "--network-rm", "app", "web")
    assert networks() == [("back", ["db"], None)]
    code, _, errors = await docker_cli.run("network", "rm", "back")
    assert (code, f"is in use by service {service_id}" in errors) == (1, True)


async def test_a_network_with_flags(docker_cli: DockerCLI) -> None:
    flags = "--attachable --internal --subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.128/25 --label a=b"
    reserved = ("--aux-address", "router=10.9.0.129", "--opt", "com.docker.network.driver.mtu=1300")
    await docker_cli("network", "create", "-d", "overlay", *flags.split(), *reserved, "app")
    (found,) = json.loads(await docker_cli("network", "inspect", "app"))
    shown = {name: found[name] for name in ("Attachable", "Internal", "Ingress", "Labels", "Driver", "Scope")}
    assert shown == {
        "Attachable": True,
        "Internal": True,
        "Ingress": False,
        "Labels": {"a": "b"},
        "Driver": "overlay",
        "Scope": "swarm",
    }
    assert found["IPAM"]["Config"] == [
        {
            "Subnet": "10.9.0.0/24",
            "IPRange": "10.9.0.128/25",
            "Gateway": "10.9.0.254",
            "AuxiliaryAddresses": {"router": "10.9.0.129"},
        }
    ]
    assert found["Options"]["com.docker.network.driver.mtu"] == "1300"
    assert (await docker_cli("network", "ls", "-f", "label=a=b", "--format", "{{.Name}}")) == "app\n"


async def test_the_mesh_goes_and_comes_back(docker_cli: DockerCLI, store: Store) -> None:
    process = await asyncio.create_subprocess_exec(
        "docker",
        "network",
        "rm",
        "ingress",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=docker_cli.environment,
    )
    output, _ = await process.communicate(b"y\n")
    assert b"routing-mesh network" in output
    assert not store.view.networks.named("ingress")
    code, _, errors = await docker_cli.run(*CREATE, "-p", "80:80", "nginx:1")
    assert (code, "service needs ingress network, but no ingress network is present" in errors) == (1, True)
    await docker_cli("network", "create", "-d", "overlay", "--ingress", "--subnet", "10.11.0.0/16", "mesh")
    await docker_cli(*CREATE, "-p", "80:80", "nginx:1")


def _use_sdk(socket_path: str, store: Store) -> dict[str, Any]:
    client = docker.DockerClient(base_url=f"unix://{socket_path}")
    try:
        pool = IPAMPool(subnet="10.9.0.0/24", gateway="10.9.0.1")
        network = client.networks.create("app", driver="overlay", ipam=IPAMConfig(pool_configs=[pool]), attachable=True)
        assert network.attrs["IPAM"]["Config"] == [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"}]
        ports = EndpointSpec(ports={8080: 80, 5353: (53, "udp", "host")})
        service = client.services.create("nginx:1", name="web", networks=["app"], endpoint_spec=ports)
        service.update(endpoint_spec=EndpointSpec(ports={8081: 80}))
        service.reload()
        attributes: dict[str, Any] = service.attrs
        return attributes
    finally:
        client.close()


async def test_the_python_sdk_publishes_ports(api_socket: str, store: Store) -> None:
    found = await asyncio.to_thread(_use_sdk, api_socket, store)
    assert ports_of(store, "web") == {(8081, 80, "tcp", "ingress")}
    assert found["Endpoint"]["Ports"] == [{"Protocol": "tcp", "PublishMode": "ingress", "PublishedPort": 8081, "TargetPort": 80}]
    ports = found["PreviousSpec"]["EndpointSpec"]["Ports"]
    assert {(port["PublishedPort"], port["Protocol"], port["PublishMode"]) for port in ports} == {
        (8080, "tcp", "ingress"),
        (5353, "udp", "host"),
    }
