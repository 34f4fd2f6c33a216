"""Joining a real manager (real etcd, real TLS, on loopback), with the right token and with wrong ones."""

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.exceptions import WebSocketException

from pyswarm_agent.session import client_tls, open_websocket
from pyswarm_common import pki, wire
from pyswarm_common.clock import SystemClock
from pyswarm_common.errors import InvalidArgument, PyswarmError, Unavailable
from pyswarm_common.objects import Cluster, NodeDescription
from pyswarm_common.waiting import wait_first
from pyswarm_manager.ca.bootstrap import new_cluster
from pyswarm_manager.etcd.member import free_peer_port
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_node.joining import join_cluster
from pyswarm_node.manager_runner import ManagerRunner, encode_data_keys
from pyswarm_node.membership import Membership, MembershipStore
from pyswarm_node.serving import bind_tcp

pytestmark = pytest.mark.kernel


@dataclass
class Manager:
    """A manager that runs."""

    address: str
    runner: ManagerRunner
    cluster: Cluster


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    files, clock = MembershipStore(tmp_path), SystemClock()
    listener = bind_tcp("127.0.0.1:0")
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    key = files.private_key()
    new = new_cluster(
        private_key_pem=key,
        hostname="h",
        address="127.0.0.1",
        data_path_address="127.0.0.1",
        node_address=address,
        settings={},
        clock=clock,
    )
    files.save_certificate(root_pem=new.cluster.root_certificate_pem, certificate_pem=new.certificate_pem, key_pem=key)
    files.save_data_keys(encode_data_keys(DataKeys.generate()))
    membership = Membership(
        node_id=new.node.id,
        cluster_id=new.cluster.id,
        role="manager",
        advertise_address="127.0.0.1",
        data_path_address="127.0.0.1",
        etcd_peer_port=free_peer_port("127.0.0.1"),
    )
    runner = ManagerRunner(
        files=files, membership=membership, runtime_dir=tmp_path / "run", listener=listener, clock=clock, new=new
    )
    running = asyncio.ensure_future(runner.run())
    try:
        await wait_first(running, runner.is_ready.wait())
        yield Manager(address, runner, new.cluster)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def request(token: str, key_pem: str | None = None) -> wire.JoinRequest:
    return wire.JoinRequest(token=token, signing_request_pem=pki.new_signing_request(key_pem or pki.new_private_key_pem()))


def tls_of(folder: Path, answer: wire.JoinAnswer, key_pem: str) -> ssl.SSLContext:
    for name, text in (("crt", answer.certificate_pem), ("key", key_pem), ("ca", answer.root_certificate_pem)):
        (folder / name).write_text(text)
    return client_tls(str(folder / "crt"), str(folder / "key"), str(folder / "ca"))


async def test_the_worker_token_lets_in_and_the_session_opens(manager: Manager, tmp_path: Path) -> None:
    key = pki.new_private_key_pem()
    answer = await join_cluster(manager.address, request(manager.cluster.worker_join_token, key))
    assert pki.identity_of(answer.certificate_pem.encode()) == pki.NodeIdentity(answer.node_id, "worker", manager.cluster.id)
    async with open_websocket(manager.address, wire.SESSION_PATH, tls_of(tmp_path, answer, key)) as socket:
        await socket.send(wire.encode(wire.Hello(protocol_versions=(1,), description=NodeDescription(hostname="w"))))
        welcome = wire.decode_manager_message(await socket.recv())
        assert isinstance(welcome, wire.Welcome)
        assert welcome.node_id == answer.node_id
        assert [m.address for m in welcome.managers] == [manager.address]


async def test_a_join_that_is_tried_again_is_the_same_node(manager: Manager) -> None:
    key = pki.new_private_key_pem()
    first = await join_cluster(manager.address, request(manager.cluster.worker_join_token, key))
    second = await join_cluster(manager.address, request(manager.cluster.worker_join_token, key))
    assert first.node_id == second.node_id


async def test_a_token_that_was_rotated_is_refused(manager: Manager) -> None:
    token = pki.new_join_token(manager.cluster.root_certificate_pem)
    with pytest.raises(PyswarmError, match="a valid join token is necessary") as refused:
        await join_cluster(manager.address, request(token))
    assert refused.value.status_code == 403


async def test_a_token_of_another_cluster_never_reaches_the_manager(manager: Manager) -> None:
    root_pem, _ = pki.new_root(datetime.datetime.now(datetime.UTC))
    with pytest.raises(InvalidArgument, match="remote CA does not match fingerprint"):
        await join_cluster(manager.address, request(pki.new_join_token(root_pem)))


async def test_the_manager_token_says_that_this_comes_later(manager: Manager) -> None:
    with pytest.raises(PyswarmError, match="joining as a manager is not offered yet"):
        await join_cluster(manager.address, request(manager.cluster.manager_join_token))


async def test_nobody_at_the_address(manager: Manager) -> None:
    unused = bind_tcp("127.0.0.1:0")
    address = f"127.0.0.1:{unused.getsockname()[1]}"
    unused.close()
    with pytest.raises(Unavailable, match="no manager could be reached"):
        await join_cluster(address, request(manager.cluster.worker_join_token))


async def test_a_session_needs_a_certificate_of_the_cluster(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "ca").write_text(manager.cluster.root_certificate_pem)
    without = ssl.create_default_context(cafile=str(tmp_path / "ca"))
    async with open_websocket(manager.address, wire.SESSION_PATH, without) as socket:
        goodbye = wire.decode_manager_message(await socket.recv())
    assert goodbye == wire.Goodbye(reason="a node certificate of this cluster is needed here")


async def test_a_certificate_of_another_ca_does_not_even_connect(manager: Manager, tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    root_pem, root_key = pki.new_root(now)
    key = pki.new_private_key_pem()
    identity = pki.NodeIdentity(node_id="x", role="manager", cluster_id=manager.cluster.id)
    certificate = pki.sign_node_certificate(root_pem, root_key, pki.new_signing_request(key), identity, (), now)
    answer = wire.JoinAnswer(
        node_id="x",
        cluster_id=manager.cluster.id,
        role="manager",
        certificate_pem=certificate,
        root_certificate_pem=manager.cluster.root_certificate_pem,
        managers=(),
        address="",
        data_path_port=4789,
    )
    with pytest.raises((OSError, WebSocketException)):
        async with open_websocket(manager.address, wire.SESSION_PATH, tls_of(tmp_path, answer, key)) as socket:
            await socket.recv()
