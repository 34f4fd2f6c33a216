"""What a container does in its own namespace on purpose, or an administrator to our bridge, is theirs: the audit leaves it alone.

Each story is what a container with CAP_NET_ADMIN may do, in steps; after each step there are audits, and the daemon's next life.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from network_drifts import BRIDGE, change
from overlay_hosts import Machine, Server, ask, in_namespace, machines, request, run, view

from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

WHOLE = 12
"""After so many audits the whole state was read, too."""
IPV6_SUBNET = "fd12:3456:789a:1::/64"
TUNNEL = ("ip link add tun9 type bridge", "ip link set tun9 up", "ip address add 10.77.0.2/24 dev tun9")
CONTAINERS = {
    "a VPN leads everything out": [
        (*TUNNEL, "ip route replace default via 10.77.0.1 dev tun9"),
        ("ip route delete default", "ip route add default via 10.77.0.1 dev tun9 metric 50"),
        ("ip route add unreachable default metric 9",),
    ],
    "a VPN leads out by rules, and ends": [
        (*TUNNEL, "ip rule add pref 100 not fwmark 51820 table 51820", "ip route add default dev tun9 table 51820"),
        ("ip rule add pref 99 table main suppress_prefixlength 0", "ip rule add pref 98 fwmark 7 lookup main"),
        ("ip rule delete pref 100", "ip rule delete pref 99", "ip rule delete pref 98", "ip link delete tun9"),
    ],
    "another default route beside ours": [
        ("ip route add default via 10.0.1.6 dev eth0 metric 100",),
        ("ip route add default via 172.19.0.9 dev eth1 metric 200",),
        ("ip route delete default metric 100",),
    ],
    "a virtual address comes and goes": [
        ("ip address add 10.0.1.200/24 dev eth0", "ip address add 10.7.7.7/32 dev eth0", "ip address add 10.8.8.8/32 dev lo"),
        (
            "ip address delete 10.0.1.200/24 dev eth0",
            "ip address delete 10.7.7.7/32 dev eth0",
            "ip address delete 10.8.8.8/32 dev lo",
        ),
    ],
    "routes and neighbours of its own change": [
        ("ip route add 10.8.0.0/16 via 10.0.1.6", "ip neighbour add 10.0.1.99 lladdr 02:00:00:00:00:09 dev eth0"),
        ("ip route replace 10.8.0.0/16 via 10.0.1.7", "ip neighbour replace 10.0.1.99 lladdr 02:00:00:00:00:0a dev eth0"),
        ("ip route delete 10.8.0.0/16", "ip neighbour delete 10.0.1.99 dev eth0"),
    ],
    "the rule of the local table moves": [
        ("ip rule add pref 10 lookup local", "ip rule delete pref 0"),
        ("ip rule add pref 0 lookup local", "ip rule delete pref 10"),
    ],
    "it is a router with tables of its own": [
        (
            "sysctl -qw net.ipv4.ip_forward=1",
            "sysctl -qw net.ipv4.conf.all.rp_filter=2",
            "sysctl -qw net.ipv4.conf.eth0.proxy_arp=1",
        ),
        ("nft add table inet filter", "nft add table ip nat", "nft add chain ip nat POSTROUTING", "ip link set lo mtu 1500"),
        ("nft delete table inet filter", "nft delete table ip nat", "sysctl -qw net.ipv4.ip_forward=0"),
    ],
    "it turns IPv6 off": [("sysctl -qw net.ipv6.conf.all.disable_ipv6=1",)],
}
HOSTS = [
    (f"ip address add 10.66.0.1/24 dev {BRIDGE}", f"ip route add 10.67.0.0/16 dev {BRIDGE}"),
    (
        f"ip neighbour add 172.19.200.1 lladdr 02:00:00:00:00:09 dev {BRIDGE}",
        f"ip route replace 10.67.0.0/16 dev {BRIDGE} src 10.66.0.1",
    ),
    (
        f"ip address delete 10.66.0.1/24 dev {BRIDGE}",
        f"ip route flush 10.67.0.0/16 dev {BRIDGE}",
        f"ip neighbour delete 172.19.200.1 dev {BRIDGE}",
    ),
]


class Node:
    """The host under audit, whose task `ta` is on an IPv6 network with `tb` on another host; and the daemon's next lives."""

    def __init__(self, one: Machine, other: Machine) -> None:
        self.one, self.other = one, other
        self.driver = one.driver()
        self.there = other.driver()

    async def start(self) -> None:
        """Make it all."""
        places = {"ta": ("10.0.1.5", self.one), "tb": ("10.0.1.6", self.other)}
        network = msgspec.structs.replace(view(places, backends=("10.0.1.6",)), ipv6_subnet=IPV6_SUBNET)
        for driver, task in ((self.driver, "ta"), (self.there, "tb")):
            await driver.start()
            await driver.apply_views({"net-a": network})
            await driver.attach(request(task, places[task][0]))
        assert await self.driver.auditing.audit() == ()

    async def restart(self) -> NetworkDriver:
        """Let go, and start as the daemon's next life does."""
        await self.driver.close()
        self.driver = self.one.driver()
        await self.driver.start()
        return self.driver

    def shown(self) -> str:
        """Return all that a container can say of its own network."""
        commands = ("ip link", "ip address", "ip route show table all", "ip -6 route", "ip rule", "ip neighbour show nud permanent")
        script = "; ".join((*commands, "nft list tables", "cat /proc/sys/net/ipv6/conf/*/disable_ipv6"))
        return run("nsenter", f"--net={self.one.sandbox('ta')}", "sh", "-c", script)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    with machines(tmp_path, 2) as (one, other):
        made = Node(one, other)
        await made.start()
        yield made
        await made.driver.teardown()
        await made.there.teardown()


