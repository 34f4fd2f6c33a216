"""The network driver: what the agent asks of a node's network.

    views (from the managers) ┐
                              ├─ desired ─┐
    sandboxes (from the agent)┘           ├─ plan ─ apply ─ the kernel
                   the kernel ─ observed ─┘

It remembers views and sandboxes on disk and finds everything else in the kernel, so it can be stopped, upgraded or killed at any
moment while containers go on talking. One lock orders all changes; a thread of its own carries them out. Each call here is the same
few steps: change what is held, converge, tell the DNS. Its parts:

    holdings.py      the views and sandboxes that are held, in memory as on disk
    way_out.py       this node's egress subnet, and its sandboxes' addresses there
    published_ports  host ports: chosen, and kept from others
    mesh/gateway.py  the mesh sandbox, one record more among the sandboxes
    secure/side.py   keys, and this node's end of encrypted overlays
    desired.py       what all of that comes to
    converger.py     the kernel: what it has, and making it so
    told_names.py    the DNS
"""

import contextlib
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from pyswarm_common.errors import NotFound, PyswarmError, Unavailable
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.driver_audit import DriverAudit
from pyswarm_netplugin.audit.watch import NetworkWatch
from pyswarm_netplugin.audit.yielding import BusyLock
from pyswarm_netplugin.converger import Converger
from pyswarm_netplugin.desired import DesiredBuilder, SandboxRecord, Underlay, has_egress
from pyswarm_netplugin.holdings import Holdings
from pyswarm_netplugin.kernel.interface import Kernel
from pyswarm_netplugin.kernel.linux import LinuxKernel
from pyswarm_netplugin.kernel.namespaces import remove_directory
from pyswarm_netplugin.memory import Memory
from pyswarm_netplugin.mesh.gateway import MeshGateway
from pyswarm_netplugin.name_service import DNS
from pyswarm_netplugin.operations import HOST_SCOPE, PORTS_SCOPE, overlay_scope, sandbox_scope
from pyswarm_netplugin.published_ports.holding import reserve_again, reserve_free
from pyswarm_netplugin.published_ports.records import PortRequest
from pyswarm_netplugin.published_ports.reservations import Reservations
from pyswarm_netplugin.sandboxes import Sandbox as Sandbox
from pyswarm_netplugin.sandboxes import SandboxRequest as SandboxRequest
from pyswarm_netplugin.sandboxes import sandbox_of
from pyswarm_netplugin.secure.operations import SECURE_SCOPE
from pyswarm_netplugin.secure.side import SecureSide
from pyswarm_netplugin.state import State
from pyswarm_netplugin.told_names import ToldNames
from pyswarm_netplugin.way_out import WayOut

MESH_SCOPE = "routing mesh"
_log = structlog.get_logger()
T = TypeVar("T")


