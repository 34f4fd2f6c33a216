"""The network driver: what the agent asks of a node's network.

    views (from the managers) ┐
                              ├─ desired ─┐
    sandboxes (from the agent)┘           ├─ plan ─ apply ─ the kernel
                   the kernel ─ observed ─┘

It remembers views and sandboxes on disk and finds everything else in the kernel, so it can be stopped, upgraded or killed at any
moment while containers go on talking. One lock orders all changes; a thread of its own carries them out.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path

import msgspec
import structlog

from pyswarm_common.errors import NotFound, PyswarmError, Unavailable
from pyswarm_common.objects import NetworkAttachment, Record
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin import naming
from pyswarm_netplugin.converger import Converger
from pyswarm_netplugin.desired import (
    RESOLV_CONF,
    DesiredBuilder,
    SandboxRecord,
    Underlay,
    has_egress,
    hosts_file,
)
from pyswarm_netplugin.dns.protocol import SandboxConfig
from pyswarm_netplugin.egress import choose_address, choose_subnet, gateway_of
from pyswarm_netplugin.kernel.interface import Kernel
from pyswarm_netplugin.kernel.linux import LinuxKernel
from pyswarm_netplugin.kernel.namespaces import remove_directory
from pyswarm_netplugin.memory import EgressMemory, Memory
from pyswarm_netplugin.name_service import DNS, Everything, NameService
from pyswarm_netplugin.names import records_of
from pyswarm_netplugin.operations import HOST_SCOPE, PORTS_SCOPE, overlay_scope, sandbox_scope
from pyswarm_netplugin.published_ports.allocation import allocate, random_start
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort
from pyswarm_netplugin.published_ports.reservations import Reservations
from pyswarm_netplugin.state import Egress, State

_log = structlog.get_logger()


class SandboxRequest(Record, frozen=True, kw_only=True):
    """A container's place in the network: `id` is the task's; interfaces eth0, eth1 … in the order of the attachments.

    `is_closed`: it has no way out. `ports` of the host are to lead to it.
    """

    id: str
    hostname: str
    attachments: tuple[NetworkAttachment, ...] = ()
    is_closed: bool = False
    ports: tuple[PortRequest, ...] = ()
    search: tuple[str, ...] = ()
    """Domains that its resolver may append to names."""
    nameservers: tuple[str, ...] = ()
    """Where its names are looked up that are none of its networks', from its namespace; () for the host's nameservers."""


class Sandbox(Record, frozen=True, kw_only=True):
    """A namespace that is ready: its path, and the contents of two files for the container.

    `address` is that of its way out, with prefix length, "" without one; `ports` of the host lead there.
    """

    id: str
    netns_path: str
    resolv_conf: str
    hosts: str
    address: str = ""
    ports: tuple[PublishedPort, ...] = ()
    network_names: dict[str, str] = {}
    """Names of the overlays that it is on, by id."""


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
        make_kernel: Callable[[], Kernel] | None = None,
    ) -> None:
        self._tag = naming.check_tag(instance_tag)
        self._netns_directory = runtime_dir / "netns"
        self._memory = Memory(data_dir / "network")
        self._data_path_address = data_path_address
        self._data_path_port = data_path_port
        self._egress_pool = egress_pool
        self._names = NameService(dns, self._everything_named)
        self._dns = dns
        self._converger = Converger(make_kernel or partial(LinuxKernel, self._tag, self._netns_directory))
        self._lock = asyncio.Lock()
        self._views: dict[str, NetworkView] = {}
        self._records: dict[str, SandboxRecord] = {}
        self._builder: DesiredBuilder | None = None
        self._wanted: frozenset[str] = frozenset()
        self._half_removed: set[str] = set()
        self._egress_subnet = ""
        self._last_egress_address = ""
        self._reservations = Reservations()

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
                Egress(address=gateway_of(self._egress_subnet), mtu_bytes=host.mtu_bytes),
            )
            self._views = self._memory.views()
            self._wanted = frozenset(self._views)
            self._adopt(observed)
            await self._converger.in_thread(self._reserve_again)
            await self._converge()
        await self._names.start()

    def views(self) -> dict[str, NetworkView]:
        """Return the views that are applied, by network id: after `start`, those of the last life."""
        return dict(self._views)

    def sandboxes(self) -> frozenset[str]:
        """Return the ids of the sandboxes that stand."""
        return frozenset(self._records)

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
            self._records[record.id] = record
            self._memory.put_sandbox(record)
            error = self._error_for(record, await self._converge())
            if error is not None:
                del self._records[record.id]
                await self._forget([record.id])
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
        return Sandbox(
            id=record.id,
            netns_path=self._netns_path(record.id),
            resolv_conf=RESOLV_CONF,
            hosts=hosts_file(record),
            address=record.egress_address,
            ports=record.ports,
            network_names={a.network_id: self._views[a.network_id].name for a in record.attachments if a.network_id in self._views},
        )

    async def detach(self, sandbox_id: str) -> None:
        """Remove the sandbox; fine when there is none. Raises Unavailable when the kernel refuses; then try again."""
        await self._detach([sandbox_id])

    async def sweep(self, kept: AbstractSet[str]) -> None:
        """Remove all sandboxes but those with these ids."""
        await self._detach([sandbox_id for sandbox_id in self._records if sandbox_id not in kept])

    async def close(self) -> None:
        """Let go: containers, their names and their traffic go on without this process."""
        await self._names.close()
        async with self._lock:
            self._reservations.keep_only(())
            await self._converger.close()

    async def teardown(self) -> None:
        """Remove every trace: sandboxes, overlays, the way out, the DNS process, what is on disk. Then it is closed.

        Two rounds: the kernel removes a namespace's links in its own time, the second round does not wait for that. The host goes
        on forwarding (`ip_forward`), as others may rely on it by now. Raises Unavailable for what could not be removed.
        """
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
        if self._builder is None:
            raise RuntimeError("the network driver was not started")
        return await self._converger.converge(self._builder.build(self._views, self._records.values()))

    def _choose_egress(self, routes: tuple[str, ...]) -> str:
        subnet = self._memory.egress().subnet
        if not subnet:
            subnet = choose_subnet(self._egress_pool, routes)
            self._memory.put_egress(EgressMemory(subnet=subnet))
        return subnet

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
        if request.is_closed or not has_egress(request.attachments, self._views):
            egress_address = ""
        elif not egress_address:
            used = [record.egress_address for record in self._records.values() if record.egress_address]
            egress_address = choose_address(self._egress_subnet, used, self._last_egress_address)
            self._last_egress_address = egress_address
        return SandboxRecord(
            id=request.id,
            hostname=request.hostname,
            attachments=request.attachments,
            egress_address=egress_address,
            search=request.search,
            nameservers=request.nameservers,
        )

    def _with_ports(self, record: SandboxRecord, requests: tuple[PortRequest, ...]) -> SandboxRecord:
        known = self._records.get(record.id)
        if known is not None and known.ports:
            return msgspec.structs.replace(record, ports=known.ports)
        taken = [port for other in self._records.values() for port in other.ports]
        try:
            ports = allocate(requests, taken, self._reservations.reserve, random_start(record.id))
        except PyswarmError:
            self._reservations.keep_only(taken)
            raise
        return msgspec.structs.replace(record, ports=ports)

    def _reserve_again(self) -> None:
        for port in (port for record in self._records.values() for port in record.ports):
            try:
                self._reservations.reserve(port)
            except OSError as error:
                _log.warning("network.port_not_reserved", port=port.host_port, protocol=port.protocol, error=str(error))

    def _error_for(self, record: SandboxRecord, failures: Mapping[str, PyswarmError]) -> PyswarmError | None:
        scopes = [sandbox_scope(record.id), *(overlay_scope(a.network_id) for a in record.attachments)]
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
        }
        records = {network_id: records_of(view) for network_id, view in self._views.items()}
        return records, configs, {network_id: view.name for network_id, view in self._views.items()}

    def _netns_path(self, sandbox_id: str) -> str:
        return str(self._netns_directory / (naming.SANDBOX_PREFIX + sandbox_id))
