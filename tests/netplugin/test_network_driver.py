"""The driver on a kernel and a DNS in memory: what it remembers, adopts, refuses, and how it fails."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from pyswarm_common.errors import Conflict, NotFound, PyswarmError, Unavailable
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.state import Peer, State


class Node:
    """A node whose daemon can be restarted; kernel and DNS live on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kernel = FakeKernel()
        self.dns = FakeDNS()
        self.driver = self.new_driver()

    def new_driver(self) -> NetworkDriver:
        """Return a driver that was not started."""
        return NetworkDriver(
            instance_tag="test",
            data_dir=self.directory / "data",
            runtime_dir=self.directory / "run",
            data_path_address="192.0.2.1",
            dns=self.dns,
            make_kernel=lambda: self.kernel,
        )

    async def restart(self) -> None:
        """Stop the daemon and start another."""
        await self.driver.close()
        self.kernel.executed.clear()
        self.driver = self.new_driver()
        await self.driver.start()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    await made.driver.start()
    yield made
    await made.driver.close()


def view(network_id: str, vni: int, *, version: int = 1, backends: tuple[str, ...] = ()) -> NetworkView:
    """Return a view with one task elsewhere and one service."""
    return NetworkView(
        network_id=network_id,
        name=network_id,
        version=version,
        vni=vni,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        endpoints={"far": Endpoint(address="10.0.1.9/24", data_path_address="192.0.2.2", name="web.2.far")},
        services={"s1": ServiceEndpoints(names=("web",), virtual_ip="10.0.1.2", backends=backends)},
    )


def request(task: str, *network_ids: str) -> SandboxRequest:
    """Return a request for a sandbox on these networks."""
    attachments = tuple(NetworkAttachment(network_id=network_id, address="10.0.1.5/24") for network_id in network_ids)
    return SandboxRequest(id=task, hostname="box", attachments=attachments)


async def test_attaching_makes_a_sandbox_that_answers_names(node: Node) -> None:
    await node.driver.apply_views({"net-a": view("net-a", 4097, backends=("10.0.1.9",))})
    sandbox = await node.driver.attach(request("t1", "net-a"))
    assert sandbox.netns_path == str(node.directory / "run/netns/s-t1")
    assert sandbox.resolv_conf == "nameserver 127.0.0.11\noptions ndots:0\n"
    assert sandbox.hosts.endswith("10.0.1.5\tbox\n")
    assert node.dns.sandboxes["t1"].network_ids == ("net-a",)
    assert node.dns.networks["net-a"]["web"] == ("10.0.1.2",)
    assert list(node.kernel.sandboxes["t1"].links) == ["eth0", "eth1"]
    assert node.driver.sandboxes() == {"t1"}


async def test_attaching_twice_does_nothing_more(node: Node) -> None:
    await node.driver.apply_views({"net-a": view("net-a", 4097)})
    first = await node.driver.attach(request("t1", "net-a"))
    node.kernel.executed.clear()
    assert await node.driver.attach(request("t1", "net-a")) == first
    assert node.kernel.executed == []


async def test_a_network_without_view_cannot_be_attached_to(node: Node) -> None:
    with pytest.raises(NotFound, match="network net-a is not on this node"):
        await node.driver.attach(request("t1", "net-a"))
    assert node.driver.sandboxes() == frozenset()


async def test_a_restarted_daemon_adopts_everything_and_touches_nothing(node: Node) -> None:
    await node.driver.apply_views({"net-a": view("net-a", 4097, backends=("10.0.1.9",))})
    await node.driver.attach(request("t1", "net-a"))
    await node.restart()
    assert node.kernel.executed == []
    assert node.driver.sandboxes() == {"t1"}
    assert node.driver.views()["net-a"].version == 1
    assert node.dns.starts == 1
    await node.driver.detach("t1")
    assert node.kernel.sandboxes == {}


async def test_after_a_power_cut_lost_sandboxes_are_forgotten_and_overlays_rebuilt(node: Node) -> None:
    await node.driver.apply_views({"net-a": view("net-a", 4097)})
    await node.driver.attach(request("t1", "net-a"))
    node.kernel = FakeKernel()
    await node.restart()
    assert node.driver.sandboxes() == frozenset()
    assert node.kernel.sandboxes == {}
    assert node.kernel.overlays["net-a"].peers == {"10.0.1.9": Peer(host="192.0.2.2")}


