"""The manager of this node, put together: etcd, store, loops, dispatcher, CA and node port.

Etcd, store and node port run as long as the node is a manager; loops and dispatcher run while it leads.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.containment import contained
from pyswarm_common.errors import Unavailable
from pyswarm_common.failpoints import failpoint
from pyswarm_common.files import write_atomically
from pyswarm_common.pki_chain import empty_revocation_list
from pyswarm_common.waiting import run_with_farewell, wait_first
from pyswarm_common.wire import EnterAnswer, EnterPhase, EnterRequest, ManagerAddress
from pyswarm_manager.api.image_pinning import ImagePinner, ImagePinning
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_manager.ca.authority import CertificateAuthority
from pyswarm_manager.ca.bootstrap import NewCluster
from pyswarm_manager.ca.revocation import RevocationFileKeeper
from pyswarm_manager.ca.rotation.loop import RootRotator
from pyswarm_manager.ca.signing import moment
from pyswarm_manager.dispatcher.loop import Dispatcher
from pyswarm_manager.dispatcher.node_port import NodePort
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.damage import (
    DataUnusable,
    MemberRemoved,
    entering_anew,
    forget_data,
    has_served,
    only_copy_lost,
    set_data_aside,
)
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.etcd.trouble import member_trouble
from pyswarm_manager.forwarding.channel import ManagerChannel, RenewedTLS
from pyswarm_manager.forwarding.engine_port import EnginePort
from pyswarm_manager.forwarding.leader_requests import LeaderRequests
from pyswarm_manager.forwarding.leader_view import LeaderView
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.network_attachments import NetworkAttachments
from pyswarm_manager.orchestration import orchestration_loops
from pyswarm_manager.peer_health import HealthClient, PeerHealth
from pyswarm_manager.reach.tunnels import NodeTunnels
from pyswarm_manager.recovery.restoring import RestoredCluster, write_restored
from pyswarm_manager.role_manager.admission import Admission
from pyswarm_manager.role_manager.loop import RoleManager
from pyswarm_manager.role_manager.members import EtcdMembers
from pyswarm_manager.store.backend import MemberStatus
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.etcd_backend import EtcdBackend
from pyswarm_manager.store.leadership import no_leader
from pyswarm_manager.store.store import Store
from pyswarm_node.certificate_keeper import CertificateKeeper
from pyswarm_node.entering import ManagerDirectory
from pyswarm_node.etcd_roots import EtcdRoots
from pyswarm_node.forcing import forsake, run_alone, wait_leading
from pyswarm_node.garbage import garbage_collected_rarely
from pyswarm_node.http_protocol import follow_pings, peer_certificate
from pyswarm_node.key_locker import KeyLocker
from pyswarm_node.membership import Membership, MembershipStore
from pyswarm_node.node_tls import NodePortTLS
from pyswarm_node.serving import serve

ENTER_PAUSE_S = 0.3
VOTER_POLL_S = 1.0

_log = structlog.get_logger()


class ManagerRunner:
    """Everything of the manager. `new` is given once, by `swarm init` and `restore`; `directory` reaches the other managers."""

    def __init__(
        self,
        *,
        files: MembershipStore,
        membership: Membership,
        runtime_dir: Path,
        listener: socket.socket,
        clock: Clock,
        directory: ManagerDirectory,
        on_newer: Callable[[ManagerAddress, int], None],
        keeper: CertificateKeeper,
        new: NewCluster | RestoredCluster | None = None,
        pin_image: ImagePinner | None = None,
    ) -> None:
        self._files = files
        self._membership = membership
        self._runtime_dir = runtime_dir / "etcd"
        self._listener = listener
        self._clock = clock
        self._directory = directory
        self._on_newer = on_newer
        self._new = new
        self._pin_image = pin_image
        self._etcd_roots = EtcdRoots(keeper, clock)
        self.services: ManagerServices | None = None
        self.is_ready = asyncio.Event()
        """Set once the store can be read, and for a new cluster once its first objects are stored."""
        self.progress = ""
        """What is waited for until then."""

    async def run(self) -> None:
        """Run until cancelled. Raises PyswarmError when etcd cannot be started, or the cluster does not want this manager."""
        data_dir = self._files.etcd_dir
        try:
            with garbage_collected_rarely():
                await contained(self._run())
        except* MemberRemoved:
            set_data_aside(data_dir, "removed")
            raise
        except* DataUnusable as problems:
            if not self._membership.other_managers:
                raise only_copy_lost(problems, data_dir) from None
            aside = set_data_aside(data_dir)  # the others have it all: the next try enters as a new member
            raise entering_anew(problems, aside) from None
        finally:
            self.services = None
            self._listener.close()  # also when nothing served on it yet: the next try binds the port again

    async def _run(self) -> None:
        if not (self._files.certificates / "peers.crl").exists():
            self._write_revocation_file(empty_revocation_list(moment(self._clock.now_ns())))
        settings = await self._settle_member()
        await run_alone(self._files, settings)
        member = EtcdMember(settings)
        async with member, EtcdClient(member.socket_path) as client:
            failpoint("enter/started")
            await wait_first(member.wait_failed(), self._wait_voter(client))
            failpoint("enter/votes")
            await wait_first(member.wait_failed(), self._recover(client, settings))
            await run_with_farewell(self._run_with(member, client), self._hand_over)

    async def _recover(self, client: EtcdClient, settings: EtcdSettings) -> None:
        """Write what a restore or a forced new cluster changes in the store, before it runs."""
        data_keys = DataKeys.decode(self._files.load_data_keys())
        if isinstance(self._new, RestoredCluster):
            await wait_leading(client)
            await write_restored(EtcdBackend(client), data_keys, self._new)
        await forsake(self._files, self._membership, settings, client, data_keys, self._clock)

    async def _hand_over(self) -> None:
        """Let another manager lead before this one ends."""
        if self.services is not None:
            await self.services.store.hand_over()

    def _services_now(self) -> ManagerServices:
        if self.services is None:
            raise no_leader()
        return self.services

    async def _settle_member(self) -> EtcdSettings:
        """Return how etcd is to be started: as a new cluster, as it was, or, without data, as a new member that was announced."""
        settings = self._settings()
        if self._new is not None or has_served(settings.data_dir):
            return settings
        forget_data(settings.data_dir)
        answer = await self._wait_phase("start")
        failpoint("enter/announced")
        self._files.save_data_keys(answer.data_keys, answer.unlock_key)
        failpoint("enter/data-keys-saved")
        return replace(settings, other_members=answer.other_members, initial_cluster_state="existing")

    def _settings(self) -> EtcdSettings:
        membership, files = self._membership, self._files
        return EtcdSettings(
            name=membership.node_id,
            data_dir=files.etcd_dir,
            runtime_dir=self._runtime_dir,
            peer_address=membership.advertise_address,
            peer_port=membership.etcd_peer_port,
            certificate_path=files.certificate_path,
            key_path=files.key_path,
            root_path=files.root_path,
            revocation_path=files.certificates / "peers.crl",
        )

    async def _wait_phase(self, phase: EnterPhase, member_id: int = 0) -> EnterAnswer:
        """Say to the cluster that this manager is here, until it answers with this phase; `member_id`: of the member that runs.

        Raises MemberRemoved when the cluster expects another member, and what refuses this manager for good.
        """
        peer_url, has_data = self._settings().peer_url, member_id != 0
        request = EnterRequest(address=self._membership.node_address, etcd_peer_url=peer_url, has_data=has_data)
        while True:
            try:
                answer = await self._directory.enter(request)
                if answer.phase == phase:
                    return answer
                if answer.phase == "start" and answer.etcd_member_id != member_id:
                    raise MemberRemoved("the cluster has removed this manager's etcd member while it was away")
                self.progress = answer.message
            except Unavailable as error:
                self.progress = error.message
                _log.info("manager.entering", waits_for=error.message)
            await self._clock.sleep(ENTER_PAUSE_S)

    async def _wait_voter(self, client: EtcdClient) -> None:
        """Return once the member votes: before that it answers next to nothing."""
        while (status := await self._status(client)).is_learner:
            await wait_first(self._wait_phase("member", status.member_id), self._clock.sleep(VOTER_POLL_S))

    async def _status(self, client: EtcdClient) -> MemberStatus:
        """Return what the member says of itself, once it says something."""
        while True:
            with contextlib.suppress(Unavailable):
                return await client.status()
            await self._clock.sleep(ENTER_PAUSE_S)

    async def _run_with(self, member: EtcdMember, client: EtcdClient) -> None:
        data_keys = DataKeys.decode(self._files.load_data_keys())
        store = Store(EtcdBackend(client), data_keys, self._membership.node_id, self._clock, on_leader_hang=member.kill)
        dispatcher = Dispatcher(store, self._clock)
        log_broker = LogBroker(store, dispatcher.send_to_node, self._clock)
        tunnels = NodeTunnels(self._membership.node_id, self._clock, dispatcher.send_to_node)
        store.trouble = lambda: member_trouble(member)
        health_client = HealthClient(self._directory.tls)
        peer_health = PeerHealth(store, self._membership.node_id, health_client, self._clock, self._on_newer)
        role_manager = RoleManager(store, EtcdMembers(client), self._clock, peer_health.unreachable)
        channel = ManagerChannel(RenewedTLS(self._directory.tls, (self._files.certificate_path, self._files.root_path)))
        leader = LeaderView(store, self._clock, peer_health.told_leader)
        leader_requests = LeaderRequests(store, channel, self._clock, leader)
        node_port = NodePort(
            store=store,
            authority=CertificateAuthority(store, self._clock),
            admissions=Admission(store, role_manager, self._files.load_data_keys(), self._clock),
            attachments=NetworkAttachments(store, self._clock),
            dispatcher=dispatcher,
            log_broker=log_broker,
            tunnels=tunnels,
            peer_certificate=peer_certificate,
            forward=leader_requests.forward,
            health=peer_health.own,
            engine=partial(EnginePort, self._services_now),
            follow_pings=follow_pings,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(member.wait_failed())
            group.create_task(store.run())
            await store.wait_loaded()
            self.services = ManagerServices(
                store,
                log_broker,
                self._clock,
                lambda: leader.node_id,
                peer_health.reachability,
                leader_requests,
                tunnels,
                ImagePinning(self._pin_image, self._clock) if self._pin_image is not None else None,
            )
            group.create_task(peer_health.run())
            if self._new is None:
                self.is_ready.set()
            group.create_task(store.run_while_leading(lambda: self._lead(store, dispatcher, role_manager)))
            await self.is_ready.wait()
            group.create_task(serve(node_port.app, [self._listener], NodePortTLS(self._files).context))
            group.create_task(RevocationFileKeeper(store, self._clock, self._write_revocation_file).run())
            group.create_task(self._etcd_roots.run(member, store))
            group.create_task(self._announce(client))
            group.create_task(KeyLocker(store, self._files, self._clock).run())
            group.create_task(channel.run())

    def _write_revocation_file(self, pem: str) -> None:
        write_atomically(self._files.certificates / "peers.crl", pem.encode(), mode=0o644)

    async def _announce(self, client: EtcdClient) -> None:
        """Make the cluster know this manager's present addresses."""
        await self._wait_phase("member", (await self._status(client)).member_id)

    async def _lead(self, store: Store, dispatcher: Dispatcher, role_manager: RoleManager) -> None:
        if self._new is not None:
            await store.update(self._new.store)
            self._new = None
            self.is_ready.set()
        await self._run_loops(store, dispatcher, role_manager)

    async def _run_loops(self, store: Store, dispatcher: Dispatcher, role_manager: RoleManager) -> None:
        async with asyncio.TaskGroup() as group:
            for loop in orchestration_loops(store, self._clock):
                group.create_task(loop.run(), name=type(loop).__name__)
            for part in (role_manager, RootRotator(store), dispatcher):
                group.create_task(part.run(), name=type(part).__name__)
