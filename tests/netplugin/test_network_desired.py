"""From views and requests to the desired state, to names, files and addresses."""

import msgspec
import pytest

from pyswarm_common.errors import FailedPrecondition, InvalidArgument
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin import naming
from pyswarm_netplugin.desired import (
    DesiredBuilder,
    SandboxRecord,
    Underlay,
    balancers_of,
    has_egress,
    hosts_file,
)
from pyswarm_netplugin.egress import choose_address, choose_subnet, gateway_of
from pyswarm_netplugin.overlay_links import peers_of
from pyswarm_netplugin.state import Egress, Peer

UNDERLAY = Underlay(address="192.0.2.1", port=4789, mtu_bytes=1500)
EGRESS = Egress(address="172.19.0.1/16", mtu_bytes=1500)


def view(network_id: str = "net-a", *, internal: bool = False, version: int = 1) -> NetworkView:
    """Return a view with a task here, a task elsewhere, a balanced service and one without a virtual IP."""
    return NetworkView(
        network_id=network_id,
        name="a",
        version=version,
        vni=4097,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        internal=internal,
        endpoints={
            "t1": Endpoint(address="10.0.1.5/24", data_path_address="192.0.2.1", name="web.1.t1"),
            "t2": Endpoint(address="10.0.1.6/24", data_path_address="192.0.2.2", name="web.2.t2"),
        },
        services={
            "s1": ServiceEndpoints(names=("web", "front"), virtual_ip="10.0.1.2/24", backends=("10.0.1.5", "10.0.1.6")),
            "s2": ServiceEndpoints(names=("db", "front"), backends=("10.0.1.9",)),
        },
    )


def record(*network_ids: str, egress_address: str = "172.19.0.2/16") -> SandboxRecord:
    """Return a sandbox on these networks."""
    attachments = tuple(
        NetworkAttachment(network_id=network_id, address=f"10.0.{number}.5/24") for number, network_id in enumerate(network_ids, 1)
    )
    return SandboxRecord(id="t1", hostname="box", attachments=attachments, egress_address=egress_address)


def test_only_endpoints_elsewhere_are_peers() -> None:
    assert peers_of(view(), "192.0.2.1") == {"10.0.1.6": Peer(host="192.0.2.2")}


def test_a_chains_name_says_its_backends() -> None:
    chains, backends = balancers_of(view())
    (chain,) = chains.values()
    assert list(chains) == ["10.0.1.2"]
    assert backends == {chain: ("10.0.1.5", "10.0.1.6")}
    assert naming.balancer_chain("10.0.1.2", ("10.0.1.5",)) != chain


def test_a_sandbox_has_its_networks_in_order_and_then_the_way_out() -> None:
    builder = DesiredBuilder(UNDERLAY, EGRESS)
    state = builder.build({"net-a": view(), "net-b": view("net-b")}, [record("net-b", "net-a")])
    links = state.sandboxes["t1"].links
    assert [(name, link.network_id, link.address, link.mtu_bytes) for name, link in links.items()] == [
        ("eth0", "net-b", "10.0.1.5/24", 1450),
        ("eth1", "net-a", "10.0.2.5/24", 1450),
        ("eth2", "", "172.19.0.2/16", 1500),
    ]
    assert links["eth2"].gateway == "172.19.0.1"


def test_an_unchanged_view_gives_the_same_objects() -> None:
    builder = DesiredBuilder(UNDERLAY, EGRESS)
    first = builder.build({"net-a": view()}, [record("net-a")])
    second = builder.build({"net-a": view(version=2)}, [record("net-a")])
    assert second.overlays["net-a"].peers is first.overlays["net-a"].peers
    assert second.sandboxes["t1"].chains is first.sandboxes["t1"].chains


@pytest.mark.parametrize(
    ("networks", "expected"),
    [((), True), (("open",), True), (("inner",), False), (("inner", "open"), True)],
)
def test_only_sandboxes_with_nothing_but_internal_networks_have_no_way_out(networks: tuple[str, ...], expected: bool) -> None:
    views = {"open": view("open"), "inner": view("inner", internal=True)}
    assert has_egress(record(*networks).attachments, views) is expected


def test_a_published_port_needs_the_way_out_even_from_internal_overlays() -> None:
    views = {"inner": view("inner", internal=True), "own": msgspec.structs.replace(view("own", internal=True), vni=0)}
    assert has_egress(record("inner").attachments, views, is_published=True)
    assert not has_egress(record("own").attachments, views, is_published=True), "a node's own network publishes by itself"


def test_hosts_names_the_container_on_each_network() -> None:
    assert hosts_file(record("net-a", "net-b")).splitlines()[-2:] == ["10.0.1.5\tbox", "10.0.2.5\tbox"]
    assert hosts_file(record()).splitlines()[-1] == "172.19.0.2\tbox"


def test_addresses_of_the_way_out_are_not_reused_at_once() -> None:
    first = choose_address("172.19.0.0/29", [])
    second = choose_address("172.19.0.0/29", [], first)
    assert (first, second) == ("172.19.0.2/29", "172.19.0.3/29")
    assert choose_address("172.19.0.0/29", [first, second], "172.19.0.6/29") == "172.19.0.4/29"
    every = [f"172.19.0.{n}/29" for n in range(2, 7)]
    with pytest.raises(FailedPrecondition, match="larger egress pool"):
        choose_address("172.19.0.0/29", every)


def test_the_way_out_avoids_the_hosts_routes() -> None:
    assert choose_subnet("172.19.0.0/16", ["10.0.0.0/8"]) == "172.19.0.0/16"
    assert choose_subnet("172.19.0.0/16", ["172.19.4.0/24", "172.20.0.0/16"]) == "172.21.0.0/16"
    assert gateway_of("172.21.0.0/16") == "172.21.0.1/16"
    with pytest.raises(FailedPrecondition, match="overlap routes"):
        choose_subnet("172.31.0.0/16", ["172.31.0.0/24"])
    with pytest.raises(InvalidArgument, match="not an IPv4 network"):
        choose_subnet("nonsense", [])


def test_names_fit_and_stay_apart() -> None:
    assert naming.mac_of("10.0.1.5") == bytes.fromhex("02420a000105")
    assert naming.address_of_mac(naming.mac_of("10.0.1.5")) == "10.0.1.5"
    assert len(naming.egress_port("abcdef", "x" * 25)) <= 15
    assert len(naming.egress_bridge("abcdef")) <= 15
    assert naming.is_egress_port("abcd", naming.egress_port("abcd", "t1"))
    assert not naming.is_egress_port("abcd", naming.egress_port("abcde", "t1"))
    assert not naming.is_egress_port("abcd", naming.egress_bridge("abcd"))
    with pytest.raises(InvalidArgument, match="4 to 6"):
        naming.check_tag("Too-long")
    with pytest.raises(InvalidArgument, match="cannot name a file"):
        naming.check_id("../x", "network")
