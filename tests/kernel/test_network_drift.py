"""Random drift on real namespaces is repaired within one audit, whatever comes together; nothing else is touched.

A plan that was cut off after any step converges on the real kernel too. The way between two containers is checked
with real packets.
"""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from network_drifts import DRIFTS, change, namespace
from overlay_hosts import TAG, Machine, Server, ask, in_namespace, machines, request, run, view

from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.audit.path_check import check_here
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.published_ports.records import PortRequest
from pyswarm_netplugin.state import State

pytestmark = pytest.mark.kernel
EVERY_DRIFT = [(where, command) for where, commands in DRIFTS.items() for command in commands]


class Network:
    """Two hosts with drivers: tasks ta (published on 8000) and tc on the first, tb on the second, all on one network."""

    def __init__(self, pair: list[Machine], runner: asyncio.Runner) -> None:
        self.one, self.other = pair
        self.runner = runner
        self.places = {"ta": ("10.0.1.5", pair[0]), "tc": ("10.0.1.7", pair[0]), "tb": ("10.0.1.6", pair[1])}
        self.drivers = [machine.driver() for machine in pair]

    async def start(self) -> None:
        """Make it all."""
        for driver, tasks in zip(self.drivers, (("ta", "tc"), ("tb",)), strict=True):
            await driver.start()
            await driver.apply_views({"net-a": view(self.places, backends=("10.0.1.6",))})
            for task in tasks:
                ports = (PortRequest(container_port=8080, first_host_port=8000, last_host_port=8000),) if task == "ta" else ()
                attachments = request(task, self.places[task][0]).attachments
                await driver.attach(SandboxRequest(id=task, hostname=task, attachments=attachments, ports=ports))
            assert await driver.auditing.audit() == ()

    async def end(self) -> None:
        """Leave nothing."""
        for driver in self.drivers:
            await driver.teardown()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with machines(tmp_path_factory.mktemp("drift"), 2) as pair, asyncio.Runner() as runner:
        made = Network(pair, runner)
        runner.run(made.start())
        yield made
        runner.run(made.end())


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drifts=st.lists(st.sampled_from(EVERY_DRIFT), min_size=2, max_size=5))
def test_random_drift_is_repaired_within_one_audit_and_nothing_else_is_touched(
    network: Network, drifts: list[tuple[str, str]]
) -> None:
    one, other, driver = network.one, network.other, network.drivers[0]
    change(one.netns, "nft add table inet site", may_fail=True)
    with Server(one.sandbox("ta"), "a"), Server(other.sandbox("tb"), "b"):
        with in_namespace(one.sandbox("tc"), lambda: socket.create_connection(("10.0.1.2", 8080), 5)) as connection:
            for where, command in drifts:
                change(namespace(one, where), command, may_fail=True)
            change(one.netns, "nft add table inet site", may_fail=True)  # unless a drift has removed it
            found = network.runner.run(driver.auditing.audit()) or ()
            assert all(drift.is_repaired for drift in found), found
            assert network.runner.run(driver.auditing.audit()) == ()
            connection.sendall(b"5" + b" " * 15 + b"hello")
            assert connection.recv(100) == b"b 10.0.1.7"
        assert ask(one.sandbox("ta"), "10.0.1.2") == ("b", "10.0.1.5")
        assert ask(other.sandbox("tb"), "10.0.1.5")[0] == "a"
        assert ask(other.netns, one.address, 8000)[0] == "a"
    assert "table inet site" in run("nsenter", f"--net={one.netns}", "nft", "list", "tables")


def test_the_way_between_two_containers_is_checked_with_real_packets(network: Network) -> None:
    steps = network.runner.run(check_here(network.drivers[0].auditing, "ta", "net-a", "10.0.1.6"))
    assert [step.is_ok for step in steps] == [True] * 5, steps
    assert "10.0.1.6 is on 192.0.2.2" in steps[1].detail
    assert "1450 bytes" in steps[-1].what
    back = network.runner.run(check_here(network.drivers[1].auditing, "tb", "net-a", "10.0.1.5"))
    assert all(step.is_ok for step in back), back


