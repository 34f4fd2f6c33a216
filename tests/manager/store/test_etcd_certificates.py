"""What etcd does with certificates while the root changes and when one is revoked; on real members, from peer to peer."""

import asyncio
import datetime
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pyswarm_common import pki, pki_chain
from pyswarm_common.errors import Unavailable
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.store.backend import Put

pytestmark = pytest.mark.kernel

EtcdCluster = Callable[[int], list[EtcdSettings]]
NOW = datetime.datetime.now(datetime.UTC)
OLD = pki.new_root(NOW)
NEW = pki.new_root(NOW)
CROSS = pki_chain.cross_sign(NEW[0], *OLD, NOW)


def give_certificate(settings: EtcdSettings, root: tuple[str, str], tail: str = "", role: str = "manager") -> str:
    """Write a certificate and key of this root where the member reads them; returns its serial."""
    key = pki.new_private_key_pem()
    identity = pki.NodeIdentity(node_id=settings.name, role=role, cluster_id="c")
    request = pki.new_signing_request(key)
    pem = pki.sign_node_certificate(*root, request, identity, ("127.0.0.1",), NOW, tail_pem=tail)
    settings.key_path.write_text(key)
    settings.certificate_path.write_text(pem)
    return pki_chain.certificate_info(pem).serial


def give_all(members: list[EtcdSettings], root: tuple[str, str], tail: str = "") -> None:
    for settings in members:
        give_certificate(settings, root, tail)


async def write(member: EtcdMember, key: str) -> None:
    """Write through this member; asks again while there is no leader, for a short time."""
    async with EtcdClient(member.socket_path) as client, asyncio.timeout(10):
        while True:
            try:
                await client.commit([], [Put(key, b"x")])
                return
            except Unavailable:
                await asyncio.sleep(0.05)


async def is_accepted(folder: Path, settings: EtcdSettings, certificate: EtcdSettings) -> bool:
    """Whether the member answers a peer's request under another's certificate."""
    context = ssl.create_default_context(cadata=OLD[0] + NEW[0])
    context.load_cert_chain(certificate.certificate_path, certificate.key_path)
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", settings.peer_port, ssl=context, server_hostname=pki.MANAGER_ROLE_NAME
        )
    except OSError:
        return False
    try:
        writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return (await reader.readline()).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
    finally:
        writer.close()


async def test_members_change_their_root_one_at_a_time_without_losing_each_other(etcd_cluster: EtcdCluster) -> None:
    """All start with the old root. Leaves change live; then each is restarted with the new root alone, while the others still run
    with the old one: both kinds must accept the same leaves. At the end nothing knows the old root."""
    settings = etcd_cluster(3)
    root_path = settings[0].root_path
    root_path.write_text(OLD[0])
    give_all(settings, OLD)
    members = [EtcdMember(s) for s in settings]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(member) for member in members))
        await write(members[0], "begun")
        give_all(settings, NEW, CROSS)
        root_path.write_text(NEW[0])
        for turn, member in enumerate(members):
            await member.stop()
            await member.start()
            others = [m for m in members if m is not member]
            await others[0].stop()  # the other two are a majority only if they accept each other
            await write(member, f"turn {turn}")
            await others[0].start()
            await write(others[0], f"back {turn}")
            await asyncio.sleep(0)
        give_all(settings, NEW)
        for member in members:
            await member.stop()
            await member.start()
            await write(member, "without the cross certificate")


async def test_a_member_that_knows_the_new_root_alone_refuses_leaves_of_the_old_one(etcd_cluster: EtcdCluster) -> None:
    settings = etcd_cluster(2)
    settings[0].root_path.write_text(NEW[0])
    settings[0].other_members.clear()
    give_certificate(settings[0], NEW)
    async with EtcdMember(settings[0]) as member:
        await write(member, "alone")
        give_certificate(settings[1], NEW)
        assert await is_accepted(settings[1].data_dir, settings[0], settings[1])
        give_certificate(settings[1], OLD)
        assert not await is_accepted(settings[1].data_dir, settings[0], settings[1])
        give_certificate(settings[1], NEW, role="worker")
        assert not await is_accepted(settings[1].data_dir, settings[0], settings[1]), "workers have no business here"


async def test_a_revoked_certificate_is_refused_from_the_next_handshake_on(etcd_cluster: EtcdCluster) -> None:
    settings = etcd_cluster(2)
    settings[0].root_path.write_text(NEW[0])
    settings[0].other_members.clear()
    give_certificate(settings[0], NEW)
    serial = give_certificate(settings[1], NEW, CROSS)
    revocation_path = settings[0].root_path.with_name("peers.crl")
    revocation_path.write_text(pki_chain.empty_revocation_list(NOW))
    listening = EtcdSettings(**{**vars(settings[0]), "revocation_path": revocation_path})
    async with EtcdMember(listening) as member:
        await write(member, "alone")
        folder = settings[1].data_dir
        assert await is_accepted(folder, listening, settings[1])
        revocation_path.write_text(pki_chain.revocation_list(*NEW, ["1", serial], NOW))
        assert not await is_accepted(folder, listening, settings[1])
        revocation_path.write_text(pki_chain.revocation_list(*NEW, ["1"], NOW - datetime.timedelta(days=4000)))
        assert await is_accepted(folder, listening, settings[1]), "an expired list still lists"


async def test_a_restart_that_is_asked_for_counts_as_no_exit_and_ends_with_a_leader(etcd_cluster: EtcdCluster) -> None:
    settings = etcd_cluster(1)
    async with EtcdMember(settings[0]) as member:
        await write(member, "before")
        pid = member.pid
        await member.restart()
        assert (member.restarts, member.pid != pid) == (0, True)
        async with EtcdClient(member.socket_path) as client:
            assert (await client.read("before")).entry is not None
        member.kill()
        await write(member, "after an exit that nobody asked for")
        assert member.restarts == 1
