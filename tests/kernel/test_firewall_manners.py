"""Beside other firewalls: overlays do not notice them, what blocks our bridge is named with the command that helps, and nothing of
others is ever changed; VXLAN devices of others with our VNI are named."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from overlay_hosts import TAG, Machine, Server, ask, eventually, machines, request, run, view

from pyswarm_common.clock import SystemClock
from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.watch import NetworkWatch
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.published_ports.records import PortRequest

pytestmark = pytest.mark.kernel
BRIDGE = naming.egress_bridge(TAG)

IPTABLES = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; counter; } }"
DOCKER = """table ip filter {
    chain DOCKER-USER { counter return; }
    chain DOCKER-FORWARD { iifname "docker0" accept; oifname "br-*" ct state related,established accept; }
    chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; jump DOCKER-FORWARD; }
}"""
FIREWALLD = """table inet firewalld {
    chain filter_FORWARD { type filter hook forward priority 10; policy accept;
        ct state established,related accept; iifname "lo" accept; reject with icmpx admin-prohibited; }
}"""
UFW = """table ip filter {
    chain ufw-before-forward { ct state related,established accept; }
    chain ufw-reject-forward { reject; }
    chain FORWARD { type filter hook forward priority 0; policy accept; jump ufw-before-forward; jump ufw-reject-forward; }
}"""
OWN = "table inet site { chain f { type filter hook forward priority 5; policy drop; } }"
BLOCKING = {
    "iptables": (IPTABLES, "table ip filter (policy drop)", f"iptables -I FORWARD -i {BRIDGE} -j ACCEPT"),
    "docker": (DOCKER, "table ip filter (policy drop)", f"iptables -I DOCKER-USER -i {BRIDGE} -j ACCEPT"),
    "firewalld": (FIREWALLD, "table inet firewalld", f"firewall-cmd --permanent --zone=trusted --add-interface={BRIDGE}"),
    "ufw": (UFW, "table ip filter", f"ufw route allow in on {BRIDGE}"),
    "site": (OWN, "table inet site (policy drop)", f"nft 'insert rule inet site f iifname {BRIDGE} accept"),
}
ALLOWING = {
    "accepts": "table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; } }",
    "by interface": f"""table inet site {{ chain f {{ type filter hook forward priority 0; policy drop;
        iifname "{BRIDGE}" accept; oifname "{BRIDGE}" accept; }} }}""",
    "by beginning": f"""table inet site {{ chain f {{ type filter hook forward priority 0; policy drop;
        iifname "{TAG}-*" accept; oifname "{TAG}-*" accept; }} }}""",
    "others only": """table inet site { chain f { type filter hook forward priority 0; policy accept;
        iifname "docker0" drop; tcp dport 25 drop; } }""",
    "no forwarding": "table inet site { chain f { type filter hook input priority 0; policy accept; } }",
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, 2) as made:
        yield made


@pytest.fixture
async def drivers(pair: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    """Two hosts with a task each on one network; the first is published on port 8000."""
    started = [machine.driver() for machine in pair]
    places = {"ta": ("10.0.1.5", pair[0]), "tb": ("10.0.1.6", pair[1])}
    for driver, task in zip(started, places, strict=True):
        await driver.start()
        await driver.apply_views({"net-a": view(places, backends=("10.0.1.6",))})
        ports = (PortRequest(container_port=8080, first_host_port=8000, last_host_port=8000),)
        attachments = request(task, places[task][0]).attachments
        await driver.attach(SandboxRequest(id=task, hostname=task, attachments=attachments, ports=ports))
    yield started
    for driver in started:
        await driver.teardown()


def load(machine: Machine, rules: str) -> None:
    """Load rules on a host, as another program does."""
    command = ["ip", "netns", "exec", machine.name, "nft", "-f", "-"]
    subprocess.run(command, input=rules.replace("} }", "}\n}"), check=True, capture_output=True, text=True, timeout=20)


async def warnings_of(driver: NetworkDriver) -> list[str]:
    """Return the warnings that the driver's report has now."""
    found: list[str] = (await driver.auditing.report(()))["Warnings"]
    return found


