"""Everything that runs because this node is in a cluster: its agent and netplugin, and on managers the manager."""

import asyncio
import random
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from pyswarm_agent.agent import Agent
from pyswarm_agent.container_config import NodeInfo
from pyswarm_agent.events import EventBus
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore
from pyswarm_agent.images.records import registry_auth_of_header
from pyswarm_agent.local_containers.keeper import LocalContainers
from pyswarm_agent.local_containers.overlay import OverlayNetworks
from pyswarm_agent.runtime import ContainerRuntime
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.session import client_tls
from pyswarm_agent.task_store import TaskStore
from pyswarm_agent.volumes import VolumeStore
from pyswarm_common.clock import Clock
from pyswarm_common.failpoints import failpoint
from pyswarm_common.objects import NodeDescription
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import ManagerAddress, NodeState
from pyswarm_netplugin.audit.watch import NetworkWatch
from pyswarm_netplugin.dns.client import DNSClient
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_netplugin.secure.records import Encryption
from pyswarm_node.addresses import join_port
from pyswarm_node.certificate_keeper import CertificateKeeper
from pyswarm_node.config import ENGINE_VERSION, DaemonConfig
from pyswarm_node.entering import ManagerDirectory
from pyswarm_node.hardware import describe_node
from pyswarm_node.manager_slot import ManagerSlot
from pyswarm_node.membership import Membership, MembershipStore
from pyswarm_node.serving import bind_tcp

if TYPE_CHECKING:
    from pyswarm_manager.api.manager_services import ManagerServices
    from pyswarm_manager.ca.bootstrap import NewCluster
    from pyswarm_manager.recovery.restoring import RestoredCluster
    from pyswarm_node.manager_runner import ManagerRunner

_log = structlog.get_logger()


@dataclass(frozen=True)
class LocalParts:
    """What a node has whether or not it is in a cluster."""

    images: ImageStore
    runtime: ContainerRuntime
    access: ContainerAccess
    health: HealthMonitors
    volumes: VolumeStore
    single: LocalContainers
    overlays: OverlayNetworks
    events: EventBus
    network_watch: NetworkWatch


