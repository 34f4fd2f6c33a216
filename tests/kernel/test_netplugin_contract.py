"""The kernel in memory and the real one agree: the same operations, the same state."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from overlay_hosts import Machine, eventually, machines, run

from pyswarm_common.errors import PyswarmError
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.naming import balancer_chain
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.state import Egress, Link, Overlay, Peer, Sandbox, State, Tunnel

pytestmark = pytest.mark.kernel

LOADED = ("10.0.1.5", "10.0.1.6")
EGRESS = Egress(address="172.19.0.1/16", mtu_bytes=1500)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    with machines(tmp_path, 1) as (made,):
        yield made


def overlay(vni: int, peers: dict[str, Peer], mtu_bytes: int = 1450) -> Overlay:
    """Return an overlay that is whole."""
    tunnel = Tunnel(vni=vni, port=4789, local_address="192.0.2.1", mtu_bytes=mtu_bytes)
    return Overlay(has_bridge=True, tunnel=tunnel, peers=peers)


def sandbox(*network_ids: str, number: int = 5, backends: tuple[str, ...] = LOADED) -> Sandbox:
    """Return a sandbox on these networks, with the way out and one virtual IP."""
    links = {
        f"eth{index}": Link(network_id=network_id, address=f"10.0.{index + 1}.{number}/24", mtu_bytes=1450)
        for index, network_id in enumerate(network_ids)
    }
    links[f"eth{len(links)}"] = Link(address=f"172.19.0.{number}/16", gateway="172.19.0.1", mtu_bytes=1500)
    return Sandbox(links=links, chains={"10.0.1.2": balancer_chain("10.0.1.2", backends)})


def state(overlays: dict[str, Overlay], sandboxes: dict[str, Sandbox], egress: Egress | None = EGRESS) -> State:
    """Return a desired state."""
    backends = {balancer_chain("10.0.1.2", b): b for b in (LOADED, (), ("10.0.1.9",))}
    backends |= {balancer_chain(vip, b): b for vip, b in (("10.0.6.2", ("10.0.6.9",)), ("fd06::a00:602", ("fd06::a00:609",)))}
    return State(overlays=overlays, sandboxes=sandboxes, egress=egress, backends=backends)


def ipv6_link(number: int, mtu_bytes: int = 1450, routes: tuple[str, ...] = (), mac: str = "") -> Link:
    """Return an interface on the overlay `six`, which has IPv6."""
    return Link(
        network_id="six",
        address=f"10.0.6.{number}/24",
        ipv6_address=f"fd06::a00:60{number}/64",
        mtu_bytes=mtu_bytes,
        routes=routes,
        mac=mac,
    )


def ipv6_way_out(number: int) -> Link:
    """Return the way out, for IPv6 too."""
    return Link(
        address=f"172.19.0.{number}/16",
        gateway="172.19.0.1",
        mtu_bytes=1500,
        ipv6_address=f"fd19::ac13:{number}/64",
        ipv6_gateway="fd19::ac13:1",
    )


IPV4_PEER, IPV6_PEER = Peer(host="192.0.2.8"), Peer(host="192.0.2.8", ipv6_address="fd06::a00:609")
IPV6_CHAINS = {
    vip: balancer_chain(vip, backends) for vip, backends in (("10.0.6.2", ("10.0.6.9",)), ("fd06::a00:602", ("fd06::a00:609",)))
}
IPV6_STORY = [
    state({"six": overlay(4106, {"10.0.6.9": IPV4_PEER})}, {"t1": Sandbox(links={"eth0": ipv6_link(5)}, chains={})}),
    state(
        {"six": overlay(4106, {"10.0.6.9": IPV6_PEER, "10.0.6.8": Peer(host="192.0.2.8", mac="02:11:22:33:44:55")})},
        {
            "t1": Sandbox(links={"eth0": ipv6_link(5, 1400, ("10.0.7.0/24", "10.0.8.0/24"))}, chains=IPV6_CHAINS),
            "t2": Sandbox(links={"eth0": ipv6_link(6, mac="02:66:77:88:99:aa"), "eth1": ipv6_way_out(6)}, chains=IPV6_CHAINS),
        },
        msgspec.structs.replace(EGRESS, ipv6_address="fd19::ac13:1/64"),
    ),
    state(
        {"six": overlay(4106, {"10.0.6.9": Peer(host="192.0.2.7", mac="02:11:22:33:44:55"), "10.0.6.7": IPV4_PEER}, 1390)},
        {
            "t1": Sandbox(links={"eth0": ipv6_link(5, 1390, ("10.0.8.0/24",))}, chains={}),
            "t2": Sandbox(links={"eth0": ipv6_link(6), "eth1": sandbox(number=6).links["eth0"]}, chains=IPV6_CHAINS),
        },
    ),
    state({}, {}, None),
]
STORY = [
    state({}, {}),
    state({"a": overlay(4097, {"10.0.1.9": Peer(host="192.0.2.8")})}, {"t1": sandbox("a")}),
    state(
        {"a": overlay(4097, {"10.0.1.9": Peer(host="192.0.2.9"), "10.0.1.8": Peer(host="192.0.2.8")}), "b": overlay(4098, {})},
        {"t1": sandbox("a", backends=()), "t2": sandbox("a", "b", number=6), "t3": sandbox(number=7)},
    ),
    state({"a": overlay(4099, {"10.0.1.8": Peer(host="192.0.2.8")})}, {"t2": sandbox("a", number=6, backends=("10.0.1.9",))}),
    state({}, {}, None),
]


class RealKernel:
    """The host's kernel, on a thread of its own."""

    def __init__(self, host: Machine) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._kernel = self._executor.submit(host.kernel).result()

    def carry_out(self, operations: Iterable[op.Operation]) -> dict[str, PyswarmError]:
        """Carry the operations out."""
        return self._executor.submit(carry_out, self._kernel, operations).result()

    def observe(self) -> State:
        """Return what stands."""
        return self._executor.submit(self._kernel.observe).result()

    def settled(self) -> State:
        """Return what stands when the kernel has taken down the ports whose namespaces died."""
        eventually(lambda: all(stray.kind == "file" for stray in self.observe().strays))
        return self.observe()

    def close(self) -> None:
        """Let go."""
        self._executor.submit(self._kernel.close).result()
        self._executor.shutdown()


