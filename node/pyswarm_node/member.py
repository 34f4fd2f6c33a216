"""Everything that runs because this node is in a cluster: its agent and netplugin, and on managers the manager."""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import structlog

from pyswarm_agent.agent import Agent
from pyswarm_agent.container_config import NodeInfo
from pyswarm_agent.images import ImageStore
from pyswarm_agent.runtime import ContainerRuntime
from pyswarm_agent.session import client_tls
from pyswarm_agent.task_store import TaskStore
from pyswarm_common.clock import Clock
from pyswarm_common.objects import NodeDescription
from pyswarm_common.wire import ManagerAddress
from pyswarm_netplugin.dns.client import DNSClient
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_node.config import ENGINE_VERSION, DaemonConfig
from pyswarm_node.hardware import describe_node
from pyswarm_node.membership import Membership, MembershipStore

if TYPE_CHECKING:
    from pyswarm_manager.api.manager_services import ManagerServices
    from pyswarm_manager.ca.bootstrap import NewCluster
    from pyswarm_node.manager_runner import ManagerRunner

_log = structlog.get_logger()


@dataclass(frozen=True)
class LocalParts:
    """What a node has whether or not it is in a cluster."""

    images: ImageStore
    runtime: ContainerRuntime


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
        new: "NewCluster | None" = None,
    ) -> None:
        self._config = config
        self._files = files
        self.membership = membership
        self._local = local
        self._clock = clock
        self._description = describe_node(
            hostname=config.hostname, engine_version=ENGINE_VERSION, data_path_address=membership.data_path_address
        )
        self._manager: ManagerRunner | None = None
        if listener is not None:
            from pyswarm_node import manager_runner  # gRPC, store and loops, which workers shall not carry

            self._manager = manager_runner.ManagerRunner(
                files=files, membership=membership, runtime_dir=config.runtime_dir, listener=listener, clock=clock, new=new
            )
        self._network = NetworkDriver(
            instance_tag=config.instance_tag,
            data_dir=config.data_dir / "network",
            runtime_dir=config.runtime_dir,
            data_path_address=membership.data_path_address,
            data_path_port=membership.data_path_port,
            dns=DNSClient(config.runtime_dir / "dns.sock", instance_tag=config.instance_tag, log_path=config.data_dir / "dns.log"),
        )

    @property
    def manager_services(self) -> "ManagerServices | None":
        """The manager's parts, once it serves."""
        return self._manager.services if self._manager is not None else None

    async def wait_ready(self) -> None:
        """Return once the manager serves, or at once on a worker."""
        if self._manager is not None:
            await self._manager.is_ready.wait()

    async def run(self) -> None:
        """Run until cancelled. Containers, sandboxes and names outlive it."""
        agent = Agent(
            images=self._local.images,
            runtime=self._local.runtime,
            network=self._network,
            task_store=TaskStore(self._config.data_dir / "tasks"),
            clock=self._clock,
            description=self._describe,
            node=self._node_info,
            tls=self._client_tls,
            managers=lambda: self.membership.managers,
            on_managers=self._remember_managers,
        )
        try:
            async with asyncio.TaskGroup() as group:
                if self._manager is not None:
                    group.create_task(self._manager.run())
                await self._network.start()
                group.create_task(agent.run())
        finally:
            await self._network.close()

    async def remove_everything(self) -> None:
        """When the node leaves, instead of `run`: no container, sandbox, link or rule of the cluster stays."""
        await self._network.start()
        for record in self._local.runtime.list():
            await self._local.runtime.remove(record.config.id)
        await self._network.teardown()

    def _describe(self) -> NodeDescription:
        return self._description

    def _node_info(self) -> NodeInfo:
        return NodeInfo(id=self.membership.node_id, hostname=self._description.hostname)

    def _client_tls(self) -> ssl.SSLContext:
        files = self._files
        return client_tls(str(files.certificate_path), str(files.key_path), str(files.root_path))

    def _remember_managers(self, managers: tuple[ManagerAddress, ...]) -> None:
        if managers and managers != self.membership.managers:
            self.membership = msgspec.structs.replace(self.membership, managers=managers)
            self._files.save(self.membership)