class ClusterMember:
    """This node as a member of its cluster."""

    def __init__(
        self,
        *,
        config: DaemonConfig,
        files: MembershipStore,
        membership: Membership,
        local: LocalParts,
        clock: Clock,
        listener: socket.socket | None = None,
        new: "NewCluster | RestoredCluster | None" = None,
    ) -> None:
        self._config = config
        self._files = files
        self.membership = membership
        self._local = local
        self._clock = clock
        self._description = describe_node(
            hostname=config.hostname,
            engine_version=ENGINE_VERSION,
            data_path_address=membership.data_path_address,
            generic_resources=config.generic_resources,
            permissions=config.permissions,
        )
        self._listener = listener
        self._new = new
        self.manager = ManagerSlot(self._new_runner, clock, must_start=new is not None)
        self._asked_role = asyncio.Event()
        self._agent: Agent | None = None
        self.certificates = CertificateKeeper(
            files, lambda: self.membership, lambda *post: self.directory.post(*post), clock, random.random, self._describe_again
        )
        self.has_been_told = asyncio.Event()
        """Whether a manager has answered since this node started."""
        self._state: NodeState | None = None
        self._encryption = Encryption()
        self._network = NetworkDriver(
            instance_tag=config.instance_tag,
            data_dir=config.data_dir / "network",
            runtime_dir=config.runtime_dir,
            data_path_address=membership.data_path_address,
            data_path_port=membership.data_path_port,
            node_id=membership.node_id,
            dns=DNSClient(config.runtime_dir / "dns.sock", instance_tag=config.instance_tag, log_path=config.data_dir / "dns.log"),
            watch=local.network_watch,
        )

    @property
    def manager_services(self) -> "ManagerServices | None":
        """The manager's parts, once it serves."""
        runner = self.manager.runner
        return runner.services if runner is not None else None

    @property
    def encryption(self) -> str:
        """How this node carries encrypted overlays, or why it cannot."""
        return self._encryption.kind or self._encryption.problem

    async def wait_ready(self) -> None:
        """Return once the manager serves, or, on a worker, once a manager has told it what to follow."""
        await (self.manager.is_ready if self.membership.is_manager else self.has_been_told).wait()

    async def run(self) -> None:
        """Run until cancelled. Containers, sandboxes and names outlive it."""
        agent = self._agent = Agent(
            images=self._local.images,
            runtime=self._local.runtime,
            health=self._local.health,
            volumes=self._local.volumes,
            network=self._network,
            task_store=TaskStore(self._config.data_dir / "tasks"),
            clock=self._clock,
            description=self._describe,
            node=self._node_info,
            tls=self._client_tls,
            managers=lambda: self.membership.managers,
            engine_socket=self._config.api_socket,
            on_node_state=self._follow,
            attachments=self._local.overlays,
            incarnation=lambda: self.membership.incarnation,
            on_incarnation=lambda incarnation: self._remember(incarnation=incarnation),
        )
        if self.membership.is_manager:
            self.manager.fill()
        else:
            self._files.forget_manager()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.manager.run())
                group.create_task(self._keep_role())
                group.create_task(self.certificates.run())
                await self._network.start()
                self._encryption = await self._network.secure.encryption()
                group.create_task(self._local.overlays.serve(self._network, lambda *post: self.directory.post(*post)))
                group.create_task(agent.run())
        finally:
            await self._network.close()

    def _new_runner(self) -> "ManagerRunner":
        from pyswarm_manager.etcd.member import free_peer_port
        from pyswarm_node import manager_runner  # gRPC, store and loops, which workers shall not carry

        if not self.membership.etcd_peer_port:
            port = free_peer_port(self.membership.advertise_address)
            node_port = self.membership.listen_address.rpartition(":")[2]
            address = join_port(self.membership.advertise_address, node_port)
            self._remember(etcd_peer_port=port, node_address=address)
        listener, self._listener = self._listener or bind_tcp(self.membership.listen_address), None
        new, self._new = self._new, None
        return manager_runner.ManagerRunner(
            files=self._files,
            membership=self.membership,
            runtime_dir=self._config.runtime_dir,
            listener=listener,
            clock=self._clock,
            directory=self.directory,
            on_newer=self._follow_newer,
            keeper=self.certificates,
            pin_image=self._pin_image,
            new=new,
        )

    async def _pin_image(self, image: str, registry_auth: str) -> str:
        return await self._local.images.pin(image, auth=registry_auth_of_header(registry_auth))

    async def remove_everything(self) -> None:
        """When the node leaves, instead of `run`: no container, link or rule of the cluster stays; single containers do."""
        await self._network.start()
        for record in self._local.runtime.list():
            if self._local.single.get(record.config.id) is None:
                await self._local.runtime.remove(record.config.id)
                await self._local.volumes.remove_of(record.config.id)
        await self._network.teardown()

    def _describe(self) -> NodeDescription:
        address = self.membership.advertise_address
        return msgspec.structs.replace(
            self._description,
            address=address,
            tls=self.certificates.tls(),
            underlay_mtu_bytes=self._network.underlay_mtu_bytes,
            encryption=self._encryption.kind,
            wireguard_key=self._encryption.public_key,
            wireguard_port=self._encryption.port,
            encryption_problem=self._encryption.problem,
        )

    def _describe_again(self) -> None:
        if self._agent is not None:
            self._agent.describe_again()

    def _node_info(self) -> NodeInfo:
        own = self._description
        return NodeInfo(
            id=self.membership.node_id,
            hostname=own.hostname,
            architecture=own.architecture,
            os=own.os,
            permissions=own.permissions,
        )

    def _client_tls(self) -> ssl.SSLContext:
        files = self._files
        return client_tls(str(files.certificate_path), str(files.key_path), str(files.root_path))

    @property
    def directory(self) -> ManagerDirectory:
        """The managers that this node knows, for requests under its certificate."""
        return ManagerDirectory(self._dialled_managers, self._client_tls)

    def _dialled_managers(self) -> tuple[ManagerAddress, ...]:
        own = (ManagerAddress(node_id=self.membership.node_id, address=self.membership.node_address),)
        others = self.membership.other_managers
        return own + others if self.manager_services is not None else others

    async def _follow(self, state: NodeState) -> None:
        """Take in what the manager says of this node; one of a former incarnation of the cluster has no say."""
        if state.incarnation < self.membership.incarnation:
            return
        self._state = state
        self.has_been_told.set()
        self._remember(managers=state.managers or self.membership.managers, incarnation=state.incarnation)
        self.certificates.follow(state)
        self._asked_role.set()
        await self._network.secure.take_network_key(state.network_key)

    def _follow_newer(self, manager: ManagerAddress, incarnation: int) -> None:
        """Give up this manager: its cluster goes on without it, in a newer incarnation, of which that manager is one."""
        if incarnation <= self.membership.incarnation:
            return
        _log.error(
            "manager.superseded",
            hint=f"a new cluster was forced or restored at {manager.address} while this manager was away: this one ends, and the "
            "node becomes a worker of that cluster; if it is refused there: pyswarm swarm leave --force, and join again",
        )
        self._remember(managers=(manager,), incarnation=incarnation)
        self._state = NodeState(role="worker", managers=(manager,), heartbeat_period_s=1.0, incarnation=incarnation)
        self._asked_role.set()

    async def _keep_role(self) -> None:
        """Follow the role that the cluster gives this node: begin or end its manager."""
        while True:
            await self._asked_role.wait()
            self._asked_role.clear()
            state = self._state
            if state is None or state.role == self.membership.role:
                continue
            _log.info("node.role_changes", role=state.role)
            if state.role == "manager":
                await wait_first(self.certificates.ensure_role("manager"), self._asked_role.wait())
                if self._asked_role.is_set():
                    continue
                failpoint("promote/certified")
                self._remember(role="manager")
                failpoint("promote/remembered")
                self.manager.fill()
            else:
                await self.manager.empty()
                failpoint("demote/manager-ended")
                self._files.forget_manager()  # first: a worker could not open keys that are still locked
                failpoint("demote/forgotten")
                self._remember(role="worker", etcd_peer_port=0, node_address="")

    def _remember(self, **changes: Any) -> None:
        membership = msgspec.structs.replace(self.membership, **changes)
        if membership != self.membership:
            self._files.save(membership)
            self.membership = membership
