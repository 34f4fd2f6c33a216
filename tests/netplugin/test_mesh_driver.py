"""The driver with an ingress network, on a kernel and a DNS in memory: what others see of the mesh sandbox."""

from pathlib import Path

from test_mesh_views import service, view

from pyswarm_common.wire import MeshPort
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.published_ports.records import PublishedPort


class Node:
    """A node whose daemon can be restarted."""

    def __init__(self, directory: Path, node_id: str = "node-1") -> None:
        self.kernel, self.dns = FakeKernel(), FakeDNS()
        self.directory = directory
        self.driver = self.new_driver(node_id)

    def new_driver(self, node_id: str) -> NetworkDriver:
        """Return a driver that was not started."""
        return NetworkDriver(
            instance_tag="test",
            data_dir=self.directory / "data",
            runtime_dir=self.directory / "run",
            data_path_address="192.0.2.1",
            dns=self.dns,
            node_id=node_id,
            make_kernel=lambda: self.kernel,
        )


async def test_the_mesh_sandbox_is_nobodys_task_and_has_no_names(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.driver.start()
    await node.driver.apply_views({"ingress": view({"a": service("10.0.0.5", ports=())})})
    assert set(node.kernel.sandboxes) == {MESH_SANDBOX_ID}
    address = node.kernel.sandboxes[MESH_SANDBOX_ID].links["eth1"].address
    await node.driver.close()
    node.kernel.executed.clear()
    node.driver = node.new_driver("node-1")
    await node.driver.start()
    assert node.kernel.executed == []
    assert node.kernel.sandboxes[MESH_SANDBOX_ID].links["eth1"].address == address
    assert node.driver.sandboxes() == node.dns.sandboxes.keys() == frozenset()
    await node.driver.sweep(set())
    assert set(node.kernel.sandboxes) == {MESH_SANDBOX_ID}
    await node.driver.apply_views({})
    assert node.kernel.sandboxes == {}
    assert node.kernel.overlays == {}
    await node.driver.close()


async def test_a_daemon_that_is_another_node_now_removes_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.driver.start()
    await node.driver.apply_views({"ingress": view({})})
    await node.driver.close()
    node.driver = node.new_driver("node-9")
    await node.driver.start()
    assert node.kernel.sandboxes == {}
    await node.driver.close()


async def test_what_is_published_leads_to_the_mesh_sandbox(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.driver.start()
    port = MeshPort(protocol="sctp", published_port=8080, target_port=80)  # for which no socket of this machine is bound
    await node.driver.apply_views({"ingress": view({"a": service("10.0.0.5", ports=(port,))})})
    record = node.driver.record(MESH_SANDBOX_ID)
    assert record is not None
    assert record.ports == (PublishedPort(protocol="sctp", container_port=8080, host_port=8080),)
    assert set(node.kernel.sandboxes[MESH_SANDBOX_ID].mesh_ports or ()) == {"sctp/8080"}
    await node.driver.close()
