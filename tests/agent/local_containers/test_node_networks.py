"""Networks of one node: what a request may ask, which subnets and addresses are chosen, what a container's sandbox gets."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm_agent.local_containers.joining import host_bridges, network_view, sandbox_request
from pyswarm_agent.local_containers.records import Joined, LocalContainer
from pyswarm_agent.node_networks.records import NodeNetwork
from pyswarm_agent.node_networks.specification import build, give_address, is_local, parse, take_address, warning_about
from pyswarm_agent.node_networks.store import NodeNetworks
from pyswarm_common.errors import AlreadyExists, FailedPrecondition, PyswarmError
from pyswarm_netplugin.desired import SandboxRecord
from pyswarm_netplugin.dns.protocol import SandboxConfig
from pyswarm_netplugin.dns_when_needed import DNSWhenNeeded
from pyswarm_netplugin.placement import WAY_OUT, interface_names
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort

ID = "a" * 64


def made(number: int = 1, **changes: Any) -> NodeNetwork:
    """Return a network of this node."""
    id_ = f"{number:064x}"
    fields = {
        "id": id_,
        "name": f"net{number}",
        "subnet": f"10.9.{number}.0/24",
        "gateway": f"10.9.{number}.1",
        "interface": f"br{number}",
    }
    return NodeNetwork(**{**fields, **changes})


def built(body: dict[str, Any], others: Sequence[NodeNetwork] = (), taken: Sequence[str] = ("172.17.0.0/16",)) -> NodeNetwork:
    """Return what becomes of a request."""
    return build(parse({"Name": "app", **body}), others, taken, id_=ID, now_ns=1)


def test_what_is_chosen() -> None:
    network = built({})
    assert (network.subnet, network.gateway, network.interface) == ("172.18.0.0/16", "172.18.0.1", f"br-{ID[:12]}")
    assert built({}, [made(subnet="172.18.0.0/16")], ["172.17.0.0/16", "172.19.3.0/24"]).subnet == "172.20.0.0/16"
    assert built({}, taken=["172.16.0.0/12"]).subnet == "192.168.0.0/20"
    with pytest.raises(FailedPrecondition, match="non-overlapping"):
        built({}, taken=["172.16.0.0/12", "192.168.0.0/16"])


def test_what_is_asked() -> None:
    pool = {"Subnet": "10.5.0.0/16", "IPRange": "10.5.3.0/24", "Gateway": "10.5.0.9", "AuxiliaryAddresses": {"router": "10.5.3.1"}}
    options = {"com.docker.network.driver.mtu": "1400", "com.docker.network.bridge.name": "lan0"}
    network = built({"IPAM": {"Config": [pool]}, "Options": options, "Internal": True, "Labels": {"a": "b"}})
    assert (network.gateway, network.mtu_bytes, network.interface, network.is_internal) == ("10.5.0.9", 1400, "lan0", True)
    assert give_address(network, []) == "10.5.3.0/16"
    assert give_address(network, ["10.5.3.0/16"]) == "10.5.3.2/16"
    assert take_address(network, "10.5.9.9", []) == "10.5.9.9/16"
    assert "com.x" in warning_about(parse({"Name": "app", "Options": {"com.x": "y"}}))
    assert warning_about(parse({"Name": "app", "Options": options})) == ""


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"Name": "bridge"}, 403, "operation is not permitted on predefined bridge network"),
        ({"Name": "a b"}, 400, "invalid network name"),
        ({"Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
        ({"Driver": "macvlan"}, 501, "driver macvlan are not offered"),
        ({"EnableIPv6": True}, 501, "IPv6 on bridge networks"),
        ({"IPAM": {"Config": [{"Subnet": "fd00::/64"}]}}, 501, "IPv6 subnets"),
        ({"IPAM": {"Driver": "mine"}}, 404, 'plugin "mine" not found'),
        ({"IPAM": {"Config": [{"Subnet": "10.9.1.128/25"}]}}, 403, "Pool overlaps with other one on this address space"),
        ({"IPAM": {"Config": [{"Subnet": "10.5.0.1/24"}]}}, 400, "it should be 10.5.0.0/24"),
        ({"IPAM": {"Config": [{"Subnet": "10.5.0.0/31"}]}}, 400, "too small"),
        ({"IPAM": {"Config": [{"Subnet": "nonsense"}]}}, 400, "invalid subnet nonsense"),
        ({"IPAM": {"Config": [{"Gateway": "10.5.0.1"}]}}, 400, "need a --subnet"),
        ({"IPAM": {"Config": [{"Subnet": "10.5.0.0/24", "Gateway": "10.6.0.1"}]}}, 400, "no matching subnet for gateway"),
        ({"IPAM": {"Config": [{"Subnet": "10.5.0.0/24", "IPRange": "10.6.0.0/25"}]}}, 400, "is not in the subnet"),
        ({"IPAM": {"Config": [{"Subnet": "10.5.0.0/24"}, {"Subnet": "10.6.0.0/24"}]}}, 400, "one IPv4 subnet"),
        ({"Options": {"com.docker.network.driver.mtu": "big"}}, 400, "is no MTU"),
        ({"Options": {"com.docker.network.bridge.name": "far-too-long-name"}}, 400, "interface name"),
        ({"Options": {"com.docker.network.bridge.enable_icc": "false"}}, 501, "do not reach each other"),
        ({"ConfigFrom": {"Network": "x"}}, 501, "configuration"),
    ],
)
def test_what_is_refused(body: dict[str, Any], status: int, text: str) -> None:
    with pytest.raises(PyswarmError, match=text) as refused:
        built(body, [made()])
    assert refused.value.status_code == status


def test_whose_a_network_will_be() -> None:
    assert is_local({"Name": "a"})
    assert is_local({"Name": "a", "driver": "macvlan"})
    assert is_local({"Name": "a", "Driver": ""})
    assert not is_local({"Name": "a", "Driver": "overlay"})
    assert not is_local({"Name": "a", "Driver": "bridge", "Scope": "swarm"})


@settings(deadline=None)
@given(st.integers(28, 30), st.data())
def test_no_address_is_given_twice(prefix: int, data: st.DataObject) -> None:
    network = made(subnet=f"10.9.1.0/{prefix}", reserved={"router": "10.9.1.2"})
    used: list[str] = []
    for _ in range(data.draw(st.integers(0, 2 ** (32 - prefix)))):
        if used and data.draw(st.booleans()):
            used.remove(data.draw(st.sampled_from(used)))
        try:
            address = give_address(network, used)
        except FailedPrecondition:
            assert len(used) == 2 ** (32 - prefix) - 4
            continue
        assert address not in used
        assert address.partition("/")[0] not in ("10.9.1.0", "10.9.1.1", "10.9.1.2", f"10.9.1.{2 ** (32 - prefix) - 1}")
        used.append(address)


@given(
    st.lists(st.sampled_from(["a", "b", "c", ""]), unique=True),
    st.dictionaries(st.sampled_from(["a", "b", "c", ""]), st.integers(0, 5)),
)
def test_interfaces_keep_their_names(networks: list[str], numbers: dict[str, int]) -> None:
    given_names = {network: f"eth{n}" for network, n in numbers.items() if list(numbers.values()).count(n) == 1}
    names = interface_names(networks, given_names)
    assert len(set(names)) == len(networks)
    assert all(given_names.get(network, name) == name for network, name in zip(networks, names, strict=True))


def test_which_network_leads_out() -> None:
    container = LocalContainer(id=ID, name="tool", port_requests=(PortRequest(container_port=80),))
    alpha, beta, inner = made(1, name="alpha"), made(2, name="beta"), made(3, name="aaa", is_internal=True)
    joins = {
        network.name: Joined(network=network.name, network_id=network.id, network_name=network.name)
        for network in (alpha, beta, inner)
    }
    bridge = (Joined(network="bridge"), None)

    def placement(*chosen: Any) -> tuple[str, bool, int]:
        request = sandbox_request(container, "tool", list(chosen), {}, None)
        return request.placement.default_network, request.is_closed, len(request.ports)

    assert placement((joins["beta"], beta), (joins["alpha"], alpha), (joins["aaa"], inner)) == (alpha.id, True, 1)
    first = msgspec.structs.replace(joins["beta"], priority=1)
    assert placement((first, beta), (joins["alpha"], alpha)) == (beta.id, True, 1)
    assert placement(bridge, (joins["alpha"], alpha)) == (alpha.id, False, 1)
    assert placement(bridge, (joins["aaa"], inner)) == (WAY_OUT, False, 1)
    assert placement((joins["aaa"], inner)) == (WAY_OUT, True, 0)


def test_what_it_has_stays_when_networks_come_and_go() -> None:
    container = LocalContainer(id=ID, name="tool")
    alpha, beta = made(1, name="alpha"), made(2, name="beta")
    a, b = (Joined(network=network.name, network_id=network.id) for network in (alpha, beta))
    first = sandbox_request(container, "tool", [(a, alpha)], {}, None)
    known = SandboxRecord(id=ID, hostname="tool", attachments=first.attachments, placement=first.placement)
    both = sandbox_request(container, "tool", [(b, beta), (a, alpha)], {alpha.id: ["10.9.1.3/24"], beta.id: ["10.9.2.2/24"]}, known)
    assert {at.network_id: at.address for at in both.attachments} == {alpha.id: "10.9.1.2/24", beta.id: "10.9.2.3/24"}
    assert both.placement.interfaces == {alpha.id: "eth0", beta.id: "eth1"}
    old = SandboxRecord(id=ID, hostname="tool", egress_address="172.17.0.2/16")
    later = sandbox_request(container, "tool", [(Joined(network="bridge"), None), (a, alpha)], {}, old)
    assert later.placement.interfaces == {WAY_OUT: "eth0", alpha.id: "eth1"}


def test_ports_lead_to_the_network_that_leads_out() -> None:
    container = LocalContainer(id=ID, name="tool")
    alpha = made(1)
    request = sandbox_request(container, "tool", [(Joined(network="net1", network_id=alpha.id), alpha)], {}, None)
    port = PublishedPort(protocol="tcp", container_port=80, host_port=8080)
    record = SandboxRecord(id=ID, hostname="tool", attachments=request.attachments, placement=request.placement, ports=(port,))
    bridge, other = host_bridges([alpha, made(2)], [record])
    assert [(forward.port, forward.address) for forward in bridge.forwards] == [(port, "10.9.1.2")]
    assert other.forwards == ()
    assert network_view(alpha, {}).gateway == "10.9.1.1/24"


async def test_what_is_kept_on_disk(tmp_path: Path) -> None:
    networks = NodeNetworks(tmp_path / "networks")
    await networks.add(made(1))
    await networks.add(made(2))
    with pytest.raises(AlreadyExists):
        await networks.add(made(3, name="net1"))
    (tmp_path / "networks" / "torn.json").write_text("{")
    (tmp_path / "networks" / ".x.json.tmp").write_text("{")
    again = NodeNetworks(tmp_path / "networks")
    assert list(again) == [made(1), made(2)]
    await again.remove(made(1).id)
    assert again.find("net1") is None
    assert list(NodeNetworks(tmp_path / "networks")) == [made(2)]


def test_records_of_an_older_daemon_load() -> None:
    old = msgspec.json.decode(
        b'{"id":"c","name":"n","network_mode":"app","aliases":["x"],"address":"10.0.0.9"}', type=LocalContainer
    )
    assert old.joins == (Joined(network="app", aliases=("x",), address="10.0.0.9"),)
    assert msgspec.json.decode(b'{"id":"c","name":"n"}', type=LocalContainer).joins == (Joined(network="bridge"),)
    assert LocalContainer(id="c", name="n", network_mode="none").joins == ()


class CountingDNS:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def ensure_running(self) -> bool:
        """Run."""
        self.told.append("run")
        return False

    async def set_network(self, network_id: str, records: Mapping[str, tuple[str, ...]], name: str = "") -> None:
        """Note it."""
        self.told.append(f"network {network_id}")

    async def remove_network(self, network_id: str) -> None:
        """Note it."""
        self.told.append(f"no network {network_id}")

    async def add_sandbox(
        self,
        sandbox_id: str,
        netns_path: str,
        network_ids: Sequence[str],
        search: Sequence[str] = (),
        upstreams: Sequence[str] = (),
    ) -> None:
        """Note it."""
        self.told.append(f"sandbox {sandbox_id}")

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Note it."""
        self.told.append(f"no sandbox {sandbox_id}")

    async def feed(
        self,
        networks: Mapping[str, Mapping[str, tuple[str, ...]]],
        sandboxes: Mapping[str, SandboxConfig],
        network_names: Mapping[str, str] = {},
    ) -> dict[str, str]:
        """Note it."""
        self.told.append(f"feed {sorted(sandboxes)}")
        return {}

    async def wait_disconnected(self) -> None:
        """Never."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Note it."""
        self.told.append("stop")

    async def close(self) -> None:
        """Note it."""
        self.told.append("close")


async def test_the_dns_runs_only_while_it_is_needed() -> None:
    inner = CountingDNS()
    dns = DNSWhenNeeded(inner)
    assert not await dns.ensure_running()
    await dns.set_network("app", {})
    await dns.add_sandbox("one", "/netns/one", ())
    assert inner.told == ["stop"], "one of an earlier life"
    dns.is_needed = lambda: True
    await dns.ensure_running()
    await dns.feed({}, {"one": SandboxConfig("/netns/one", ()), "two": SandboxConfig("/netns/two", ("app",))})
    await dns.add_sandbox("two", "/netns/two", ("app",))
    await dns.add_sandbox("one", "/netns/one", ())
    assert inner.told[1:] == ["run", "feed ['two']", "sandbox two", "no sandbox one"]
    dns.is_needed = lambda: False
    await dns.remove_sandbox("two")
    assert inner.told[-2:] == ["no sandbox two", "stop"]
    await dns.remove_sandbox("two")
    assert inner.told[-1] == "stop"