async def settled(node: Node, what: str) -> None:
    """No audit finds anything, however long one waits, nor does the daemon's next life."""
    for _ in range(WHOLE):
        assert await node.driver.auditing.audit() == (), what
    await node.restart()
    assert node.driver.sandboxes() == {"ta"}
    for _ in range(2):
        assert await node.driver.auditing.audit() == (), what


@pytest.mark.parametrize("story", CONTAINERS)
async def test_what_a_container_does_in_its_own_namespace_stays(node: Node, story: str) -> None:
    for step in CONTAINERS[story]:
        for command in step:
            change(node.one.sandbox("ta"), command)
        before = node.shown()
        await settled(node, f"{story}: {step}")
        assert node.shown() == before, f"{story}: {step}"
    with Server(node.other.sandbox("tb"), "b"):
        assert ask(node.one.sandbox("ta"), "10.0.1.2")[0] == "b"


async def test_ours_is_put_right_beside_what_a_container_did(node: Node) -> None:
    sandbox = node.one.sandbox("ta")
    for command in (*TUNNEL, "ip route replace default via 10.77.0.1 dev tun9", "ip address flush dev eth0"):
        change(sandbox, command)
    change(sandbox, "ip address add 10.55.0.1/24 dev eth0")
    link = in_namespace(sandbox, lambda: run("nsenter", f"--net={sandbox}", "ip", "-brief", "link", "show", "eth0"))
    (drift,) = await node.driver.auditing.audit() or ()
    assert drift.is_repaired
    assert "address 10.0.1.5/24 of eth0 is gone" in drift.what
    await settled(node, "after the repair")
    shown = node.shown()
    assert all(word in shown for word in ("10.0.1.5/24", "10.55.0.1/24", "default via 10.77.0.1 dev tun9"))
    assert run("nsenter", f"--net={sandbox}", "ip", "-brief", "link", "show", "eth0") == link, "the link is the same one"


async def test_a_link_that_is_made_anew_leaves_the_containers_way_out(node: Node) -> None:
    for command in (*TUNNEL, "ip route replace default via 10.77.0.1 dev tun9", "ip link delete eth1"):
        change(node.one.sandbox("ta"), command)
    drifts = await node.driver.auditing.audit() or ()
    assert drifts
    assert all(drift.is_repaired for drift in drifts), drifts
    routes = run("nsenter", f"--net={node.one.sandbox('ta')}", "ip", "route")
    assert "default via 10.77.0.1 dev tun9" in routes
    assert "172.19.0.0/16 dev eth1" in routes
    await settled(node, "afterwards")


async def test_a_default_route_that_is_only_gone_comes_back(node: Node) -> None:
    change(node.one.sandbox("ta"), "ip route delete default")
    (drift,) = await node.driver.auditing.audit() or ()
    assert drift.is_repaired
    assert "default via 172.19.0.1 dev eth1" in run("nsenter", f"--net={node.one.sandbox('ta')}", "ip", "route")


async def test_a_container_that_sets_its_loopback_down_keeps_its_network_when_the_daemon_restarts(node: Node) -> None:
    change(node.one.sandbox("ta"), "ip link set lo down")
    await node.restart()
    assert node.driver.sandboxes() == {"ta"}
    with Server(node.other.sandbox("tb"), "b"):
        assert ask(node.one.sandbox("ta"), "10.0.1.6")[0] == "b"


async def test_what_an_administrator_adds_to_the_bridge_and_takes_away_is_theirs(node: Node) -> None:
    for step in HOSTS:
        for command in step:
            change(node.one.netns, command)
        before = run("nsenter", f"--net={node.one.netns}", "sh", "-c", "ip -4 address; ip route; ip neighbour show nud permanent")
        for _ in range(WHOLE):
            assert await node.driver.auditing.audit() == (), step
            await asyncio.sleep(0)
        assert (
            run("nsenter", f"--net={node.one.netns}", "sh", "-c", "ip -4 address; ip route; ip neighbour show nud permanent")
            == before
        )
