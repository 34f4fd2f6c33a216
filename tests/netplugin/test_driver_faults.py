"""What a driver does when the disk refuses, when addresses run out, and when a port that the mesh wanted comes free."""

from pathlib import Path

import pytest
from test_mesh_driver import Node
from test_mesh_views import service
from test_mesh_views import view as ingress

from pyswarm_common.errors import Unavailable
from pyswarm_common.wire import MeshPort, NetworkView
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.published_ports.records import PortRequest

NETWORK = NetworkView(network_id="net-a", name="a", version=1, vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1")
PORT = MeshPort(protocol="sctp", published_port=8080, target_port=80)
"""For which no socket of this machine is bound."""


async def test_views_that_the_disk_refused_are_remembered_by_the_next_try(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.driver.start()
    folder = tmp_path / "data/network/views"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    with pytest.raises(OSError, match="exists"):
        await node.driver.apply_views({"net-a": NETWORK})
    folder.unlink()
    await node.driver.apply_views({"net-a": NETWORK})
    assert node.dns.networks.keys() == {"net-a"}
    await node.driver.close()
    node.driver = node.new_driver("node-1")
    await node.driver.start()
    assert node.driver.views() == {"net-a": NETWORK}
    await node.driver.close()


async def test_a_mesh_sandbox_that_gets_no_address_fails_alone(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.driver = NetworkDriver(
        instance_tag="test",
        data_dir=tmp_path / "data",
        runtime_dir=tmp_path / "run",
        data_path_address="192.0.2.1",
        egress_pool="172.19.0.0/30",
        dns=node.dns,
        node_id="node-1",
        make_kernel=lambda: node.kernel,
    )
    await node.driver.start()
    await node.driver.attach(SandboxRequest(id="own", hostname="own"))
    views = {"ingress": ingress({"a": service("10.0.0.5", ports=(PORT,))}), "net-a": NETWORK}
    with pytest.raises(Unavailable, match="routing mesh: all 1 addresses"):
        await node.driver.apply_views(views)
    assert node.kernel.overlays.keys() == {"ingress", "net-a"}
    assert "net-a" in node.dns.networks
    await node.driver.detach("own")
    await node.driver.apply_views(views)
    assert node.kernel.sandboxes.keys() == {MESH_SANDBOX_ID}
    await node.driver.close()


async def test_a_port_is_the_meshs_as_soon_as_the_container_that_had_it_is_gone(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.driver.start()
    wanted = PortRequest(protocol="sctp", container_port=80, first_host_port=8080)
    await node.driver.attach(SandboxRequest(id="own", hostname="own", ports=(wanted,)))
    await node.driver.apply_views({"ingress": ingress({"a": service("10.0.0.5", ports=(PORT,))})})
    assert node.driver.mesh.problems == {"sctp/8080": "a container on this node has the port"}
    await node.driver.detach("own")
    assert node.driver.mesh.problems == {}
    record = node.driver.record(MESH_SANDBOX_ID)
    assert record is not None
    assert [port.host_port for port in record.ports] == [8080]
    await node.driver.close()