@pytest.fixture
def real(host: Machine) -> Iterator[RealKernel]:
    kernel = RealKernel(host)
    yield kernel
    kernel.close()


@pytest.mark.parametrize("story", [STORY, IPV6_STORY], ids=["ipv4", "ipv6"])
def test_a_story_has_the_same_states_on_both(real: RealKernel, story: list[State]) -> None:
    fake = FakeKernel()
    for goal in story:
        operations = plan(goal, fake.observe())
        assert carry_out(fake, operations) == {}
        assert real.carry_out(operations) == {}
        assert real.settled() == fake.observe() == msgspec.structs.replace(goal, backends={})


def test_every_operation_can_be_repeated(real: RealKernel) -> None:
    before = State()
    for goal in (STORY[1], STORY[4], IPV6_STORY[0], IPV6_STORY[1], IPV6_STORY[3]):
        assert real.carry_out(operation for once in plan(goal, before) for operation in (once, once)) == {}
        assert real.settled() == msgspec.structs.replace(goal, backends={})
        before = goal


def test_the_packed_rules_read_as_they_are_meant(host: Machine, real: RealKernel) -> None:
    """`nft`, which did not write them, is the judge."""
    assert real.carry_out(plan(STORY[2], State())) == {}
    empty, loaded = (run("nsenter", f"--net={host.sandbox(name)}", "nft", "list", "ruleset") for name in ("t1", "t2"))
    egress = run("ip", "netns", "exec", host.name, "nft", "list", "ruleset")
    assert real.carry_out(plan(State(), real.observe())) == {}
    chain = balancer_chain("10.0.1.2", LOADED)
    assert loaded == (
        "table ip pyswarm {\n"
        "\tmap services {\n"
        "\t\ttype ipv4_addr : verdict\n"
        f"\t\telements = {{ 10.0.1.2 : goto {chain} }}\n"
        "\t}\n\n"
        "\tchain output {\n"
        "\t\ttype nat hook output priority -100; policy accept;\n"
        "\t\tip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5353\n"
        "\t\tip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:5353\n"
        "\t\tip daddr vmap @services\n"
        "\t}\n\n"
        f"\tchain {chain} {{\n"
        "\t\tdnat to numgen inc mod 2 map { 0 : 10.0.1.6, 1 : 10.0.1.5 }\n"  # this sandbox begins with the second
        "\t}\n"
        "}\n"
    )
    assert "\t\treject with tcp reset\n\t\tmeta l4proto udp dnat to 127.0.0.11:1\n\t\treject\n" in empty
    assert 'ip saddr 172.19.0.0/16 oifname != "' in egress
    assert "ct state established,related accept" in egress
