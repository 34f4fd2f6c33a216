"""`swarm init --force-new-cluster`: this manager goes on alone with its data, after the others were lost.

    1. what was asked is written down (`force-new-cluster.json`), then the manager is stopped
    2. etcd runs once with --force-new-cluster, while nothing else runs      noted in the file, before anything is written
    3. etcd runs as ever; one transaction makes the others workers           forcing.py of the manager
    4. the file is removed

A node that is killed anywhere goes on at its next start: before the note of step 2 etcd is forced again, which changes nothing, as
nobody wrote in between; after it never again. Step 3 finds out for itself whether it was done. Containers are not touched.
"""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from pyswarm_common import pki
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Conflict, FailedPrecondition, PyswarmError, Unavailable
from pyswarm_common.failpoints import failpoint
from pyswarm_common.files import remove_for_good, write_atomically
from pyswarm_common.objects import Cluster, IssuedCertificate
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import ManagerAddress
from pyswarm_manager.ca.signing import issued, signing_in_force, trusted_roots
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.damage import has_served
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.recovery.bereavement import next_incarnation
from pyswarm_manager.recovery.forcing import ForcedCluster, Survivor, forsake_others
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.etcd_backend import EtcdBackend
from pyswarm_node.addresses import readdressed, split_port
from pyswarm_node.api.control import NOT_A_MANAGER
from pyswarm_node.daemon import Daemon
from pyswarm_node.key_file import SWARM_IS_LOCKED
from pyswarm_node.membership import Membership, MembershipStore

FORCE_TIMEOUT_S = 90.0
LEADER_POLL_S = 0.05
LEADER_TIMEOUT_S = 30.0

_log = structlog.get_logger()


async def force_new_cluster(daemon: Daemon, request: dict[str, Any]) -> str:
    """Let this manager go on alone; returns the node's id once it serves. `request`: the body of `POST /swarm/init`.

    Raises Unavailable when the node is no manager, Conflict when the cluster is well, and what keeps the manager from starting.
    """
    files, membership = daemon.files, daemon.files.load()
    if membership is None or not membership.is_manager:
        raise Unavailable(NOT_A_MANAGER)
    if files.is_locked:
        raise Unavailable(SWARM_IS_LOCKED)
    if not has_served(files.etcd_dir):
        raise FailedPrecondition("this manager never had the cluster's data: force the new cluster on another one")
    _refuse_if_led(daemon)
    _log.warning("swarm.force_new_cluster", node=membership.node_id)
    forced = ForcedCluster(incarnation=next_incarnation(membership.incarnation, daemon.clock.now_ns()))
    save_forced(files, forced)
    failpoint("force/asked")
    await daemon.end_member()
    membership = _alone(membership, request, daemon.config.instance_tag)
    files.save(membership)
    member = daemon.new_member(membership)
    daemon.start_member(member)
    daemon.keep_running()
    try:
        async with asyncio.timeout(FORCE_TIMEOUT_S):
            await member.wait_ready()
    except TimeoutError:
        why = member.manager.error or member.manager.progress
        raise Unavailable(f"the new cluster is not ready after {FORCE_TIMEOUT_S:g} s, it is tried further: {why}") from None
    return membership.node_id


def _refuse_if_led(daemon: Daemon) -> None:
    services = daemon.member.manager_services if daemon.member is not None else None
    if services is None or services.store.leader_node_id is None or services.store.is_leaderless:
        return
    managers = {node.id: node.manager.address for node in services.store.view.nodes if node.manager is not None}
    if len(managers) > 1:
        leader = services.store.leader_node_id
        raise Conflict(
            f"the swarm is led by node {leader} ({managers.get(leader, 'address unknown')}): more than half of its managers are "
            "there, so nothing needs to be forced. Remove managers that are lost with `pyswarm node demote NODE` and then "
            "`pyswarm node rm NODE`"
        )


