"""Keeps this node's mesh sandbox: whenever the ingress network gives the node an address, and only then.

The sandbox is one of the driver's, with a record like others. Ports that another program of the host holds are left out, named in
`problems`, and tried again every few seconds.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping

import structlog

from pyswarm_common.errors import PyswarmError
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.desired import SandboxRecord
from pyswarm_netplugin.memory import Memory
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.mesh.views import ingress_view, published_ports_of
from pyswarm_netplugin.published_ports.records import PublishedPort
from pyswarm_netplugin.published_ports.reservations import Reservations

RETRY_S = 5.0
_log = structlog.get_logger()


class MeshGateway:
    """The mesh sandbox's record among those of the driver, which calls this under its lock."""

    def __init__(self, node_id: str, memory: Memory, reservations: Reservations) -> None:
        self.node_id = node_id
        self.problems: dict[str, str] = {}
        """Why ports of the mesh (`tcp/8080`) cannot be published on this node."""
        self.is_complete = asyncio.Event()
        """Whether all ports that the mesh publishes are published here."""
        self._memory = memory
        self._reservations = reservations
        self._retrying: asyncio.Task[None] | None = None

    def record_for(
        self,
        views: Collection[NetworkView],
        records: Mapping[str, SandboxRecord],
        choose_address: Callable[[], str],
    ) -> SandboxRecord | None:
        """Return the record that shall be there, with the ports that could be had; None for no mesh sandbox. Blocking.

        Raises FailedPrecondition when there is no egress address left.
        """
        view = ingress_view(views, self.node_id)
        if view is None:
            self._tell({})
            return None
        known = records.get(MESH_SANDBOX_ID)
        return SandboxRecord(
            id=MESH_SANDBOX_ID,
            hostname="",
            attachments=(NetworkAttachment(network_id=view.network_id, address=view.gateways[self.node_id].address),),
            egress_address=known.egress_address if known is not None else choose_address(),
            ports=self._reserved(view, [record for record in records.values() if record.id != MESH_SANDBOX_ID]),
        )

    def keep(self, records: MutableMapping[str, SandboxRecord], record: SandboxRecord | None) -> bool:
        """Put the record where it belongs, on disk too; return whether that changed anything."""
        (self.is_complete.clear if self.problems else self.is_complete.set)()
        if records.get(MESH_SANDBOX_ID) == record:
            return False
        if record is None:
            del records[MESH_SANDBOX_ID]
            self._memory.drop_sandbox(MESH_SANDBOX_ID)
        else:
            self._memory.put_sandbox(record)
            records[MESH_SANDBOX_ID] = record
        self._reservations.keep_only(port for other in records.values() for port in other.ports)
        return True

    def begin(self, again: Callable[[], Awaitable[None]]) -> None:
        """From now on try again, every few seconds, while there are problems."""
        self._retrying = asyncio.create_task(self._retry(again), name="mesh ports")

    def end(self) -> None:
        """Try no more."""
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None

    async def _retry(self, again: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            if self.problems:
                with contextlib.suppress(PyswarmError, OSError):
                    await again()

    def _reserved(self, view: NetworkView, others: Collection[SandboxRecord]) -> tuple[PublishedPort, ...]:
        taken = {(port.protocol, port.host_port) for record in others for port in record.ports if not port.is_ipv6}
        problems = {}
        ports = []
        for port in published_ports_of(view):
            if (port.protocol, port.host_port) in taken:
                problems[f"{port.protocol}/{port.host_port}"] = "a container on this node has the port"
                continue
            try:
                self._reservations.reserve(port)
            except OSError as error:
                problems[f"{port.protocol}/{port.host_port}"] = f"another program on this node has the port ({error.strerror})"
            else:
                ports.append(port)
        self._tell(problems)
        return tuple(ports)

    def _tell(self, problems: dict[str, str]) -> None:
        for port, reason in problems.items():
            if self.problems.get(port) != reason:
                _log.warning("network.mesh_port_unavailable", port=port, reason=reason, retry_s=RETRY_S)
        for port in self.problems.keys() - problems.keys():
            _log.info("network.mesh_port_free", port=port)
        self.problems = problems
