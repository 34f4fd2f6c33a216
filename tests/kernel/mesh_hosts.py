"""The ingress network for tests of the routing mesh: handmade views, and sandboxes of tasks on it."""

from collections.abc import Mapping, Sequence

from overlay_hosts import Machine

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Balancing, Endpoint, MeshPort, NetworkView, ServiceEndpoints
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest

INGRESS = "net-ingress"
TASK_PORT = 8080
"""Where tasks listen."""


def gateway_of(number: int, subnet: str = "10.0.0") -> str:
    """Return the ingress address of the host with this number, from 1 on."""
    return f"{subnet}.{100 + number}"


def ingress(
    hosts: Sequence[Machine],
    tasks: Mapping[str, tuple[str, Machine]],
    backends: Sequence[str] | None = None,
    *,
    version: int = 1,
    ports: Sequence[MeshPort] = (MeshPort(published_port=80, target_port=TASK_PORT),),
    balancing: Balancing = "round-robin",
    subnet: str = "10.0.0",
    network_id: str = INGRESS,
) -> NetworkView:
    """Return the ingress view: `tasks` with their addresses and hosts, all of them backends unless told otherwise."""
    gateways = {
        host.name: Endpoint(address=f"{gateway_of(number, subnet)}/24", data_path_address=host.address)
        for number, host in enumerate(hosts, 1)
    }
    places = {
        task: Endpoint(address=f"{address}/24", data_path_address=host.address, name=f"web.1.{task}")
        for task, (address, host) in tasks.items()
    }
    addresses = tuple(sorted(address for address, _ in tasks.values())) if backends is None else tuple(backends)
    service = ServiceEndpoints(names=("web",), backends=addresses, balancing=balancing, ports=tuple(ports))
    return NetworkView(
        network_id=network_id,
        name="ingress",
        version=version,
        vni=4096,
        subnet=f"{subnet}.0/24",
        gateway=f"{subnet}.1",
        is_ingress=True,
        gateways=gateways,
        endpoints=places,
        services={"s1": service},
    )


async def apply(drivers: Sequence[NetworkDriver], view: NetworkView) -> None:
    """Apply the view on every host, as its only one."""
    for driver in drivers:
        await driver.apply_views({view.network_id: view})


def task_request(task: str, address: str, network_id: str = INGRESS) -> SandboxRequest:
    """Return a request for a task's sandbox on the ingress network."""
    return SandboxRequest(id=task, hostname=task, attachments=(NetworkAttachment(network_id=network_id, address=f"{address}/24"),))
