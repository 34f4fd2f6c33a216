"""What views say beside tasks: nodes, frames, mesh ports, balancing; and that every part of it arrives by deltas."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyswarm_common import wire
from pyswarm_common.objects import (
    Cluster,
    Network,
    NetworkAttachment,
    Node,
    NodeDescription,
    NodeStatus,
    Service,
    Task,
    TaskSpec,
    TaskStatus,
    VirtualIP,
)
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.assignments import Sent, next_assignments
from pyswarm_manager.dispatcher.network_views import NetworkViews, compute_view
from pyswarm_manager.store.tables import Tables

TEMPLATE = b'{"ContainerSpec":{"Image":"x"},"Networks":[{"Target":"net"}]}'
MESH = (
    PortConfig(protocol="tcp", target_port=80, published_port=8080),
    PortConfig(protocol="udp", target_port=53, published_port=0),
    PortConfig(protocol="tcp", target_port=90, published_port=9090, publish_mode="host"),
)
PLAIN = Network(id="net", name="app", vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1")
INGRESS = Network(id="ingress", name="ingress", spec_json=b'{"Ingress":true}', vni=4096, subnet="10.0.0.0/24", gateway="10.0.0.1")
SECRET = Network(id="secret", name="secret", spec_json=b'{"Options":{"encrypted":""}}', vni=4098, subnet="10.0.2.0/24")


def node(number: int, *, mtu_bytes: int = 1500, state: str = "ready", key: str = "") -> Node:
    description = NodeDescription(
        hostname=f"h{number}",
        data_path_address=f"192.0.2.{number}",
        underlay_mtu_bytes=mtu_bytes,
        wireguard_key=key,
        wireguard_port=51820 if key else 0,
    )
    gateway = NetworkAttachment(network_id="ingress", address=f"10.0.0.{200 + number}/24", mac=f"02:00:00:00:00:0{number}")
    status = msgspec.convert({"state": state}, NodeStatus)
    return Node(id=f"n{number}", description=description, status=status, attachments=(gateway,))


def task(number: int, *networks: str, state: TaskState = TaskState.RUNNING, desired: TaskState = TaskState.RUNNING) -> Task:
    subnets = {"net": 1, "ingress": 0, "secret": 2}
    return Task(
        id=f"t{number}",
        task_spec_id="spec",
        service_id="svc",
        slot=number,
        node_id=f"n{number}",
        status=TaskStatus(state=state),
        desired_state=desired,
        attachments=tuple(NetworkAttachment(network_id=n, address=f"10.0.{subnets[n]}.{10 + number}/24") for n in networks),
    )


class World:
    """Tables and the views that follow them."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.views = NetworkViews()
        self.tables.table(Cluster).put(Cluster(id="c"), 1)
        self.version = 1
        for item in (node(1), node(2), PLAIN, INGRESS, SECRET, TaskSpec(id="spec", template_json=TEMPLATE)):
            self.put(item)
        vip = VirtualIP(network_id="net", address="10.0.1.2/24")
        self.put(Service(id="svc", name="web", task_spec_id="spec", virtual_ips=(vip,)))
        self.refresh()

    def put(self, item: Any) -> None:
        """Store an object."""
        before = self.tables.table(type(item)).put(item, 1)
        match item:
            case Node():
                self.views.note_node(before, item)
            case Network():
                self.views.note_network(before, item)
            case Service():
                self.views.note_service(before, item)
            case Task():
                self.views.note_task(before, item)

    def delete(self, type_: Any, object_id: str) -> None:
        """Delete an object."""
        before = self.tables.table(type_).delete(object_id)
        notes = {Node: self.views.note_node, Network: self.views.note_network, Service: self.views.note_service}
        (self.views.note_task if type_ is Task else notes[type_])(before, None)

    def refresh(self) -> set[str]:
        """Return what has changed."""
        self.version += 1
        return self.views.refresh(self.tables, self.version)

    def view(self, network_id: str) -> wire.NetworkView:
        """Return what is published of a network."""
        return self.views.published[network_id].view


@pytest.fixture
def world() -> World:
    return World()