async def test_what_nobody_remembers_is_removed_at_start(node: Node) -> None:
    await node.driver.apply_views({"net-a": view("net-a", 4097)})
    await node.driver.attach(request("t1", "net-a"))
    (node.directory / "data/network/sandboxes/t1").unlink()
    (node.directory / "data/network/views/net-a").write_bytes(b"torn")
    await node.restart()
    assert node.kernel.sandboxes == {}
    assert node.kernel.overlays == {}


async def test_a_network_stays_while_a_sandbox_uses_it(node: Node) -> None:
    await node.driver.apply_views({"net-a": view("net-a", 4097)})
    await node.driver.attach(request("t1", "net-a"))
    await node.driver.apply_views({})
    assert "net-a" in node.kernel.overlays
    await node.driver.detach("t1")
    assert node.kernel.overlays == {}
    assert "net-a" not in node.dns.networks
    assert node.driver.views() == {}


async def test_a_new_version_changes_only_what_is_new(node: Node) -> None:
    await node.driver.apply_views({"net-a": view("net-a", 4097)})
    await node.driver.attach(request("t1", "net-a"))
    node.kernel.executed.clear()
    await node.driver.apply_views({"net-a": view("net-a", 4097, version=2, backends=("10.0.1.9",))})
    assert [type(operation) for operation in node.kernel.executed] == [op.ChangeBalancing]
    assert node.driver.views()["net-a"].version == 2


async def test_a_broken_network_is_named_and_others_work(node: Node) -> None:
    def refuse(operation: op.Operation) -> None:
        if isinstance(operation, op.MakeTunnel) and operation.network_id == "net-a":
            raise Conflict("VNI 4097 is already used by device vx9")

    node.kernel.refuse = refuse
    with pytest.raises(Unavailable, match="overlay net-a: VNI 4097 is already used by device vx9"):
        await node.driver.apply_views({"net-a": view("net-a", 4097), "net-b": view("net-b", 4098)})
    await node.driver.attach(request("tb", "net-b"))
    with pytest.raises(Conflict, match="VNI 4097"):
        await node.driver.attach(request("ta", "net-a"))
    assert node.driver.sandboxes() == {"tb"}
    assert set(node.kernel.sandboxes) == {"tb"}
    node.kernel.refuse = lambda _: None
    await node.driver.attach(request("ta", "net-a"))


async def test_a_dns_that_died_is_replaced_and_told_everything(node: Node) -> None:
    await node.driver.apply_views({"net-a": view("net-a", 4097)})
    await node.driver.attach(request("t1", "net-a"))
    node.dns.die()
    async with asyncio.timeout(5):
        await node.dns.was_fed.wait()
    assert "t1" in node.dns.sandboxes
    assert "web" in node.dns.networks["net-a"]
    assert node.dns.starts == 2


async def test_sweeping_keeps_only_what_is_named(node: Node) -> None:
    for task in ("t1", "t2", "t3"):
        await node.driver.attach(request(task))
    await node.driver.sweep({"t2"})
    assert node.driver.sandboxes() == {"t2"}
    assert set(node.kernel.sandboxes) == set(node.dns.sandboxes) == {"t2"}


async def test_a_cancelled_attach_leaves_the_driver_usable(node: Node) -> None:
    attaching = asyncio.create_task(node.driver.attach(request("t1")))
    await asyncio.sleep(0)
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    await node.driver.attach(request("t1"))
    await node.driver.detach("t1")
    assert node.kernel.sandboxes == {}


async def test_many_at_once_get_different_addresses(node: Node) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(node.driver.attach(request(f"t{number}")))
    addresses = {link.address for sandbox in node.kernel.sandboxes.values() for link in sandbox.links.values()}
    assert len(addresses) == 20


async def test_teardown_leaves_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.driver.start()
    await node.driver.apply_views({"net-a": view("net-a", 4097)})
    await node.driver.attach(request("t1", "net-a"))
    await node.driver.teardown()
    assert node.kernel.observe() == State()
    assert not node.dns.is_running
    assert not (tmp_path / "data/network").exists()


async def test_the_kernels_refusal_of_a_removal_is_told(node: Node) -> None:
    await node.driver.attach(request("t1"))

    def refuse(operation: op.Operation) -> None:
        if isinstance(operation, op.RemoveSandbox):
            raise PermissionError(1, "Operation not permitted")

    node.kernel.refuse = refuse
    with pytest.raises(PyswarmError, match="sandbox t1: remove: Operation not permitted"):
        await node.driver.detach("t1")
    node.kernel.refuse = lambda _: None
    await node.driver.apply_views({})
    assert node.kernel.sandboxes == {}


def test_views_with_the_same_content_are_equal_after_the_disk() -> None:
    before = view("net-a", 4097, backends=("10.0.1.9",))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=NetworkView) == before
