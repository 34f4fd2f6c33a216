"""What an ingress view asks of a node: ports, balancers, gateways, and a sandbox of its own."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, MeshPort, NetworkView, ServiceEndpoints
from pyswarm_netplugin.desired import DesiredBuilder, SandboxRecord, Underlay
from pyswarm_netplugin.memory import Memory
from pyswarm_netplugin.mesh.gateway import MeshGateway
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.mesh.views import balancers_of, ingress_view, mesh_chain, mesh_parts, published_ports_of
from pyswarm_netplugin.names import records_of
from pyswarm_netplugin.published_ports.records import PublishedPort
from pyswarm_netplugin.published_ports.reservations import Reservations
from pyswarm_netplugin.state import Egress

GATEWAYS = {
    "node-1": Endpoint(address="10.0.0.2/24", data_path_address="192.0.2.1"),
    "node-2": Endpoint(address="10.0.0.3/24", data_path_address="192.0.2.2", mac="02:11:22:33:44:55"),
}
TCP, UDP = MeshPort(published_port=8080, target_port=80), MeshPort(protocol="udp", published_port=53, target_port=5353)


def service(*backends: str, ports: tuple[MeshPort, ...] = (TCP,), **changes: str) -> ServiceEndpoints:
    """Return a service with these tasks."""
    return ServiceEndpoints(names=("web",), virtual_ip="10.0.0.9", backends=backends, ports=ports, **changes)  # type: ignore[arg-type]


def view(
    services: Mapping[str, ServiceEndpoints], network_id: str = "ingress", gateways: dict[str, Endpoint] = GATEWAYS
) -> NetworkView:
    """Return an ingress view."""
    return NetworkView(
        network_id=network_id,
        name="ingress",
        version=1,
        vni=4096,
        subnet="10.0.0.0/24",
        gateway="10.0.0.1",
        is_ingress=True,
        gateways=gateways,
        services=dict(services),
    )


def test_only_ports_with_tasks_are_balanced_and_all_are_published() -> None:
    seen = view({"a": service("10.0.0.5", ports=(TCP, UDP)), "b": service(ports=(MeshPort(published_port=9000, target_port=1),))})
    assert [balancer.key for balancer in balancers_of(seen)] == ["tcp/8080", "udp/53"]
    assert [(port.protocol, port.host_port, port.container_port) for port in published_ports_of(seen)] == [
        ("tcp", 8080, 8080),
        ("tcp", 9000, 9000),
        ("udp", 53, 53),
    ]


def test_a_chain_is_named_after_all_that_it_holds() -> None:
    changed = [
        service("10.0.0.5"),
        service("10.0.0.5", "10.0.0.6"),
        service("10.0.0.5", balancing="source-hash"),
        service("10.0.0.5", ports=(MeshPort(published_port=8080, target_port=81),)),
        service("10.0.0.5", ports=(MeshPort(published_port=8081, target_port=80),)),
        service("10.0.0.5", ports=(MeshPort(protocol="sctp", published_port=8080, target_port=80),)),
    ]
    assert len({mesh_chain(balancers_of(view({"a": other}))[0]) for other in changed}) == len(changed)


def test_a_port_that_two_services_want_goes_to_the_first() -> None:
    both = view({"b": service("10.0.0.6"), "a": service("10.0.0.5")})
    assert [balancer.backends for balancer in balancers_of(both)] == [("10.0.0.5",)]


def test_what_did_not_change_stays_the_same_object() -> None:
    before = mesh_parts(view({"a": service("10.0.0.5")}))
    after = mesh_parts(view({"a": service("10.0.0.5")}), before)
    assert after.gateways is before.gateways
    assert after.ports is before.ports
    assert before.gateways == {"10.0.0.2": "02:42:0a:00:00:02", "10.0.0.3": "02:11:22:33:44:55"}


def test_the_ingress_network_has_no_names_and_no_virtual_ips() -> None:
    other = NetworkView(network_id="app", name="app", version=1, vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1")
    seen = view({"a": service("10.0.0.5")})
    builder = DesiredBuilder(
        Underlay(address="192.0.2.1", port=4789, mtu_bytes=1500), Egress(address="172.19.0.1/16", mtu_bytes=1500)
    )
    attachments = (
        NetworkAttachment(network_id="app", address="10.0.1.5/24"),
        NetworkAttachment(network_id="ingress", address="10.0.0.5/24"),
    )
    task = SandboxRecord(id="t1", hostname="t1", attachments=attachments, egress_address="172.19.0.5/16")
    state = builder.build({"app": other, "ingress": seen}, [task])
    assert records_of(seen) == {}
    assert state.sandboxes["t1"].chains == {}
    returns = state.sandboxes["t1"].returns
    assert returns is not None
    assert (returns.interface, returns.datagram_address) == ("eth1", "172.19.0.5")
    assert set(returns.gateways) == {"10.0.0.2", "10.0.0.3"}


def test_a_node_goes_by_the_ingress_network_on_which_it_has_an_address() -> None:
    elsewhere = view({}, "b", {"node-9": GATEWAYS["node-1"]})
    assert ingress_view([elsewhere, view({}, "c"), view({}, "a")], "node-1") == view({}, "a")
    assert ingress_view([elsewhere], "node-1") is None
    assert ingress_view([view({})], "") is None


class FewPorts(Reservations):
    """Reserves nothing but knows which ports other programs have."""

    def __init__(self, *taken: int) -> None:
        super().__init__()
        self.taken = set(taken)

    def reserve(self, port: PublishedPort) -> None:
        """Raise OSError for a taken port."""
        if port.host_port in self.taken:
            raise OSError(98, "Address already in use")


@pytest.fixture
def reservations() -> FewPorts:
    return FewPorts(8080)


@pytest.fixture
def gateway(tmp_path: Path, reservations: FewPorts) -> MeshGateway:
    return MeshGateway("node-1", Memory(tmp_path), reservations)


def test_a_port_of_another_program_is_left_out_until_it_is_free(gateway: MeshGateway, reservations: FewPorts) -> None:
    seen = view({"a": service("10.0.0.5", ports=(TCP, UDP))})
    records: dict[str, SandboxRecord] = {}
    assert gateway.keep(records, gateway.record_for([seen], records, lambda: "172.19.0.2/16"))
    assert [port.host_port for port in records[MESH_SANDBOX_ID].ports] == [53]
    assert gateway.problems == {"tcp/8080": "another program on this node has the port (Address already in use)"}
    reservations.taken.clear()
    assert gateway.keep(records, gateway.record_for([seen], records, lambda: "172.19.0.3/16"))
    assert [port.host_port for port in records[MESH_SANDBOX_ID].ports] == [8080, 53]
    assert records[MESH_SANDBOX_ID].egress_address == "172.19.0.2/16", "which connections go through"
    assert gateway.problems == {}


def test_a_port_of_a_container_of_this_node_is_left_out(gateway: MeshGateway) -> None:
    own = SandboxRecord(id="t1", hostname="", ports=(PublishedPort(protocol="udp", container_port=1, host_port=53),))
    record = gateway.record_for([view({"a": service(ports=(UDP,))})], {"t1": own}, lambda: "172.19.0.2/16")
    assert record is not None
    assert record.ports == ()
    assert gateway.problems == {"udp/53": "a container on this node has the port"}


def test_it_goes_when_the_network_goes(gateway: MeshGateway, tmp_path: Path) -> None:
    records: dict[str, SandboxRecord] = {}
    gateway.keep(records, gateway.record_for([view({})], records, lambda: "172.19.0.2/16"))
    assert set(Memory(tmp_path).sandboxes()) == {MESH_SANDBOX_ID}
    assert not gateway.keep(records, gateway.record_for([view({})], records, lambda: "172.19.0.2/16"))
    assert gateway.keep(records, gateway.record_for([], records, lambda: "172.19.0.2/16"))
    assert records == Memory(tmp_path).sandboxes() == {}
