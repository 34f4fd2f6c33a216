"""The routing mesh on the real kernel: read back as it was made, from wherever it was cut off, and as `nft` and `ip` show it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from mesh_hosts import TASK_PORT, gateway_of, ingress
from overlay_hosts import Machine, eventually, machines, run
from test_netplugin_contract import RealKernel

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import MeshPort, NetworkView
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.desired import DesiredBuilder, SandboxRecord, Underlay
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.state import Egress, State

pytestmark = pytest.mark.kernel

TASK = "10.0.0.5"
PORTS = (
    MeshPort(published_port=80, target_port=TASK_PORT),
    MeshPort(protocol="udp", published_port=53, target_port=5353),
    MeshPort(protocol="sctp", published_port=90, target_port=TASK_PORT),
)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, 3) as made:
        yield made


@pytest.fixture
def real(hosts: list[Machine]) -> Iterator[RealKernel]:
    kernel = RealKernel(hosts[0])
    yield kernel
    kernel.close()


def goal_of(view: NetworkView, hosts: list[Machine], subnet: str = "10.0.0", *, tasks: int = 1, egress_number: int = 5) -> State:
    """Return what the first host desires of the view: its mesh sandbox and tasks."""
    builder = DesiredBuilder(
        Underlay(address=hosts[0].address, port=4789, mtu_bytes=1500), Egress(address="172.19.0.1/16", mtu_bytes=1500)
    )
    own = NetworkAttachment(network_id=view.network_id, address=view.gateways[hosts[0].name].address)
    records = [SandboxRecord(id=MESH_SANDBOX_ID, hostname="", attachments=(own,), egress_address="172.19.0.2/16")]
    for number in range(tasks):
        attachment = NetworkAttachment(network_id=view.network_id, address=f"{subnet}.{5 + number}/24")
        address = f"172.19.0.{egress_number + number}/16"
        records.append(SandboxRecord(id=f"t{number}", hostname="", attachments=(attachment,), egress_address=address))
    return builder.build({view.network_id: view}, records)


def as_observed(goal: State) -> State:
    """Return the goal as a kernel shows it."""
    return msgspec.structs.replace(goal, backends={}, mesh_balancers={}, forwards=())


def story(hosts: list[Machine]) -> list[State]:
    """Return states that follow each other: more tasks and nodes, fewer, another subnet, nothing."""
    tasks = {"t0": (TASK, hosts[0]), "far": ("10.0.0.9", hosts[1])}
    return [
        goal_of(ingress(hosts[:2], tasks, [TASK], ports=PORTS), hosts),
        goal_of(ingress(hosts, tasks, ports=PORTS), hosts, tasks=2),
        goal_of(ingress(hosts, tasks, ports=PORTS[:1], balancing="source-hash"), hosts, egress_number=8),
        goal_of(ingress(hosts[:1], tasks, [], ports=PORTS), hosts),
        goal_of(ingress(hosts, tasks, ["10.7.0.5"], ports=PORTS, subnet="10.7.0", network_id="net-new"), hosts, "10.7.0"),
        State(),
    ]


def test_a_story_has_the_same_states_on_both_kernels(real: RealKernel, hosts: list[Machine]) -> None:
    fake = FakeKernel()
    for goal in story(hosts):
        operations = plan(goal, fake.observe())
        assert carry_out(fake, operations) == {}
        assert real.carry_out(repeated(operations)) == {}
        assert real.settled() == fake.observe() == as_observed(goal)
        assert plan(goal, real.observe()) == ()


def repeated(operations: Iterable[op.Operation]) -> Iterator[op.Operation]:
    """Return each operation twice, but those made of transactions, which are carried out wholly or not at all."""
    for operation in operations:
        yield operation
        if not isinstance(operation, op.ChangeMeshPorts | op.ChangeBalancing):
            yield operation


def test_a_plan_that_was_cut_off_after_any_operation_converges(real: RealKernel, hosts: list[Machine]) -> None:
    first, second, *_, other, nothing = story(hosts)
    for before, goal in ((nothing, first), (first, second), (second, other), (other, nothing)):
        for steps in range(len(plan(goal, as_observed(before)))):
            reach(real, before)
            real.carry_out(plan(goal, real.settled())[:steps])
            reach(real, goal)


def reach(real: RealKernel, goal: State) -> None:
    """Go on from what stands."""
    assert real.carry_out(plan(goal, real.settled())) == {}
    eventually(lambda: real.settled() == as_observed(goal))


def test_what_was_tampered_with_is_made_anew(real: RealKernel, hosts: list[Machine]) -> None:
    goal = story(hosts)[1]
    reach(real, goal)
    mesh, task = hosts[0].sandbox(MESH_SANDBOX_ID), hosts[0].sandbox("t0")
    mark = int.from_bytes(bytes([10, 0, 0, 102]), "big")
    for netns, command in (
        (task, f"ip rule del fwmark {mark}"),
        (task, "ip rule del fwmark 0/0xffffffff"),
        (task, f"ip route flush table {mark}"),
        (task, "ip rule add fwmark 77 table 77 pref 1000"),
        (task, "nft delete element pyswarm_returns gateways { 02:42:0a:00:00:66 }"),
        (task, "nft delete table pyswarm_returns"),
        (task, "sysctl -qw net.ipv4.conf.eth0.rp_filter=1"),
        (mesh, "nft delete table pyswarm_mesh"),
        (mesh, "sysctl -qw net.ipv4.ip_forward=0"),
        (mesh, "nft delete element pyswarm_mesh ports { udp . 53 }"),
    ):
        run("nsenter", f"--net={netns}", *command.split())
        assert plan(goal, real.observe()) != (), command
        reach(real, goal)
    reach(real, State())


def test_the_packed_rules_read_as_they_are_meant(real: RealKernel, hosts: list[Machine]) -> None:
    goal = story(hosts)[1]
    reach(real, goal)
    mesh, task = (run("nsenter", f"--net={hosts[0].sandbox(name)}", "nft", "list", "ruleset") for name in (MESH_SANDBOX_ID, "t0"))
    rules = run("nsenter", f"--net={hosts[0].sandbox('t0')}", "ip", "rule")
    routes = run("nsenter", f"--net={hosts[0].sandbox('t0')}", "ip", "route", "show", "table", "all")
    reach(real, State())
    assert 'iifname "eth1" meta l4proto . th dport vmap @ports' in mesh
    assert "\t\ttcp flags syn / syn,rst tcp option maxseg size set rt mtu\n\t\tct status dnat accept\n" in mesh
    assert "ct status dnat accept\n\t\tct state established,related accept\n\t\tdrop\n" in mesh
    for protocol in ("tcp", "sctp"):
        assert f"meta l4proto {protocol} dnat to numgen inc mod 2 map {{ 0 : 10.0.0.9, 1 : 10.0.0.5 }}:8080" in mesh
    assert "udp . 53 : goto udp_53_" in mesh
    assert '\t\tiifname "eth0" ct mark set @ll,48,48 map @gateways\n' in task.replace("ether saddr", "@ll,48,48")
    assert '\t\tiifname "eth0" ct original zone set @ll,48,48 map @zones\n' in task.replace("ether saddr", "@ll,48,48")
    for protocol in ("udp", "sctp"):
        assert f'\t\tiifname "eth0" meta l4proto {protocol} ct mark != 0x00000000 dnat to 172.19.0.5\n' in task
    assert "\t\tct direction reply ct mark != 0x00000000 meta mark set ct mark\n" in task
    assert "02:42:0a:00:00:66 : 0x0a000066" in task
    assert "02:42:0a:00:00:66 : 0x00000066" in task
    assert "999:\tfrom all fwmark 0 lookup main\n" in rules
    for number in (1, 2, 3):
        table = int.from_bytes(bytes([10, 0, 0, 100 + number]), "big")
        assert f"1000:\tfrom all fwmark {table:#x} lookup {table}\n" in rules
        assert f"default via {gateway_of(number)} dev eth0 table {table} onlink" in routes
