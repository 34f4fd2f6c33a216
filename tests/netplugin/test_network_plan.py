"""The plan on a kernel in memory: it is empty when nothing is to do, and reaches its goal from wherever it was cut off."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common.errors import Conflict
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.naming import balancer_chain
from pyswarm_netplugin.plan import describe, plan
from pyswarm_netplugin.state import Egress, Link, Overlay, Peer, Sandbox, State, Stray, Tunnel

NETWORKS = ("net-a", "net-b", "net-c")
EGRESS = Egress(address="172.19.0.1/16", mtu_bytes=1500)
PEERS = st.builds(
    Peer,
    host=st.sampled_from(["192.0.2.1", "192.0.2.2"]),
    mac=st.sampled_from(["", "02:11:22:33:44:55"]),
    ipv6_address=st.sampled_from(["", "fd00::1"]),
)
MTUS = st.sampled_from([1450, 1400])
ENDPOINTS = st.sampled_from([f"10.0.1.{n}" for n in range(3, 12)])


def overlay(peers: dict[str, Peer], vni: int = 4097, mtu_bytes: int = 1450) -> Overlay:
    """Return an overlay that is whole."""
    tunnel = Tunnel(vni=vni, port=4789, local_address="192.0.2.9", mtu_bytes=mtu_bytes)
    return Overlay(has_bridge=True, tunnel=tunnel, peers=peers)


def links_on(network_id: str, address: str) -> st.SearchStrategy[Link]:
    """Return links with this address that differ in what can change while they carry traffic, and in what cannot."""
    return st.builds(
        Link,
        network_id=st.just(network_id),
        address=st.just(address),
        mtu_bytes=MTUS,
        mac=st.sampled_from(["", "02:11:22:33:44:55"]),
        ipv6_address=st.sampled_from(["", "fd00::5/64"]),
        routes=st.sampled_from([(), ("10.0.9.0/24",)]),
    )


@st.composite
def goals(draw: st.DrawFn) -> State:
    """Draw a state as a driver could desire it."""
    overlays = {
        network_id: overlay(draw(st.dictionaries(ENDPOINTS, PEERS, max_size=4)), draw(st.sampled_from([4097, 4098])), draw(MTUS))
        for network_id in draw(st.sets(st.sampled_from(NETWORKS)))
    }
    backends_of: dict[str, tuple[str, ...]] = {}
    sandboxes = {}
    for sandbox_id in draw(st.sets(st.sampled_from(["t1", "t2", "t3"]))):
        links = {
            f"eth{number}": draw(links_on(network_id, f"10.0.{number}.{draw(st.integers(3, 5))}/24"))
            for number, network_id in enumerate(sorted(overlays))
            if draw(st.booleans())
        }
        links["eth9"] = Link(address="172.19.0.7/16", gateway="172.19.0.1", mtu_bytes=1500)
        chains = {}
        for virtual_ip in draw(st.sets(st.sampled_from(["10.0.1.2", "10.0.2.2"]))):
            backends = tuple(sorted(draw(st.sets(ENDPOINTS, max_size=3))))
            chains[virtual_ip] = chain = balancer_chain(virtual_ip, backends)
            backends_of[chain] = backends
        sandboxes[sandbox_id] = Sandbox(links=links, chains=chains)
    egress = EGRESS if sandboxes or draw(st.booleans()) else None
    return State(overlays=overlays, sandboxes=sandboxes, egress=egress, backends=backends_of)


def as_observed(goal: State) -> State:
    """Return the goal as a kernel shows it."""
    return msgspec.structs.replace(goal, backends={})


@given(goals())
def test_nothing_is_to_do_when_the_kernel_has_what_is_desired(goal: State) -> None:
    assert plan(goal, as_observed(goal)) == ()


@given(goals(), goals())
def test_a_plan_reaches_its_goal_and_then_is_empty(before: State, goal: State) -> None:
    kernel = FakeKernel(as_observed(before))
    assert carry_out(kernel, plan(goal, kernel.observe())) == {}
    assert kernel.observe() == as_observed(goal)
    assert plan(goal, kernel.observe()) == ()


@given(goals(), goals(), st.integers(0, 40), st.booleans())
def test_a_plan_that_was_cut_off_anywhere_converges(before: State, goal: State, steps: int, is_cut: bool) -> None:
    kernel = FakeKernel(as_observed(before))
    operations = plan(goal, kernel.observe())
    carry_out(kernel, operations[:steps])
    if is_cut and steps < len(operations):
        kernel.execute(operations[steps], is_cut=True)
    assert carry_out(kernel, plan(goal, kernel.observe())) == {}
    assert kernel.observe() == as_observed(goal)


@given(goals(), goals(), goals(), st.integers(0, 40))
def test_a_new_goal_may_come_while_the_last_is_half_reached(before: State, goal: State, other: State, steps: int) -> None:
    kernel = FakeKernel(as_observed(before))
    carry_out(kernel, plan(goal, kernel.observe())[:steps])
    assert carry_out(kernel, plan(other, kernel.observe())) == {}
    assert kernel.observe() == as_observed(other)


def test_sandboxes_that_change_alike_share_one_change() -> None:
    chain = balancer_chain("10.0.1.2", ("10.0.1.3",))
    before: dict[str, str] = {}
    after = {"10.0.1.2": chain}
    observed = State(sandboxes={name: Sandbox(chains=before) for name in ("t1", "t2")})
    desired = State(sandboxes={name: Sandbox(chains=after) for name in ("t1", "t2")}, backends={chain: ("10.0.1.3",)})
    first, second = plan(desired, observed)
    assert isinstance(first, op.ChangeBalancing)
    assert isinstance(second, op.ChangeBalancing)
    assert first.balance is second.balance


def test_strays_go_first_and_every_operation_says_itself() -> None:
    link = Link(network_id="net-a", address="10.0.1.5/24", mtu_bytes=1450)
    chain = balancer_chain("10.0.1.2", ("10.0.1.5",))
    desired = State(
        overlays={"net-a": overlay({"10.0.1.6": Peer(host="192.0.2.1")})},
        sandboxes={"t1": Sandbox(links={"eth0": link}, chains={"10.0.1.2": chain})},
        egress=EGRESS,
        backends={chain: ("10.0.1.5",)},
    )
    observed = State(
        overlays={"net-b": overlay({})}, sandboxes={"t0": Sandbox()}, strays=frozenset({Stray(kind="file", name="s-t9")})
    )
    assert describe(plan(desired, observed)).splitlines() == [
        "remove stray file s-t9",
        "sandbox t0: remove",
        "overlay net-b: remove",
        "overlay net-a: make namespace and bridge",
        "overlay net-a: make VXLAN 4097 from 192.0.2.9 port 4789, MTU 1450",
        "overlay net-a: add 1 peers, remove 0",
        "make the egress bridge with 172.19.0.1/16, MTU 1500, masqueraded",
        "sandbox t1: make namespace",
        "sandbox t1: connect eth0 10.0.1.5/24 to overlay net-a",
        "sandbox t1: load rules; balance 10.0.1.2, drop -",
    ]


def test_a_network_that_fails_takes_only_its_own_sandboxes_with_it() -> None:
    links = {name: {"eth0": Link(network_id=name, address="10.0.1.5/24", mtu_bytes=1450)} for name in ("net-a", "net-b")}
    desired = State(
        overlays={"net-a": overlay({}, vni=4097), "net-b": overlay({}, vni=4098)},
        sandboxes={"ta": Sandbox(links=links["net-a"], chains={}), "tb": Sandbox(links=links["net-b"], chains={})},
    )

    def refuse(operation: op.Operation) -> None:
        if isinstance(operation, op.MakeTunnel) and operation.network_id == "net-a":
            raise Conflict("VNI 4097 is already used")

    kernel = FakeKernel()
    kernel.refuse = refuse
    failures = carry_out(kernel, plan(desired, kernel.observe()))
    assert {scope: error.message for scope, error in failures.items()} == {
        "overlay net-a": "VNI 4097 is already used",
        "sandbox ta": "VNI 4097 is already used",
    }
    assert kernel.sandboxes["tb"] == desired.sandboxes["tb"]


def test_sizes_routes_and_ipv6_change_without_taking_a_link_away() -> None:
    before = Link(network_id="net-a", address="10.0.1.5/24", mtu_bytes=1450)
    after = msgspec.structs.replace(before, mtu_bytes=1400, routes=("10.0.9.0/24",), ipv6_address="fd00::5/64")
    states = [
        State(overlays={"net-a": overlay({}, mtu_bytes=link.mtu_bytes)}, sandboxes={"t1": Sandbox(links={"eth0": link}, chains={})})
        for link in (before, after)
    ]
    assert describe(plan(states[1], states[0])).splitlines() == [
        "overlay net-a: MTU 1400",
        "sandbox t1: adjust eth0 10.0.1.5/24: MTU 1400, fd00::5/64, 10.0.9.0/24",
    ]
    another = msgspec.structs.replace(after, mac="02:11:22:33:44:55")
    last = msgspec.structs.replace(states[1], sandboxes={"t1": Sandbox(links={"eth0": another}, chains={})})
    assert describe(plan(last, states[1])).splitlines() == [
        "sandbox t1: disconnect eth0",
        "sandbox t1: connect eth0 10.0.1.5/24 to overlay net-a",
    ]