class NetworkDriver:
    """The node's network. `start` first; `close` leaves everything running, `teardown` leaves nothing."""

    def __init__(
        self,
        *,
        instance_tag: str,
        data_dir: Path,
        runtime_dir: Path,
        data_path_address: str,
        data_path_port: int = 4789,
        egress_pool: str = "172.19.0.0/16",
        dns: DNS,
        node_id: str = "",
        make_kernel: Callable[[], Kernel] | None = None,
        watch: NetworkWatch | None = None,
    ) -> None:
        self._tag = naming.check_tag(instance_tag)
        self._netns_directory = runtime_dir / "netns"
        self._memory = Memory(data_dir / "network")
        self._data_path_address = data_path_address
        self._data_path_port = data_path_port
        self._held = Holdings(self._memory)
        self._way_out = WayOut(self._memory, egress_pool)
        self._names = ToldNames(dns, self._held, self._netns_directory)
        self._converger = Converger(make_kernel or partial(LinuxKernel, self._tag, self._netns_directory), self._tag)
        self._lock = BusyLock()
        self.secure = SecureSide(data_dir / "network/wireguard", data_path_address, self._converger, self._lock, self._converge)
        self._builder: DesiredBuilder | None = None
        self._half_removed: set[str] = set()
        self._reservations = Reservations()
        self.mesh = MeshGateway(node_id, self._memory, self._reservations)
        self._watch = watch
        self.auditing = DriverAudit(
            self._tag, self._netns_directory, self._lock, self._converger, self._desired, self.views, self._reservations.holds
        )

    async def start(self) -> None:
        """Adopt what runs, repair what is broken, remove what nothing wants, start the DNS.

        Raises FailedPrecondition when the host lacks the data path address, Unavailable when the DNS cannot be started. A network
        that cannot be repaired is logged, and fails who attaches to it.
        """
        async with self._lock:
            await self._converger.open()
            host = await self._converger.host_network(self._data_path_address)
            self._reservations.publishes_ipv6 = host.has_ipv6
            observed = await self._converger.observe()
            self._way_out.choose(host.routes)
            self._builder = DesiredBuilder(
                Underlay(address=self._data_path_address, port=self._data_path_port, mtu_bytes=host.mtu_bytes),
                self._way_out.egress(host.mtu_bytes),
            )
            self._held.restore(observed)
            ports = [port for record in self._held.records.values() for port in record.ports]
            await self._converger.in_thread(partial(reserve_again, self._reservations, ports))
            await self._ensure_mesh()
            await self._converge()
        await self._names.start()
        self.auditing.begin(self._watch)
        self.mesh.begin(self._retry_mesh_ports)

    async def in_host(self, function: Callable[[], T]) -> T:
        """Run a function on the thread that is in the host's namespace, between changes."""
        async with self._lock:
            self._converger.note_change()
            return await self._converger.in_thread(function)

    def is_on_networks(self) -> bool:
        """Whether a sandbox is on a network."""
        return any(self._held.records[sandbox_id].attachments for sandbox_id in self._held.sandbox_ids)

    def record(self, sandbox_id: str) -> SandboxRecord | None:
        """Return what is remembered of a sandbox that stands."""
        return self._held.records.get(sandbox_id)

    @property
    def underlay_mtu_bytes(self) -> int:
        """The MTU of the interface with the data path address; 0 before `start`."""
        return self._builder.underlay.mtu_bytes if self._builder is not None else 0

    def views(self) -> dict[str, NetworkView]:
        """Return the views that are applied, by network id: after `start`, those of the last life."""
        return dict(self._held.views)

    def sandboxes(self) -> frozenset[str]:
        """Return the ids of the sandboxes that stand."""
        return self._held.sandbox_ids

    async def apply_views(self, views: Mapping[str, NetworkView]) -> None:
        """Make the networks as these views say: the full set. A network that is not in it stays while a sandbox uses it.

        Raises Unavailable, naming each network that failed, after all others were changed; OSError before anything was.
        """
        changed: list[NetworkView] = []
        removed: list[str] = []
        try:
            async with self._lock:
                changed = await self._converger.in_thread(partial(self._held.want, views))
                failures = await self._ensure_mesh()
                removed = self._held.drop_unused_views()
                await self._converger.in_thread(partial(self._held.forget_views_on_disk, removed))
                failures |= await self._converge()
        finally:
            await self._names.views_changed(changed, removed)
        if failures:
            raise Unavailable("; ".join(f"{scope}: {error.message}" for scope, error in failures.items()))

    async def attach(self, request: SandboxRequest) -> Sandbox:
        """Make the sandbox, or find it made. Raises NotFound when a network's view was not applied, else why it cannot be."""
        naming.check_id(request.id, "sandbox")
        async with self._lock:
            record = self._record_for(request)
            if request.ports:
                record = await self._converger.in_thread(partial(self._with_ports, record, request.ports))
            known = self._held.records.get(record.id)
            self._held.put(record)
            error = self._error_for(record, await self._converge())
            if error is not None:
                del self._held.records[record.id]
                if known is not None:  # a container is in it: it keeps what it had
                    self._held.put(known)
                await self._forget([] if known is not None else [record.id])
                raise error
        await self._names.sandbox_made(record)
        return self._sandbox_of(record)

    def sandbox(self, sandbox_id: str) -> Sandbox | None:
        """Return a sandbox that stands."""
        record = self._held.records.get(sandbox_id)
        return None if record is None else self._sandbox_of(record)

    def _sandbox_of(self, record: SandboxRecord) -> Sandbox:
        return sandbox_of(record, self._names.netns_path(record.id), self._held.views)

    async def detach(self, sandbox_id: str) -> None:
        """Remove the sandbox; fine when there is none. Raises Unavailable when the kernel refuses; then try again."""
        await self._detach([sandbox_id])

    async def sweep(self, kept: AbstractSet[str]) -> None:
        """Remove all sandboxes but those with these ids."""
        await self._detach([sandbox_id for sandbox_id in self.sandboxes() if sandbox_id not in kept])

    async def close(self) -> None:
        """Let go: containers, their names and their traffic go on without this process."""
        self.auditing.end()
        self.mesh.end()
        await self._names.close()
        async with self._lock:
            self._reservations.keep_only(())
            await self._converger.close()

    async def teardown(self) -> None:
        """Remove every trace: sandboxes, overlays, the way out, the DNS process, what is on disk. Then it is closed.

        Two rounds: the kernel removes a namespace's links in its own time, the second round does not wait for that. The host goes
        on forwarding (`ip_forward`), as others may rely on it by now. Raises Unavailable for what could not be removed.
        """
        self.auditing.end()
        self.mesh.end()
        await self._names.stop()
        async with self._lock:
            self._held.forget_all()
            self._reservations.keep_only(())
            await self._converger.converge(State())
            await self._converger.observe()
            failures = await self._converger.converge(State())
            await self._converger.close()
            self._memory.clear()
            with contextlib.suppress(OSError):
                remove_directory(self._netns_directory)
        if failures:
            raise Unavailable("; ".join(f"{scope}: {error.message}" for scope, error in failures.items()))

    async def _converge(self) -> dict[str, PyswarmError]:
        await self.secure.prepare(self._held.views)
        return await self._converger.converge(self._desired())

    def _desired(self) -> State:
        if self._builder is None:
            raise RuntimeError("the network driver was not started")
        state = self._builder.build(self._held.views, self._held.records.values())
        return self.secure.added_to(state, self._held.views, self._builder.underlay.mtu_bytes)

    def _record_for(self, request: SandboxRequest) -> SandboxRecord:
        for attachment in request.attachments:
            if attachment.network_id not in self._held.views:
                raise NotFound(f"network {attachment.network_id} is not on this node: no view of it was applied")
        known = self._held.records.get(request.id)
        egress_address = known.egress_address if known is not None else ""
        views, is_published = self._held.views, bool(request.ports)
        has_way_out = request.placement.has_way_out or has_egress(request.attachments, views, is_published=is_published)
        if request.is_closed or not has_way_out:
            egress_address = ""
        elif not egress_address:
            egress_address = self._way_out.next_address(self._held.records.values())
        return SandboxRecord(
            id=request.id,
            hostname=request.hostname,
            attachments=request.attachments,
            egress_address=egress_address,
            search=request.search,
            nameservers=request.nameservers,
            placement=request.placement,
        )

    async def _keep_mesh(self) -> bool:
        records = self._held.records
        choose_address = partial(self._way_out.next_address, records.values())
        record_for = partial(self.mesh.record_for, self._held.wanted_views, records, choose_address)
        return self.mesh.keep(records, await self._converger.in_thread(record_for))

    async def _ensure_mesh(self) -> dict[str, PyswarmError]:
        """Keep the mesh sandbox as the views say; return why not. Other networks do not suffer for it."""
        try:
            await self._keep_mesh()
        except (PyswarmError, OSError) as error:
            _log.error("network.mesh_failed", error=str(error))
            return {MESH_SCOPE: error if isinstance(error, PyswarmError) else Unavailable(str(error))}
        return {}

    async def _retry_mesh_ports(self) -> None:
        async with self._lock:
            if await self._keep_mesh():
                await self._converge()

    def _with_ports(self, record: SandboxRecord, requests: tuple[PortRequest, ...]) -> SandboxRecord:
        known = self._held.records.get(record.id)
        if known is not None and known.ports:
            return msgspec.structs.replace(record, ports=known.ports)
        taken = [port for other in self._held.records.values() for port in other.ports]
        has_way_out = bool(record.egress_address)
        ports = reserve_free(self._reservations, requests, taken, record.id, has_way_out=has_way_out)
        return msgspec.structs.replace(record, ports=ports)

    def _error_for(self, record: SandboxRecord, failures: Mapping[str, PyswarmError]) -> PyswarmError | None:
        scopes = [sandbox_scope(record.id), *(overlay_scope(a.network_id) for a in record.attachments)]
        if any(self._held.views[a.network_id].is_encrypted for a in record.attachments):
            scopes.insert(0, SECURE_SCOPE)
        if record.egress_address:
            scopes.append(HOST_SCOPE)
        if record.ports:
            scopes.append(PORTS_SCOPE)
        return next((failures[scope] for scope in scopes if scope in failures), None)

    async def _detach(self, sandbox_ids: list[str]) -> None:
        async with self._lock:
            popped = {sandbox_id for sandbox_id in sandbox_ids if self._held.records.pop(sandbox_id, None) is not None}
            self._half_removed |= popped
            known = [sandbox_id for sandbox_id in sandbox_ids if sandbox_id in self._half_removed]
        if not known:
            return
        await self._names.sandboxes_leave(known)
        async with self._lock:
            failures = await self._forget([sandbox_id for sandbox_id in known if sandbox_id not in self._held.records])
        broken = {sandbox_id: failures[sandbox_scope(sandbox_id)] for sandbox_id in known if sandbox_scope(sandbox_id) in failures}
        self._half_removed.difference_update(set(known) - set(broken))
        if broken:
            raise next(iter(broken.values()))

    async def _forget(self, sandbox_ids: list[str]) -> dict[str, PyswarmError]:
        self._held.forget_on_disk(sandbox_ids)
        removed = self._held.drop_unused_views()
        self._held.forget_views_on_disk(removed)
        failures = await self._converge()
        self._reservations.keep_only(port for record in self._held.records.values() for port in record.ports)
        if self.mesh.problems:  # a port that was this sandbox's may be the mesh's now
            await self._ensure_mesh()
            await self._converge()
        await self._names.views_changed([], removed)
        return failures
