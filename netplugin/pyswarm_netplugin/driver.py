"""The network driver: what the agent asks of a node's network.

    views (from the managers) ┐
                              ├─ desired ─┐
    sandboxes (from the agent)┘           ├─ plan ─ apply ─ the kernel
                   the kernel ─ observed ─┘

It remembers views and sandboxes on disk and finds everything else in the kernel, so it can be stopped, upgraded or killed at any
moment while containers go on talking. One lock orders all changes; a thread of its own carries them out.
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
from pyswarm_netplugin.desired import (
    DesiredBuilder,
    SandboxRecord,
    Underlay,
    has_egress,
)
from pyswarm_netplugin.dns.protocol import SandboxConfig
from pyswarm_netplugin.egress import choose_address, choose_subnet, gateway_of, random_ipv6_subnet
from pyswarm_netplugin.kernel.interface import Kernel
from pyswarm_netplugin.kernel.linux import LinuxKernel
from pyswarm_netplugin.kernel.namespaces import remove_directory
from pyswarm_netplugin.memory import EgressMemory, Memory
from pyswarm_netplugin.mesh.gateway import MeshGateway
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.name_service import DNS, Everything, NameService
from pyswarm_netplugin.names import records_of
from pyswarm_netplugin.operations import HOST_SCOPE, PORTS_SCOPE, overlay_scope, sandbox_scope
from pyswarm_netplugin.overlay_links import twin_with_prefix
from pyswarm_netplugin.published_ports.holding import reserve_again, reserve_free
from pyswarm_netplugin.published_ports.records import PortRequest
from pyswarm_netplugin.published_ports.reservations import Reservations
from pyswarm_netplugin.sandboxes import Sandbox as Sandbox
from pyswarm_netplugin.sandboxes import SandboxRequest as SandboxRequest
from pyswarm_netplugin.sandboxes import sandbox_of
from pyswarm_netplugin.secure.operations import SECURE_SCOPE
from pyswarm_netplugin.secure.side import SecureSide
from pyswarm_netplugin.state import Egress, State

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
        self._egress_pool = egress_pool
        self._names = NameService(dns, self._everything_named)
        self._dns = dns
        self._converger = Converger(make_kernel or partial(LinuxKernel, self._tag, self._netns_directory), self._tag)
        self._lock = BusyLock()
        self.secure = SecureSide(data_dir / "network/wireguard", data_path_address, self._converger, self._lock, self._converge)
        self._views: dict[str, NetworkView] = {}
        self._records: dict[str, SandboxRecord] = {}
        self._builder: DesiredBuilder | None = None
        self._wanted: frozenset[str] = frozenset()
        self._half_removed: set[str] = set()
        self._egress_subnet = ""
        self._last_egress_address = ""
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
            observed = await self._converger.observe()
            self._egress_subnet = self._choose_egress(host.routes)
            self._builder = DesiredBuilder(
                Underlay(address=self._data_path_address, port=self._data_path_port, mtu_bytes=host.mtu_bytes),
                self._egress_of(host.mtu_bytes),
            )
            self._views = self._memory.views()
            self._wanted = frozenset(self._views)
            self._adopt(observed)
            ports = [port for record in self._records.values() for port in record.ports]
            await self._converger.in_thread(partial(reserve_again, self._reservations, ports))
            await self._keep_mesh()
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
        return any(record.attachments for record in self._records.values() if record.id != MESH_SANDBOX_ID)

    def record(self, sandbox_id: str) -> SandboxRecord | None:
        """Return what is remembered of a sandbox that stands."""
        return self._records.get(sandbox_id)

    @property
    def underlay_mtu_bytes(self) -> int:
        """The MTU of the interface with the data path address; 0 before `start`."""
        return self._builder.underlay.mtu_bytes if self._builder is not None else 0

    def views(self) -> dict[str, NetworkView]:
        """Return the views that are applied, by network id: after `start`, those of the last life."""
        return dict(self._views)

    def sandboxes(self) -> frozenset[str]:
        """Return the ids of the sandboxes that stand."""
        return frozenset(self._records) - {MESH_SANDBOX_ID}

    async def apply_views(self, views: Mapping[str, NetworkView]) -> None:
        """Make the networks as these views say: the full set. A network that is not in it stays while a sandbox uses it.

        Raises Unavailable, naming each network that failed, after all others were changed.
        """
        async with self._lock:
            before = self._views
            merged = dict(before)
            for network_id, view in views.items():
                naming.check_id(network_id, "network")
                known = before.get(network_id)
                if known is not view and known != view:
                    merged[network_id] = view
            self._views = merged
            self._wanted = frozenset(views)
            await self._keep_mesh()
            removed = self._drop_unused_views()
            changed = [view for network_id, view in self._views.items() if before.get(network_id) is not view]
            await self._converger.in_thread(partial(self._remember_views, changed, removed))
            failures = await self._converge()
        await self._tell_views(changed, removed)
        if failures:
            raise Unavailable("; ".join(f"{scope}: {error.message}" for scope, error in failures.items()))

    async def attach(self, request: SandboxRequest) -> Sandbox:
        """Make the sandbox, or find it made. Raises NotFound when a network's view was not applied, else why it cannot be."""
        naming.check_id(request.id, "sandbox")
        async with self._lock:
            record = self._record_for(request)
            if request.ports:
                record = await self._converger.in_thread(partial(self._with_ports, record, request.ports))
            known = self._records.get(record.id)
            self._records[record.id] = record
            self._memory.put_sandbox(record)
            error = self._error_for(record, await self._converge())
            if error is not None:
                del self._records[record.id]
                if known is not None:  # a container is in it: it keeps what it had
                    self._records[record.id] = known
                    self._memory.put_sandbox(known)
                await self._forget([] if known is not None else [record.id])
                raise error
        path = self._netns_path(record.id)
        networks = tuple(attachment.network_id for attachment in record.attachments)
        await self._names.tell(partial(self._dns.add_sandbox, record.id, path, networks, record.search, record.nameservers))
        return self._sandbox_of(record)

    def sandbox(self, sandbox_id: str) -> Sandbox | None:
        """Return a sandbox that stands."""
        record = self._records.get(sandbox_id)
        return None if record is None else self._sandbox_of(record)

    def _sandbox_of(self, record: SandboxRecord) -> Sandbox:
        return sandbox_of(record, self._netns_path(record.id), self._views)

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
            self._records, self._views = {}, {}
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
        await self.secure.prepare(self._views)
        return await self._converger.converge(self._desired())

    def _desired(self) -> State:
        if self._builder is None:
            raise RuntimeError("the network driver was not started")
        state = self._builder.build(self._views, self._records.values())
        return self.secure.added_to(state, self._views, self._builder.underlay.mtu_bytes)

    def _choose_egress(self, routes: tuple[str, ...]) -> str:
        known = self._memory.egress()
        subnet = known.subnet or choose_subnet(self._egress_pool, routes)
        chosen = EgressMemory(subnet=subnet, ipv6_subnet=known.ipv6_subnet or random_ipv6_subnet())
        if chosen != known:
            self._memory.put_egress(chosen)
        return subnet

    def _egress_of(self, mtu_bytes: int) -> Egress:
        gateway = gateway_of(self._egress_subnet)
        ipv6_address = twin_with_prefix(self._memory.egress().ipv6_subnet, gateway)
        return Egress(address=gateway, ipv6_address=ipv6_address, mtu_bytes=mtu_bytes)

    def _adopt(self, observed: State) -> None:
        for sandbox_id, record in self._memory.sandboxes().items():
            lost = [a.network_id for a in record.attachments if a.network_id not in self._views]
            if sandbox_id in observed.sandboxes and not lost:
                self._records[sandbox_id] = record
            else:
                _log.warning("network.sandbox_lost", sandbox=sandbox_id, networks_without_view=lost)
                self._memory.drop_sandbox(sandbox_id)

    def _remember_views(self, changed: list[NetworkView], removed: list[str]) -> None:
        for view in changed:
            self._memory.put_view(view)
        for network_id in removed:
            self._memory.drop_view(network_id)

    async def _tell_views(self, changed: list[NetworkView], removed: list[str]) -> None:
        calls = [partial(self._dns.set_network, view.network_id, records_of(view), view.name) for view in changed]
        removals = [partial(self._dns.remove_network, network_id) for network_id in removed]
        if not calls and not removals:
            return
        try:
            await self._names.tell(*calls, *removals)
        except Unavailable as error:
            _log.warning("network.names_unavailable", error=error.message)

    def _record_for(self, request: SandboxRequest) -> SandboxRecord:
        for attachment in request.attachments:
            if attachment.network_id not in self._views:
                raise NotFound(f"network {attachment.network_id} is not on this node: no view of it was applied")
        known = self._records.get(request.id)
        egress_address = known.egress_address if known is not None else ""
        has_way_out = request.placement.has_way_out or has_egress(request.attachments, self._views)
        if request.is_closed or not has_way_out:
            egress_address = ""
        elif not egress_address:
            egress_address = self._next_egress_address()
        return SandboxRecord(
            id=request.id,
            hostname=request.hostname,
            attachments=request.attachments,
            egress_address=egress_address,
            search=request.search,
            nameservers=request.nameservers,
            placement=request.placement,
        )

    def _next_egress_address(self) -> str:
        used = [record.egress_address for record in self._records.values() if record.egress_address]
        self._last_egress_address = choose_address(self._egress_subnet, used, self._last_egress_address)
        return self._last_egress_address

    async def _keep_mesh(self) -> bool:
        wanted = [view for network_id, view in self._views.items() if network_id in self._wanted]
        record_for = partial(self.mesh.record_for, wanted, self._records, self._next_egress_address)
        return self.mesh.keep(self._records, await self._converger.in_thread(record_for))

    async def _retry_mesh_ports(self) -> None:
        async with self._lock:
            if await self._keep_mesh():
                await self._converge()

    def _with_ports(self, record: SandboxRecord, requests: tuple[PortRequest, ...]) -> SandboxRecord:
        known = self._records.get(record.id)
        if known is not None and known.ports:
            return msgspec.structs.replace(record, ports=known.ports)
        taken = [port for other in self._records.values() for port in other.ports]
        return msgspec.structs.replace(record, ports=reserve_free(self._reservations, requests, taken, record.id))

    def _error_for(self, record: SandboxRecord, failures: Mapping[str, PyswarmError]) -> PyswarmError | None:
        scopes = [sandbox_scope(record.id), *(overlay_scope(a.network_id) for a in record.attachments)]
        if any(self._views[a.network_id].is_encrypted for a in record.attachments):
            scopes.insert(0, SECURE_SCOPE)
        if record.egress_address:
            scopes.append(HOST_SCOPE)
        if record.ports:
            scopes.append(PORTS_SCOPE)
        return next((failures[scope] for scope in scopes if scope in failures), None)

    async def _detach(self, sandbox_ids: list[str]) -> None:
        async with self._lock:
            popped = {sandbox_id for sandbox_id in sandbox_ids if self._records.pop(sandbox_id, None) is not None}
            self._half_removed |= popped
            known = [sandbox_id for sandbox_id in sandbox_ids if sandbox_id in self._half_removed]
        if not known:
            return
        try:
            await self._names.tell(*(partial(self._dns.remove_sandbox, sandbox_id) for sandbox_id in known))
        except Unavailable as error:
            _log.warning("network.names_unavailable", error=error.message)
        async with self._lock:
            failures = await self._forget([sandbox_id for sandbox_id in known if sandbox_id not in self._records])
        broken = {sandbox_id: failures[sandbox_scope(sandbox_id)] for sandbox_id in known if sandbox_scope(sandbox_id) in failures}
        self._half_removed.difference_update(set(known) - set(broken))
        if broken:
            raise next(iter(broken.values()))

    async def _forget(self, sandbox_ids: list[str]) -> dict[str, PyswarmError]:
        for sandbox_id in sandbox_ids:
            self._memory.drop_sandbox(sandbox_id)
        removed = self._drop_unused_views()
        self._remember_views([], removed)
        failures = await self._converge()
        self._reservations.keep_only(port for record in self._records.values() for port in record.ports)
        await self._tell_views([], removed)
        return failures

    def _drop_unused_views(self) -> list[str]:
        used = {attachment.network_id for record in self._records.values() for attachment in record.attachments}
        removed = [network_id for network_id in self._views if network_id not in self._wanted | used]
        self._views = {network_id: view for network_id, view in self._views.items() if network_id not in removed}
        return removed

    def _everything_named(self) -> Everything:
        configs = {
            record.id: SandboxConfig(
                self._netns_path(record.id),
                tuple(a.network_id for a in record.attachments),
                record.search,
                record.nameservers,
            )
            for record in self._records.values()
            if record.id != MESH_SANDBOX_ID
        }
        records = {network_id: records_of(view) for network_id, view in self._views.items()}
        return records, configs, {network_id: view.name for network_id, view in self._views.items()}

    def _netns_path(self, sandbox_id: str) -> str:
        return str(self._netns_directory / (naming.SANDBOX_PREFIX + sandbox_id))