def test_gateways_are_the_nodes_addresses_on_the_ingress_network(world: World) -> None:
    assert world.view("ingress").is_ingress
    assert world.view("ingress").gateways["n1"] == wire.Endpoint(
        address="10.0.0.201/24", data_path_address="192.0.2.1", name="h1", mac="02:00:00:00:00:01"
    )
    assert (sorted(world.view("ingress").gateways), world.view("net").gateways) == (["n1", "n2"], {})
    world.put(node(2, state="down"))
    assert world.refresh() == {"ingress"}
    assert sorted(world.view("ingress").gateways) == ["n1"]
    world.put(node(2))
    world.put(node(3))
    assert world.refresh() == {"ingress"}
    assert sorted(world.view("ingress").gateways) == ["n1", "n2", "n3"]
    world.delete(Node, "n1")
    world.refresh()
    assert sorted(world.view("ingress").gateways) == ["n2", "n3"]


def test_a_service_stands_on_the_ingress_network_with_its_mesh_ports_alone(world: World) -> None:
    assert world.view("ingress").services == {}
    service = world.tables.services.must_get("svc")
    world.put(task(1, "net", "ingress"))
    world.put(msgspec.structs.replace(service, ports=MESH))
    assert world.refresh() == {"net", "ingress"}
    port = wire.MeshPort(protocol="tcp", published_port=8080, target_port=80)
    expected = wire.ServiceEndpoints(names=("web",), backends=("10.0.0.11",), ports=(port,))
    assert world.view("ingress").services == {"svc": expected}
    assert world.view("net").services["svc"] == wire.ServiceEndpoints(
        names=("web",), virtual_ip="10.0.1.2", backends=("10.0.1.11",)
    )
    world.put(service)
    assert world.refresh() == {"ingress"}
    assert world.view("ingress").services == {}


def test_an_ingress_network_that_is_made_anew_names_the_services_that_were_there_before(world: World) -> None:
    world.put(msgspec.structs.replace(world.tables.services.must_get("svc"), ports=MESH))
    world.delete(Network, "ingress")
    assert world.refresh() == {"ingress"}
    assert "ingress" not in world.views.published
    world.put(msgspec.structs.replace(INGRESS, id="other", vni=5000))
    world.refresh()
    assert [p.published_port for p in world.view("other").services["svc"].ports] == [8080]


@pytest.mark.parametrize(
    ("labels", "balancing"),
    [(b"{}", "round-robin"), (b'{"pyswarm.balance":"source-hash"}', "source-hash"), (b'{"pyswarm.balance":"x"}', "round-robin")],
)
def test_a_label_says_how_a_service_is_balanced(world: World, labels: bytes, balancing: str) -> None:
    service = world.tables.services.must_get("svc")
    world.put(msgspec.structs.replace(service, spec_json=b'{"Labels":' + labels + b"}"))
    world.refresh()
    assert world.view("net").services["svc"].balancing == balancing


def test_the_smallest_underlay_decides_the_mtu_unless_the_network_says_it(world: World) -> None:
    said = msgspec.structs.replace(PLAIN, spec_json=b'{"Options":{"com.docker.network.driver.mtu":"1300"}}', id="said", vni=6000)
    world.put(said)
    world.refresh()
    assert [world.view(n).mtu_bytes for n in ("net", "secret", "said")] == [1450, 1370, 1300]
    world.put(node(2, mtu_bytes=1400))
    assert world.refresh() == {"net", "secret", "ingress"}
    assert [world.view(n).mtu_bytes for n in ("net", "secret", "said")] == [1350, 1270, 1300]
    world.put(node(2, mtu_bytes=1400, state="down"))
    assert world.refresh() == {"ingress"}, "it will come back"
    for number in (1, 2):
        world.put(node(number, mtu_bytes=0))
    world.refresh()
    assert [world.view(n).mtu_bytes for n in ("net", "secret", "said")] == [0, 0, 1300]


def test_only_encrypted_networks_know_the_keys_of_living_nodes(world: World) -> None:
    for number in (1, 2):
        world.put(node(number, key=f"key{number}"))
    assert world.refresh() == {"secret"}
    keys = {f"192.0.2.{n}": wire.NodeKey(public_key=f"key{n}", port=51820) for n in (1, 2)}
    assert (world.view("secret").is_encrypted, world.view("secret").node_keys) == (True, keys)
    assert (world.view("net").is_encrypted, world.view("net").node_keys) == (False, {})
    world.put(node(2, key="key2", state="down"))
    world.refresh()
    assert sorted(world.view("secret").node_keys) == ["192.0.2.1"]


