"""Joining a real manager (real etcd, real TLS, on loopback), with the right token and with wrong ones."""

import asyncio
import contextlib
import datetime
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest
from websockets.exceptions import WebSocketException

from pyswarm_agent.session import client_tls, open_websocket
from pyswarm_common import pki, wire
from pyswarm_common.clock import SystemClock
from pyswarm_common.errors import InvalidArgument, PyswarmError, Unavailable
from pyswarm_common.objects import Cluster, NodeDescription
from pyswarm_common.waiting import wait_first
from pyswarm_manager.ca.attempt_limit import BURST
from pyswarm_manager.ca.bootstrap import new_cluster
from pyswarm_manager.etcd.member import free_peer_port
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_node.certificate_keeper import CertificateKeeper
from pyswarm_node.entering import ManagerDirectory
from pyswarm_node.joining import join_cluster
from pyswarm_node.manager_runner import ManagerRunner
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
    files, clock = MembershipStore(tmp_path, tmp_path / "run"), SystemClock()
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
    files.save_data_keys(DataKeys.generate().encode())
    membership = Membership(
        node_id=new.node.id,
        cluster_id=new.cluster.id,
        role="manager",
        advertise_address="127.0.0.1",
        data_path_address="127.0.0.1",
        node_address=address,
        etcd_peer_port=free_peer_port("127.0.0.1"),
    )
    directory = ManagerDirectory(
        lambda: (wire.ManagerAddress(node_id=new.node.id, address=address),),
        lambda: client_tls(str(files.certificate_path), str(files.key_path), str(files.root_path)),
    )
    runner = ManagerRunner(
        files=files,
        membership=membership,
        runtime_dir=tmp_path / "run",
        listener=listener,
        clock=clock,
        directory=directory,
        keeper=CertificateKeeper(files, lambda: membership, directory.post, clock, random.random),
        on_newer=lambda *_: None,
        new=new,
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


def tls_without_trust() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_the_worker_token_lets_in_and_the_session_opens(manager: Manager, tmp_path: Path) -> None:
    key = pki.new_private_key_pem()
    answer = await join_cluster(manager.address, request(manager.cluster.worker_join_token, key))
    assert pki.identity_of(answer.certificate_pem.encode()) == pki.NodeIdentity(answer.node_id, "worker", manager.cluster.id)
    async with open_websocket(manager.address, wire.SESSION_PATH, tls_of(tmp_path, answer, key)) as socket:
        await socket.send(wire.encode(wire.Hello(protocol_versions=(1,), description=NodeDescription(hostname="w"))))
        welcome = wire.decode_manager_message(await socket.recv())
        assert isinstance(welcome, wire.Welcome)
        assert welcome.node_id == answer.node_id
        state = wire.decode_manager_message(await socket.recv())
        assert isinstance(state, wire.NodeState)
        assert [m.address for m in state.managers] == [manager.address]
        assert (state.role, state.trust_pem) == ("worker", manager.cluster.root_certificate_pem)
        assert state.issuer_digest == pki.root_digest(manager.cluster.root_certificate_pem)


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


async def test_the_manager_token_gives_a_manager_s_certificate(manager: Manager) -> None:
    answer = await join_cluster(manager.address, request(manager.cluster.manager_join_token))
    assert answer.role == pki.identity_of(answer.certificate_pem.encode()).role == "manager"


async def test_a_node_gets_another_certificate_under_its_present_one_and_no_other_role(manager: Manager, tmp_path: Path) -> None:
    key = pki.new_private_key_pem()
    answer = await join_cluster(manager.address, request(manager.cluster.worker_join_token, key))
    directory = ManagerDirectory(lambda: answer.managers, lambda: tls_of(tmp_path, answer, key))
    asked = wire.CertificateRequest(signing_request_pem=pki.new_signing_request(pki.new_private_key_pem()))
    body = await directory.post(wire.CERTIFICATE_PATH, msgspec.json.encode(asked), 5.0)
    renewed = msgspec.json.decode(body, type=wire.CertificateAnswer)
    assert renewed.role == "worker"
    assert pki.identity_of(renewed.certificate_pem.encode()) == pki.identity_of(answer.certificate_pem.encode())
    without = ManagerDirectory(lambda: answer.managers, lambda: ssl.create_default_context(cadata=answer.root_certificate_pem))
    with pytest.raises(PyswarmError, match="a node certificate of this cluster is needed here"):
        await without.post(wire.CERTIFICATE_PATH, msgspec.json.encode(asked), 5.0)


async def test_who_knocks_too_often_has_to_wait(manager: Manager) -> None:
    async with httpx.AsyncClient(verify=tls_without_trust(), trust_env=False) as client:
        answers = [await client.get(f"https://{manager.address}{wire.CA_PATH}") for _ in range(round(BURST) * 3)]
    assert answers[0].status_code == 200
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert refused.status_code == 429
    assert refused.json()["message"] == "too many attempts to join from 127.0.0.1: try again in 1 s"


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
