"""The manager of this node, put together: etcd, store, loops, dispatcher, CA and node port.

Etcd, store and node port run as long as the node is a manager; loops and dispatcher run while it leads.
"""

import asyncio
import socket
from pathlib import Path

import msgspec

from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError
from pyswarm_manager.allocator.loop import Allocator
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_manager.ca.authority import CertificateAuthority
from pyswarm_manager.ca.bootstrap import NewCluster
from pyswarm_manager.dispatcher.loop import Dispatcher
from pyswarm_manager.dispatcher.node_port import NodePort
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.orchestrator.replicated.loop import ReplicatedOrchestrator
from pyswarm_manager.orchestrator.task_reaper.loop import TaskReaper
from pyswarm_manager.scheduler.loop import Scheduler
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.etcd_backend import EtcdBackend
from pyswarm_manager.store.store import Store
from pyswarm_node.http_protocol import peer_certificate
from pyswarm_node.membership import Membership, MembershipStore
from pyswarm_node.serving import serve


class ManagerRunner:
    """Everything of the manager. `new` is given once, by `swarm init`."""

    def __init__(
        self,
        *,
        files: MembershipStore,
        membership: Membership,
        runtime_dir: Path,
        listener: socket.socket,
        clock: Clock,
        new: NewCluster | None = None,
    ) -> None:
        self._files = files
        self._membership = membership
        self._runtime_dir = runtime_dir / "etcd"
        self._listener = listener
        self._clock = clock
        self._new = new
        self.services: ManagerServices | None = None
        self.is_ready = asyncio.Event()
        """Set once the store can be read, and for a new cluster once its first objects are stored."""

    async def run(self) -> None:
        """Run until cancelled. Raises PyswarmError when etcd cannot be started."""
        membership, address = self._membership, self._membership.advertise_address
        member = EtcdMember(
            EtcdSettings(
                name=membership.node_id,
                data_dir=self._files.etcd_dir,
                runtime_dir=self._runtime_dir,
                peer_address=address,
                peer_port=membership.etcd_peer_port,
                certificate_path=self._files.certificate_path,
                key_path=self._files.key_path,
                root_path=self._files.root_path,
            )
        )
        data_keys = decode_data_keys(self._files.load_data_keys())
        try:
            async with member, EtcdClient(member.socket_path) as client:
                store = Store(EtcdBackend(client), data_keys, membership.node_id, self._clock, on_leader_hang=member.kill)
                dispatcher = Dispatcher(store, self._clock)
                log_broker = LogBroker(store, dispatcher.send_to_node, self._clock)
                node_port = NodePort(
                    store=store,
                    authority=CertificateAuthority(store, self._clock),
                    dispatcher=dispatcher,
                    log_broker=log_broker,
                    peer_certificate=peer_certificate,
                )
                async with asyncio.TaskGroup() as group:
                    group.create_task(store.run())
                    await store.wait_loaded()
                    self.services = ManagerServices(store, log_broker, self._clock, lambda: store.leader_node_id)
                    if self._new is None:
                        self.is_ready.set()
                    group.create_task(store.run_while_leading(lambda: self._lead(store, dispatcher)))
                    await self.is_ready.wait()
                    group.create_task(serve(node_port.app, [self._listener], self._files.server_tls()))
        finally:
            self.services = None
            self._listener.close()  # also when nothing served on it yet: the next try binds the port again

    async def _lead(self, store: Store, dispatcher: Dispatcher) -> None:
        if self._new is not None:
            await store.update(self._new.store)
            self._new = None
            self.is_ready.set()
        await self._run_loops(store, dispatcher)

    async def _run_loops(self, store: Store, dispatcher: Dispatcher) -> None:
        async with asyncio.TaskGroup() as group:
            for loop in (
                ReplicatedOrchestrator(store, self._clock),
                Allocator(store, self._clock),
                Scheduler(store, self._clock),
                TaskReaper(store, self._clock),
                dispatcher,
            ):
                group.create_task(loop.run(), name=type(loop).__name__)


class _DataKeyFile(msgspec.Struct):
    """The keys of the store's envelopes as they lie on disk."""

    active_id: int
    keys: dict[int, bytes]


def encode_data_keys(keys: DataKeys) -> bytes:
    """Return the keys as the node's data key file holds them."""
    return msgspec.json.encode(_DataKeyFile(active_id=keys.active_id, keys=keys.keys))


def decode_data_keys(encoded: bytes) -> DataKeys:
    """Return the keys in a data key file. Raises PyswarmError when it is damaged."""
    try:
        file = msgspec.json.decode(encoded, type=_DataKeyFile)
    except msgspec.DecodeError as error:
        raise PyswarmError(f"the manager's data key file cannot be read: {error}") from error
    return DataKeys(file.keys, file.active_id)