def test_a_network_that_grew_tells_its_subnets_without_repeating_its_endpoints(world: World) -> None:
    world.put(task(1, "net"))
    world.refresh()
    before = world.view("net")
    grown = msgspec.structs.replace(PLAIN, further_subnets=("10.0.7.0/24",), ipv6_subnet="fd00::/64")
    world.put(grown)
    assert world.refresh() == {"net"}
    assert (world.view("net").further_subnets, world.view("net").ipv6_subnet) == (("10.0.7.0/24",), "fd00::/64")
    delta = msgspec.msgpack.decode(world.views.published["net"].delta, type=wire.NetworkViewDelta)
    assert (delta.endpoints, delta.services) == ({}, {})
    assert wire.apply_view_delta(before, delta) == world.view("net")


def test_an_endpoint_tells_the_hardware_address_that_was_asked_for(world: World) -> None:
    given = task(1, "net")
    place = msgspec.structs.replace(given.attachments[0], mac="02:42:00:00:00:07")
    world.put(msgspec.structs.replace(given, attachments=(place,)))
    world.refresh()
    assert world.view("net").endpoints["t1"].mac == "02:42:00:00:00:07"


def test_what_is_not_told_changes_no_version(world: World) -> None:
    service = world.tables.services.must_get("svc")
    world.put(msgspec.structs.replace(service, job_iteration=7))
    world.put(msgspec.structs.replace(node(1), updated_at_ns=5))
    world.put(msgspec.structs.replace(PLAIN, updated_at_ns=9))
    assert world.refresh() == set()


def test_a_service_without_virtual_ip_that_was_removed_leaves_the_view(world: World) -> None:
    world.put(Service(id="rr", name="rr", task_spec_id="spec"))
    assert world.refresh() == {"net"}
    world.delete(Service, "rr")
    assert world.refresh() == {"net"}
    assert list(world.view("net").services) == ["svc"]


@pytest.mark.parametrize("field", msgspec.structs.fields(wire.NetworkView), ids=lambda f: f.name)
def test_no_field_of_a_view_is_forgotten_by_deltas(field: msgspec.structs.FieldInfo) -> None:
    before = wire.NetworkView(network_id="net", name="app", version=1, vni=1, subnet="", gateway="")
    endpoint = wire.Endpoint(address="a", data_path_address="b")
    others: dict[str, Any] = {
        "gateways": {"n": endpoint},
        "endpoints": {"t": endpoint},
        "node_keys": {"n": wire.NodeKey(public_key="k", port=1)},
        "services": {"s": wire.ServiceEndpoints(names=("n",))},
        "further_subnets": ("x",),
    }
    value = getattr(before, field.name)
    other = others[field.name] if field.name in others else not value if isinstance(value, bool) else type(value)(7)
    after = msgspec.structs.replace(before, **{"version": 2, field.name: other})
    for start, end in ((before, after), (after, msgspec.structs.replace(before, version=8))):
        sent = msgspec.msgpack.decode(wire.encode(wire.view_delta(start, end)), type=wire.NetworkViewDelta)
        assert wire.apply_view_delta(start, sent) == end


def test_a_delta_names_the_backends_that_came_and_went(world: World) -> None:
    for number in range(1, 100):
        world.put(msgspec.structs.replace(task(number, "net"), node_id="n1"))
    world.refresh()
    before = world.view("net")
    world.put(msgspec.structs.replace(task(7, "net", desired=TaskState.SHUTDOWN), node_id="n1"))
    world.put(msgspec.structs.replace(task(100, "net"), node_id="n1"))
    world.refresh()
    raw = world.views.published["net"].delta
    delta = msgspec.msgpack.decode(raw, type=wire.NetworkViewDelta)
    assert delta.services == {}
    assert delta.backends == {"svc": wire.BackendsChange(added=("10.0.1.110",), removed=("10.0.1.17",))}
    assert wire.apply_view_delta(before, delta) == world.view("net")
    assert len(wire.apply_view_delta(before, delta).services["svc"].backends) == 99
    with pytest.raises(KeyError):
        wire.apply_view_delta(msgspec.structs.replace(before, services={}), delta)


