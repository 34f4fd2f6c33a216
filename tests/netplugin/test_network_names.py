"""Which names a network has, and where they lead."""

import msgspec

from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin.names import records_of

VIEW = NetworkView(
    network_id="net-a",
    name="app",
    version=1,
    vni=4097,
    subnet="10.0.1.0/24",
    gateway="10.0.1.1",
    endpoints={
        "t1": Endpoint(address="10.0.1.5/24", data_path_address="192.0.2.1", name="web.1.t1"),
        "t2": Endpoint(address="10.0.1.6/24", data_path_address="192.0.2.2", name="box", aliases=("front", "box")),
        "t3": Endpoint(address="", data_path_address="192.0.2.2", name="nowhere"),
    },
    services={
        "s1": ServiceEndpoints(names=("web", "front"), virtual_ip="10.0.1.2/24", backends=("10.0.1.5",)),
        "s2": ServiceEndpoints(names=("db", "front"), backends=("10.0.1.9", "10.0.1.10")),
    },
)


def test_names_lead_to_virtual_ips_backends_tasks_and_containers() -> None:
    assert records_of(VIEW) == {
        "web": ("10.0.1.2",),
        "front": ("10.0.1.6", "10.0.1.2", "10.0.1.9", "10.0.1.10"),
        "tasks.web": ("10.0.1.5",),
        "tasks.front": ("10.0.1.5", "10.0.1.9", "10.0.1.10"),
        "db": ("10.0.1.9", "10.0.1.10"),
        "tasks.db": ("10.0.1.9", "10.0.1.10"),
        "web.1.t1": ("10.0.1.5",),
        "box": ("10.0.1.6",),
    }


def test_on_an_ipv6_network_every_name_leads_to_the_twins_too() -> None:
    records = records_of(msgspec.structs.replace(VIEW, ipv6_subnet="fd00:1::/64"))
    assert records["web"] == ("10.0.1.2", "fd00:1::a00:102")
    assert records["tasks.db"] == ("10.0.1.9", "10.0.1.10", "fd00:1::a00:109", "fd00:1::a00:10a")


def test_the_ingress_network_has_no_names() -> None:
    assert records_of(msgspec.structs.replace(VIEW, is_ingress=True)) == {}