def _alone(membership: Membership, request: dict[str, Any], instance_tag: str) -> Membership:
    advertise = str(request.get("AdvertiseAddr") or "")
    membership = readdressed(membership, split_port(advertise)[0] if advertise else "", instance_tag)
    listen = str(request.get("ListenAddr") or "")
    if listen and advertise:
        host, port = split_port(listen)
        membership = msgspec.structs.replace(membership, listen_address=f"{host}:{port}")
    own = ManagerAddress(node_id=membership.node_id, address=membership.node_address)
    return msgspec.structs.replace(membership, managers=(own,))


async def run_alone(files: MembershipStore, settings: EtcdSettings) -> None:
    """Make this etcd member the only one, if that was asked for and has not been done. Raises as `EtcdMember.start`."""
    asked = load_forced(files)
    if asked is None or asked.is_forced:
        return
    alone = EtcdMember(replace(settings, forces_a_new_cluster=True))
    async with alone, EtcdClient(alone.socket_path) as client:
        await wait_first(alone.wait_failed(), wait_leading(client))
        members = await client.members()
        if len(members) != 1:
            raise PyswarmError(f"etcd did not begin a cluster of its own: it has {len(members)} members")
    failpoint("force/alone")
    save_forced(files, msgspec.structs.replace(asked, is_forced=True))
    failpoint("force/noted")


async def forsake(
    files: MembershipStore, membership: Membership, settings: EtcdSettings, client: EtcdClient, data_keys: DataKeys, clock: Clock
) -> None:
    """Make this manager the only one in the store, if a new cluster was forced. Raises as `forsake_others`."""
    asked = load_forced(files)
    if asked is None:
        return
    await wait_leading(client)
    survivor = Survivor(membership.node_id, membership.node_address, settings.peer_url)

    def certify(cluster: Cluster) -> IssuedCertificate:
        return _renew_certificate(files, membership, cluster, clock.now_ns())

    cluster = await forsake_others(EtcdBackend(client), data_keys, survivor, asked, certify, clock.now_ns())
    failpoint("force/stored")
    (own,) = await client.members()
    if list(own.peerURLs) != [settings.peer_url]:
        await client.update_member(int(own.ID), settings.peer_url)
    failpoint("force/readdressed")
    remove_for_good(_path(files))
    _log.warning("swarm.new_cluster_forced", node=membership.node_id, incarnation=cluster.incarnation)


def _renew_certificate(files: MembershipStore, membership: Membership, cluster: Cluster, now_ns: int) -> IssuedCertificate:
    """Give this manager a certificate for its present addresses; returns what is kept of it."""
    key = files.private_key()
    identity = pki.NodeIdentity(node_id=membership.node_id, role="manager", cluster_id=cluster.id)
    addresses = (membership.advertise_address, membership.data_path_address, "127.0.0.1")
    certificate_pem = signing_in_force(cluster).sign(pki.new_signing_request(key), identity, addresses, now_ns)
    files.save_certificate(root_pem=trusted_roots(cluster), certificate_pem=certificate_pem, key_pem=key)
    return issued(certificate_pem, "manager")


async def wait_leading(client: EtcdClient) -> None:
    """Return once this member leads raft, which a lone one soon does. Raises Unavailable after `LEADER_TIMEOUT_S`."""
    try:
        async with asyncio.timeout(LEADER_TIMEOUT_S):
            while True:
                with contextlib.suppress(Unavailable):
                    if (await client.status()).is_leader:
                        return
                await asyncio.sleep(LEADER_POLL_S)
    except TimeoutError:
        raise Unavailable("etcd has no leader, though its member is alone") from None


def load_forced(files: MembershipStore) -> ForcedCluster | None:
    """Return what was asked of this node and is not finished. Raises PyswarmError when the file is damaged."""
    try:
        return msgspec.json.decode(_path(files).read_bytes(), type=ForcedCluster)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise PyswarmError(f"{_path(files)} cannot be read ({error}): remove it, and force the new cluster again") from error


def save_forced(files: MembershipStore, forced: ForcedCluster) -> None:
    """Write down what was asked, or how far it is."""
    write_atomically(_path(files), msgspec.json.encode(forced))


def _path(files: MembershipStore) -> Path:
    return files.folder / "force-new-cluster.json"
