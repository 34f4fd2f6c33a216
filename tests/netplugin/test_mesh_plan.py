"""Plans for sandboxes in the routing mesh, on a kernel in memory: they end, whatever was there and wherever they were cut off."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID, MeshBalancer, ReturnRoutes
from pyswarm_netplugin.mesh.views import mesh_chain
from pyswarm_netplugin.plan import describe, plan
from pyswarm_netplugin.state import Egress, Link, Overlay, Sandbox, State, Tunnel

EGRESS = Egress(address="172.19.0.1/16", mtu_bytes=1500)
TUNNEL = Tunnel(vni=4096, port=4789, local_address="192.0.2.9", mtu_bytes=1450)
GATEWAYS = st.dictionaries(
    st.sampled_from(["10.0.0.2", "10.0.0.3", "10.0.0.4"]), st.sampled_from(["02:42:0a:00:00:02", "02:11:22:33:44:55"]), max_size=3
)


def links(ingress: str, number: int, host: int) -> dict[str, Link]:
    """Return the links of a sandbox on an ingress network, and the way out."""
    return {
        "eth0": Link(network_id=ingress, address=f"10.0.0.{host}/24", mtu_bytes=1450),
        "eth1": Link(address=f"172.19.0.{number}/16", gateway="172.19.0.1", mtu_bytes=1500),
    }


@st.composite
def goals(draw: st.DrawFn) -> State:
    """Draw a state with a mesh sandbox, tasks, both, or neither."""
    ingress = draw(st.sampled_from(["net-i", "net-j"]))
    sandboxes = {}
    balancers: dict[str, MeshBalancer] = {}
    if draw(st.booleans()):
        for port in draw(st.sets(st.sampled_from([80, 443, 53]))):
            backends = tuple(sorted(draw(st.sets(st.sampled_from(["10.0.0.5", "10.0.0.6"]), min_size=1))))
            protocol = "udp" if port == 53 else "tcp"
            balancer = MeshBalancer(protocol=protocol, published_port=port, target_port=8080, backends=backends)
            balancers[mesh_chain(balancer)] = balancer
        ports = {balancer.key: chain for chain, balancer in balancers.items()}
        sandboxes[MESH_SANDBOX_ID] = Sandbox(links=links(ingress, 2, draw(st.sampled_from([2, 3]))), mesh_ports=ports)
    for task in draw(st.sets(st.sampled_from(["t1", "t2"]))):
        returns = None
        if draw(st.booleans()):
            address = draw(st.sampled_from(["", "172.19.0.5"]))
            returns = ReturnRoutes(interface="eth0", datagram_address=address, gateways=draw(GATEWAYS))
        sandboxes[task] = Sandbox(links=links(ingress, 5, draw(st.sampled_from([5, 6]))), chains={}, returns=returns)
    overlays = {ingress: Overlay(has_bridge=True, tunnel=TUNNEL)} if sandboxes else {}
    return State(overlays=overlays, sandboxes=sandboxes, egress=EGRESS, mesh_balancers=balancers)


def as_observed(goal: State) -> State:
    """Return the goal as a kernel shows it."""
    return msgspec.structs.replace(goal, mesh_balancers={})


@given(goals())
def test_nothing_is_to_do_when_the_kernel_has_what_is_desired(goal: State) -> None:
    assert plan(goal, as_observed(goal)) == ()


@given(goals(), goals(), st.integers(0, 20), st.booleans())
def test_a_plan_that_was_cut_off_anywhere_converges(before: State, goal: State, steps: int, is_cut: bool) -> None:
    kernel = FakeKernel(as_observed(before))
    operations = plan(goal, kernel.observe())
    carry_out(kernel, operations[:steps])
    if is_cut and steps < len(operations):
        kernel.execute(operations[steps], is_cut=True)
    assert carry_out(kernel, plan(goal, kernel.observe())) == {}
    assert kernel.observe() == as_observed(goal)
    assert plan(goal, kernel.observe()) == ()


def test_every_operation_says_itself() -> None:
    balancer = MeshBalancer(protocol="tcp", published_port=80, target_port=8080, backends=("10.0.0.5",))
    chain = mesh_chain(balancer)
    returns = ReturnRoutes(interface="eth0", gateways={"10.0.0.2": "02:42:0a:00:00:02"})
    plain = Sandbox(links=links("net-i", 5, 5), chains={})
    mesh = Sandbox(links=links("net-i", 2, 2))
    overlays = {"net-i": Overlay(has_bridge=True, tunnel=TUNNEL)}
    before = State(overlays=overlays, egress=EGRESS, sandboxes={"t1": plain, MESH_SANDBOX_ID: mesh})
    after = State(
        overlays=overlays,
        egress=EGRESS,
        sandboxes={
            "t1": msgspec.structs.replace(plain, returns=returns),
            MESH_SANDBOX_ID: msgspec.structs.replace(mesh, mesh_ports={"tcp/80": chain}),
        },
        mesh_balancers={chain: balancer},
    )
    assert describe(plan(after, before)).splitlines() == [
        "sandbox t1: load rules; answer by eth0 to gateways 10.0.0.2, drop -",
        "sandbox ingress-gateway: load rules; publish in the mesh tcp/80, drop -",
    ]
    assert describe(plan(before, after)).splitlines() == ["sandbox t1: remove the ways back to gateways"]