@pytest.mark.parametrize("name", BLOCKING)
async def test_what_blocks_is_named_with_the_command_that_allows_it(
    pair: list[Machine], drivers: list[NetworkDriver], name: str
) -> None:
    rules, table, command = BLOCKING[name]
    host = pair[0]
    load(host, rules)
    before = run("ip", "netns", "exec", host.name, "nft", "-s", "list", "ruleset")
    (warning,) = await warnings_of(drivers[0])
    assert f"drops what is forwarded out of and into {BRIDGE}" in warning
    assert table in warning
    assert command in warning
    with Server(pair[1].sandbox("tb"), "b"), Server(host.sandbox("ta"), "a"):
        assert ask(host.sandbox("ta"), "10.0.1.2") == ("b", "10.0.1.5")
        with pytest.raises(OSError, match=r"timed out|refused|unreachable|No route"):
            ask(pair[1].netns, host.address, 8000, timeout_s=0.5)
    assert await drivers[0].auditing.audit() == ()
    assert run("ip", "netns", "exec", host.name, "nft", "-s", "list", "ruleset") == before


@pytest.mark.parametrize("name", ["site", "docker"])
async def test_the_command_helps(pair: list[Machine], drivers: list[NetworkDriver], name: str) -> None:
    load(pair[0], BLOCKING[name][0])
    (warning,) = await warnings_of(drivers[0])
    command = warning.partition("allow it: ")[2]
    if name == "docker":  # iptables need not be here: its rules, as it would write them
        at = "insert rule ip filter DOCKER-USER"
        command = f"nft '{at} iifname {BRIDGE} counter accept; {at} oifname {BRIDGE} counter accept'"
    run("ip", "netns", "exec", pair[0].name, "sh", "-c", command)
    assert await warnings_of(drivers[0]) == []
    with Server(pair[0].sandbox("ta"), "a"):
        assert ask(pair[1].netns, pair[0].address, 8000)[0] == "a"


@pytest.mark.parametrize("name", ALLOWING)
async def test_what_lets_pass_is_not_reported(pair: list[Machine], drivers: list[NetworkDriver], name: str) -> None:
    load(pair[0], ALLOWING[name])
    assert await warnings_of(drivers[0]) == []
    with Server(pair[0].sandbox("ta"), "a"):
        assert ask(pair[1].netns, pair[0].address, 8000)[0] == "a"


async def test_a_foreign_device_with_our_vni_is_named_and_our_network_comes_when_it_is_gone(
    pair: list[Machine], drivers: list[NetworkDriver]
) -> None:
    told: list[tuple[str, str, dict[str, str]]] = []
    watch = NetworkWatch(SystemClock(), lambda action, id_, attributes: told.append((action, id_, dict(attributes))))
    drivers[0].auditing.begin(watch)
    place = {"td": ("10.0.1.9", pair[0])}
    vxlan = ["type", "vxlan", "id", "4999", "local", pair[0].address, "dstport", "4789"]
    run("ip", "-n", pair[0].name, "link", "add", "vx9", *vxlan)
    known = drivers[0].views()
    wanted = {**known, "net-d": view(place, network_id="net-d", vni=4999)}
    with pytest.raises(Exception, match="VNI 4999 on UDP port 4789 is already used by device vx9 of this host"):
        await drivers[0].apply_views(wanted)
    for _ in range(3):
        await watch.audit()
    action, network_id, attributes = told[0]
    assert (action, network_id, attributes["repaired"]) == ("drift", "net-d", "false")
    assert "vx9" in attributes["error"]
    assert len(told) == 1
    warnings = await warnings_of(drivers[0])
    assert any("vx9, a VXLAN device of this host, not ours, has VNI 4999" in warning for warning in warnings)
    run("ip", "-n", pair[0].name, "link", "delete", "vx9")
    eventually(lambda: "vx9" not in run("ip", "-n", pair[0].name, "link"))
    await watch.audit()
    assert told[-1][2]["repaired"] == "true"
    assert await warnings_of(drivers[0]) == []
    assert "vxlan0" in run("nsenter", f"--net={pair[0].overlay('net-d')}", "ip", "-brief", "link")
