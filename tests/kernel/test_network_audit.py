"""The audit on real namespaces: whatever is changed or removed is noticed, named and repaired, and nothing else is touched."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from network_drifts import BRIDGE, DRIFTS, PORT_A, change, namespace
from overlay_hosts import TAG, Machine, Server, ask, eventually, in_namespace, machines, request, run, view

from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.drift import Drift
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.published_ports.records import PortRequest

pytestmark = pytest.mark.kernel

CASES = [
    pytest.param(where, command, words, id=f"{where}: {command.replace(TAG, 'TAG')}")  # alike in every process that collects
    for where in DRIFTS
    for command, words in DRIFTS[where].items()
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    with machines(tmp_path_factory.mktemp("audit"), 2) as made:
        yield made


@pytest.fixture
async def drivers(pair: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    """Two hosts with a task each on one network; the first is published on port 8000, and was audited."""
    started = [machine.driver() for machine in pair]
    places = {"ta": ("10.0.1.5", pair[0]), "tb": ("10.0.1.6", pair[1])}
    for driver, task in zip(started, places, strict=True):
        await driver.start()
        await driver.apply_views({"net-a": view(places, backends=("10.0.1.6",))})
        ports = (PortRequest(container_port=8080, first_host_port=8000, last_host_port=8000),)
        asked = request(task, places[task][0])
        await driver.attach(SandboxRequest(id=task, hostname=task, attachments=asked.attachments, ports=ports))
    assert await started[0].auditing.audit() == ()
    yield started
    for driver in started:
        await driver.teardown()


@pytest.mark.parametrize(("where", "command", "words"), CASES)
async def test_what_was_changed_is_named_and_repaired(
    pair: list[Machine], drivers: list[NetworkDriver], where: str, command: str, words: str
) -> None:
    driver, (one, other) = drivers[0], pair
    with Server(one.sandbox("ta"), "a"), Server(other.sandbox("tb"), "b"):
        change(namespace(one, where), command)
        drifts = await driver.auditing.audit()
        assert drifts
        assert any(words in what for drift in drifts for what in drift.what), drifts
        assert all(drift.is_repaired for drift in drifts), drifts
        assert await driver.auditing.audit() == ()
        assert ask(one.sandbox("ta"), "10.0.1.2") == ("b", "10.0.1.5")
        assert ask(other.sandbox("tb"), "10.0.1.5")[0] == "a"
        assert ask(one.netns, "127.0.0.1", 8000)[0] == "a"
        assert ask(other.netns, one.address, 8000)[0] == "a"


@pytest.mark.parametrize("device", ["vxlan0", "br0", PORT_A])
async def test_what_is_set_down_right_after_a_change_of_ours_is_not_taken_for_it(
    pair: list[Machine], drivers: list[NetworkDriver], device: str
) -> None:
    one, other = pair
    places = {"ta": ("10.0.1.5", one), "tb": ("10.0.1.6", other), "tc": ("10.0.1.7", other)}
    resized = msgspec.structs.replace(view(places, backends=("10.0.1.6",), version=2), mtu_bytes=1400)
    await drivers[0].apply_views({"net-a": resized})
    change(one.overlay("net-a"), f"ip link set {device} down")
    assert await drivers[0].auditing.audit() != ()
    assert await drivers[0].auditing.audit() == ()
    with Server(other.sandbox("tb"), "b"):
        assert ask(one.sandbox("ta"), "10.0.1.2") == ("b", "10.0.1.5")


async def test_a_quiet_audit_changes_nothing_and_reads_no_state(pair: list[Machine], drivers: list[NetworkDriver]) -> None:
    before = run("nsenter", f"--net={pair[0].sandbox('ta')}", "ip", "-details", "link")
    for _ in range(15):
        assert await drivers[0].auditing.audit() == ()
    assert run("nsenter", f"--net={pair[0].sandbox('ta')}", "ip", "-details", "link") == before


async def test_changes_of_the_driver_itself_are_no_drift(pair: list[Machine], drivers: list[NetworkDriver]) -> None:
    driver, one = drivers[0], pair[0]
    places = {"ta": ("10.0.1.5", one), "tb": ("10.0.1.6", pair[1])}
    for number in range(3, 6):
        many = {**places, **{f"t{n}": (f"10.0.1.{n}0", pair[n % 2]) for n in range(3, 3 + number)}}
        await driver.apply_views({"net-a": view(many, backends=("10.0.1.6", f"10.0.1.{number}0"), version=number)})
        await driver.attach(request(f"new{number}", f"10.0.1.{number}1"))
        assert await driver.auditing.audit() == ()
        await driver.detach(f"new{number}")
        assert await driver.auditing.audit() == ()
        eventually(lambda number=number: f"{naming.overlay_port(f'new{number}', 'net-a')}" not in links_of(one))
        assert await driver.auditing.audit() == ()


def links_of(machine: Machine) -> str:
    """Return the links of the overlay."""
    return run("nsenter", f"--net={machine.overlay('net-a')}", "ip", "-brief", "link")


async def test_a_connection_outlives_the_repair_of_what_it_goes_through(pair: list[Machine], drivers: list[NetworkDriver]) -> None:
    one, other = pair
    with Server(other.sandbox("tb"), "b"), in_namespace(one.sandbox("ta"), lambda: connected("10.0.1.2")) as connection:
        for where, command in (
            ("overlay", "ip link delete vxlan0"),
            ("overlay", f"ip link set {PORT_A} down"),
            ("sandbox", "nft flush ruleset"),
            ("overlay", "nft add table ip evil"),
        ):
            change(namespace(one, where), command)
            assert await drivers[0].auditing.audit()
        connection.sendall(b"5" + b" " * 15 + b"hello")
        assert connection.recv(100) == b"b 10.0.1.5"


def connected(address: str) -> socket.socket:
    """Connect to port 8080."""
    return socket.create_connection((address, 8080), 5)


async def test_what_a_container_adds_in_its_own_namespace_stays(pair: list[Machine], drivers: list[NetworkDriver]) -> None:
    sandbox = pair[0].sandbox("ta")
    for command in ("ip link add tun9 type bridge", "ip address add 10.7.7.7/32 dev eth0", "nft add table inet own"):
        change(sandbox, command)
    change(sandbox, "ip route add 10.8.0.0/16 via 10.0.1.6")
    assert await drivers[0].auditing.audit() == ()
    shown = run("nsenter", f"--net={sandbox}", "sh", "-c", "ip link; ip address; ip route; nft list tables")
    assert all(word in shown for word in ("tun9", "10.7.7.7", "10.8.0.0/16", "inet own"))


async def test_the_hosts_own_tables_addresses_and_routes_are_left_alone(pair: list[Machine], drivers: list[NetworkDriver]) -> None:
    host = pair[0].netns
    change(host, "nft add table inet firewalld")
    change(host, f"ip address add 10.66.0.1/24 dev {BRIDGE}")
    change(host, f"ip route add 10.67.0.0/16 dev {BRIDGE}")
    assert await drivers[0].auditing.audit() == ()
    shown = run("nsenter", f"--net={host}", "sh", "-c", "ip address; ip route; nft list tables; nft delete table inet firewalld")
    assert all(word in shown for word in ("10.66.0.1", "10.67.0.0/16", "inet firewalld"))


async def test_rules_that_were_changed_right_after_our_own_change_are_seen(
    pair: list[Machine], drivers: list[NetworkDriver]
) -> None:
    places = {"ta": ("10.0.1.5", pair[0]), "tb": ("10.0.1.6", pair[1])}
    await drivers[0].apply_views({"net-a": view(places, backends=("10.0.1.5", "10.0.1.6"), version=2)})
    change(pair[0].sandbox("ta"), "nft insert rule ip pyswarm output drop")
    (drift,) = await drivers[0].auditing.audit() or ()
    assert isinstance(drift, Drift)
    assert drift.is_repaired
    assert "drop" not in run("nsenter", f"--net={pair[0].sandbox('ta')}", "nft", "list", "table", "ip", "pyswarm")


async def test_a_namespace_that_vanished_is_made_anew(pair: list[Machine], drivers: list[NetworkDriver]) -> None:
    run("umount", pair[0].overlay("net-a"))
    assert await drivers[0].auditing.audit()
    for _ in range(50):  # the kernel takes the old device down in its own time; until then its VNI is taken
        if not await drivers[0].auditing.audit():
            break
        await asyncio.sleep(0.02)
    assert await drivers[0].auditing.audit() == ()
    with Server(pair[1].sandbox("tb"), "b"):
        assert ask(pair[0].sandbox("ta"), "10.0.1.2") == ("b", "10.0.1.5")