@pytest.mark.parametrize(
    ("where", "command", "what", "detail"),
    [
        ("overlay", "ip neighbour delete 10.0.1.6 dev vxlan0", "links, tunnel", "add 1 peers"),
        ("overlay", "ip link set vxlan0 down", "a packet of 84 bytes", "no answer"),
        ("host", "ip link set eth0 mtu 1400", "a packet of 1450 bytes", "do not pass unfragmented"),
    ],
)
def test_the_step_that_is_broken_is_named(network: Network, where: str, command: str, what: str, detail: str) -> None:
    change(namespace(network.one, where), command)
    steps = network.runner.run(check_here(network.drivers[0].auditing, "ta", "net-a", "10.0.1.6"))
    failed = [step for step in steps if not step.is_ok]
    change(network.one.netns, "ip link set eth0 mtu 1500")
    assert any(step.what.startswith(what) and detail in step.detail for step in failed), steps
    network.runner.run(network.drivers[0].auditing.audit())
    repaired = network.runner.run(check_here(network.drivers[0].auditing, "ta", "net-a", "10.0.1.6"))
    assert all(step.is_ok for step in repaired), repaired


def test_an_unknown_address_and_a_foreign_network_are_named(network: Network) -> None:
    steps = network.runner.run(check_here(network.drivers[0].auditing, "ta", "net-a", "10.0.1.99"))
    assert [step.is_ok for step in steps[:3]] == [True, False, True]
    assert "without 10.0.1.99" in steps[1].detail
    (only,) = network.runner.run(check_here(network.drivers[0].auditing, "ta", "net-z", "10.0.1.6"))
    assert not only.is_ok


def test_the_report_says_what_stands_and_what_differs(network: Network) -> None:
    driver = network.drivers[0]
    report = network.runner.run(driver.auditing.report(()))
    assert report["Plan"] == []
    (shown,) = report["Networks"]
    assert (shown["Name"], shown["VNI"], shown["MTU"], shown["IsSound"]) == ("a", 4097, 1450, True)
    assert shown["Peers"] == {"10.0.1.6": "192.0.2.2"}
    assert report["Sandboxes"][0]["VirtualIPs"] == {"10.0.1.2": ["10.0.1.6"]}
    assert report["Ports"][0]["IsReserved"]
    change(network.one.sandbox("ta"), "ip link delete eth0")
    broken = network.runner.run(driver.auditing.report(()))
    assert broken["Plan"] == ["sandbox ta: connect eth0 10.0.1.5/24 to overlay net-a"]
    assert not broken["Sandboxes"][0]["IsSound"]
    assert network.runner.run(driver.auditing.audit())


def test_a_plan_cut_off_after_any_step_converges_on_the_real_kernel(tmp_path: Path) -> None:
    """The daemon dies after each step in turn; the next one goes on from what it finds, and repeating its plan changes nothing."""
    with machines(tmp_path, 1) as (host,), ThreadPoolExecutor(1) as executor:
        kernel = executor.submit(host.kernel).result()
        try:
            desired = asyncio.run(_desired_of(host, tmp_path / "fake"))
            count = len(plan(desired, State()))
            assert count > 5
            for steps in range(count + 1):
                assert executor.submit(carry_out, kernel, plan(desired, State())[:steps]).result() == {}
                rest = plan(desired, executor.submit(kernel.observe).result())
                assert executor.submit(carry_out, kernel, rest).result() == {}
                assert plan(desired, executor.submit(kernel.observe).result()) == ()
                while standing := plan(State(), executor.submit(kernel.observe).result()):
                    assert executor.submit(carry_out, kernel, standing).result() == {}
        finally:
            executor.submit(kernel.close).result()


async def _desired_of(host: Machine, folder: Path) -> State:
    """What a driver on a kernel in memory desires for one network with a task here and one elsewhere."""
    driver = NetworkDriver(
        instance_tag=TAG,
        data_dir=folder / "data",
        runtime_dir=folder / "run",
        data_path_address=host.address,
        dns=FakeDNS(),
        make_kernel=FakeKernel,
    )
    await driver.start()
    there = Machine("there", "192.0.2.9", folder)
    await driver.apply_views({"net-a": view({"t1": ("10.0.1.5", host), "t2": ("10.0.1.6", there)}, backends=("10.0.1.6",))})
    await driver.attach(request("t1", "10.0.1.5"))
    desired = driver.auditing.desired()
    await driver.close()
    return desired
