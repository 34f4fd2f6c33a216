"""The driver's end of encrypted overlays on a kernel in memory: keys that last, the cluster's key, and refusal."""

from pathlib import Path

import msgspec
import pytest

from pyswarm_common.errors import FailedPrecondition, Unavailable
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import NetworkView, NodeKey
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.secure.records import Encryption, preshared_mark
from pyswarm_netplugin.state import State

PEER = NodeKey(public_key="cGVlcg==", port=51820)
VIEW = NetworkView(
    network_id="n",
    name="n",
    version=1,
    vni=4097,
    subnet="10.0.1.0/24",
    gateway="10.0.1.1",
    is_encrypted=True,
    node_keys={"192.0.2.2": PEER},
)
PLAIN = msgspec.structs.replace(VIEW, is_encrypted=False, node_keys={}, version=2)
REQUEST = SandboxRequest(id="box", hostname="box", attachments=(NetworkAttachment(network_id="n", address="10.0.1.5/24"),))


async def started(directory: Path, kernel: FakeKernel) -> NetworkDriver:
    driver = NetworkDriver(
        instance_tag="test",
        data_dir=directory / "data",
        runtime_dir=directory / "run",
        data_path_address="192.0.2.1",
        dns=FakeDNS(),
        make_kernel=lambda: kernel,
    )
    await driver.start()
    return driver


async def test_keys_and_port_last_and_a_next_life_changes_nothing(tmp_path: Path) -> None:
    kernel = FakeKernel()
    driver = await started(tmp_path, kernel)
    first = await driver.secure.encryption()
    assert (first.kind, first.problem) == ("kernel", "")
    await driver.apply_views({"n": VIEW})
    await driver.secure.take_network_key("c2hhcmVk")
    secure = kernel.observe().secure
    assert secure is not None
    assert (secure.public_key, secure.port, secure.mtu_bytes) == (first.public_key, first.port, 1420)
    assert secure.peers["192.0.2.2"].preshared_mark == preshared_mark("c2hhcmVk")
    await driver.close()
    kernel.executed.clear()
    driver = await started(tmp_path, kernel)
    assert kernel.executed == []
    assert await driver.secure.encryption() == first
    await driver.secure.take_network_key("c2hhcmVk")
    assert kernel.executed == []
    await driver.close()


async def test_the_clusters_key_changes_peers_and_nothing_else(tmp_path: Path) -> None:
    kernel = FakeKernel()
    driver = await started(tmp_path, kernel)
    await driver.apply_views({"n": VIEW})
    kernel.executed.clear()
    await driver.secure.take_network_key("YW5vdGhlcg==")
    assert [type(operation) for operation in kernel.executed] == [op.ChangeSecurePeers]
    await driver.close()


async def test_it_is_there_as_long_as_a_network_needs_it(tmp_path: Path) -> None:
    kernel = FakeKernel()
    driver = await started(tmp_path, kernel)
    await driver.apply_views({"n": PLAIN})
    assert kernel.observe().secure is None
    assert not list((tmp_path / "data").rglob("wireguard")), "no key before it is needed"
    await driver.apply_views({"n": VIEW})
    overlay = kernel.observe().overlays["n"]
    assert overlay.tunnel is not None
    assert overlay.tunnel.is_encrypted
    await driver.apply_views({"n": PLAIN})
    assert kernel.observe().secure is None
    await driver.teardown()
    assert kernel.observe() == State()
    assert not list((tmp_path / "data").rglob("wireguard")), "who leaves takes the key along"


async def test_a_node_that_cannot_refuses(tmp_path: Path) -> None:
    kernel = FakeKernel()
    kernel.encrypts = Encryption(problem="no WireGuard here")
    driver = await started(tmp_path, kernel)
    assert await driver.secure.encryption() == kernel.encrypts
    with pytest.raises(Unavailable, match="no WireGuard here"):
        await driver.apply_views({"n": VIEW})
    with pytest.raises(FailedPrecondition, match="encrypted overlays are not possible on this node: no WireGuard here"):
        await driver.attach(REQUEST)
    assert kernel.overlays["n"].tunnel is None
    await driver.apply_views({"n": PLAIN})
    await driver.attach(REQUEST)
    await driver.close()