def test_agents_that_do_not_know_all_of_todays_deltas_get_whole_views(world: World) -> None:
    world.put(task(1, "net"))
    world.refresh()
    _, sent = next_assignments(world.tables, "n1", Sent(), world.views.published, is_complete=True, follows_deltas=False)
    world.put(task(2, "net"))
    world.refresh()
    message, _ = next_assignments(
        world.tables, "n1", sent, world.views.published, is_complete=False, touched=[], follows_deltas=False
    )
    assert message is not None
    assert message.view_deltas == ()
    assert [msgspec.msgpack.decode(raw, type=wire.NetworkView) for raw in message.views] == [world.view("net")]


def test_a_node_with_an_address_on_the_ingress_network_gets_its_view_without_tasks(world: World) -> None:
    message, sent = next_assignments(world.tables, "n1", Sent(), world.views.published, is_complete=True)
    assert message is not None
    assert [msgspec.msgpack.decode(raw, type=wire.NetworkView).network_id for raw in message.views] == ["ingress"]
    world.put(task(1, "net"))
    world.refresh()
    message, sent = next_assignments(world.tables, "n1", sent, world.views.published, is_complete=False, touched=["t1"])
    assert (sorted(sent.views), len(message.views) if message else 0) == (["ingress", "net"], 1)
    world.put(msgspec.structs.replace(node(1), attachments=()))
    world.refresh()
    message, sent = next_assignments(world.tables, "n1", sent, world.views.published, is_complete=False, touched=[])
    assert message is not None
    assert message.removed_views == ("ingress",)


NUMBERS = st.integers(1, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("node"), NUMBERS, st.sampled_from(["ready", "down"]), st.sampled_from([0, 1400, 1500]), st.booleans()),
        st.tuples(st.just("no node"), NUMBERS),
        st.tuples(st.just("task"), NUMBERS, st.sampled_from([TaskState.STARTING, TaskState.RUNNING, TaskState.FAILED])),
        st.tuples(st.just("service"), st.booleans(), st.booleans(), st.sampled_from([b"{}", b'{"pyswarm.balance":"source-hash"}'])),
        st.tuples(st.just("no service")),
        st.tuples(st.just("network"), st.booleans()),
        st.tuples(st.just("no network"), st.sampled_from(["net", "ingress"])),
        st.tuples(st.just("refresh")),
    ),
    max_size=25,
)


def take(world: World, step: tuple[Any, ...]) -> None:
    """Do what a step says."""
    match step:
        case ("node", number, state, mtu_bytes, has_key):
            world.put(node(number, state=state, mtu_bytes=mtu_bytes, key=f"k{number}" if has_key else ""))
        case ("no node", number) if f"n{number}" in world.tables.nodes:
            world.delete(Node, f"n{number}")
        case ("task", number, state):
            world.put(task(number, "net", "secret", "ingress", state=state))
        case ("service", has_ports, has_address, labels):
            vips = (VirtualIP(network_id="net", address="10.0.1.2/24"),) if has_address else ()
            ports, spec = MESH if has_ports else (), b'{"Labels":' + labels + b"}"
            world.put(Service(id="svc", name="web", task_spec_id="spec", virtual_ips=vips, ports=ports, spec_json=spec))
        case ("no service",) if "svc" in world.tables.services:
            world.delete(Service, "svc")
        case ("network", has_grown):
            for network in (PLAIN, INGRESS):
                world.put(msgspec.structs.replace(network, further_subnets=("10.9.0.0/24",) if has_grown else ()))
        case ("no network", network_id) if network_id in world.tables.networks:
            world.delete(Network, network_id)


@given(STEPS)
@example([("task", 1, TaskState.RUNNING), ("refresh",), ("no service",)])
def test_whatever_changes_followers_of_the_deltas_hold_what_a_new_leader_computes(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    held = {network_id: published.view for network_id, published in world.views.published.items()}
    for step in [*steps, ("refresh",)]:
        if step != ("refresh",):
            take(world, step)
            continue
        for network_id in world.refresh():
            published, known = world.views.published.get(network_id), held.pop(network_id, None)
            if published is not None and known is not None and known.version == published.delta_from:
                held[network_id] = wire.apply_view_delta(known, msgspec.msgpack.decode(published.delta, type=wire.NetworkViewDelta))
            elif published is not None:
                held[network_id] = msgspec.msgpack.decode(published.whole, type=wire.NetworkView)
        assert held.keys() == {network.id for network in world.tables.networks}
        for network_id, view in held.items():
            network = world.tables.networks.must_get(network_id)
            tasks = world.tables.tasks.of_network(network_id)
            assert view == compute_view(world.tables, network, tasks, view.version)
