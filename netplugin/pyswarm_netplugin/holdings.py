"""What the driver goes by: the views of networks and the records of sandboxes, in memory as on disk. No kernel here.

Under the driver's lock. What is on disk is written before the kernel is changed, so that a daemon that was killed in between finds
what it was about to do.
"""

from collections.abc import Iterable, Mapping

import structlog

from pyswarm_common.wire import NetworkView
from pyswarm_netplugin import naming
from pyswarm_netplugin.desired import SandboxRecord
from pyswarm_netplugin.memory import Memory
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.state import State

_log = structlog.get_logger()


class Holdings:
    """`restore` first. `views` by network id, `records` by sandbox id, the mesh sandbox's among them."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.views: dict[str, NetworkView] = {}
        self.records: dict[str, SandboxRecord] = {}
        self._wanted: frozenset[str] = frozenset()
        """The networks that the manager wants here; of others the views stay while a sandbox uses them."""

    def restore(self, observed: State) -> None:
        """Take up what the last life remembered, as far as the kernel has it still. Blocking."""
        self.views = self._memory.views()
        self._wanted = frozenset(self.views)
        for sandbox_id, record in self._memory.sandboxes().items():
            lost = [a.network_id for a in record.attachments if a.network_id not in self.views]
            if sandbox_id in observed.sandboxes and not lost:
                self.records[sandbox_id] = record
            else:
                _log.warning("network.sandbox_lost", sandbox=sandbox_id, networks_without_view=lost)
                self._memory.drop_sandbox(sandbox_id)

    def forget_all(self) -> None:
        """Hold nothing any more; what is on disk stays."""
        self.records, self.views = {}, {}

    @property
    def sandbox_ids(self) -> frozenset[str]:
        """The ids of the sandboxes that were asked for: all but the mesh's."""
        return frozenset(self.records) - {MESH_SANDBOX_ID}

    @property
    def wanted_views(self) -> list[NetworkView]:
        """The views of the networks that the manager wants here."""
        return [view for network_id, view in self.views.items() if network_id in self._wanted]

    def put(self, record: SandboxRecord) -> None:
        """Hold a sandbox, or what it is now. Raises OSError; then it is not held."""
        self._memory.put_sandbox(record)
        self.records[record.id] = record

    def want(self, views: Mapping[str, NetworkView]) -> list[NetworkView]:
        """Take the manager's views, the full set, and return those that are new. Nothing is dropped. Blocking.

        A view that says the same as before stays the same object. Raises InvalidArgument for an id that cannot name a file, and
        OSError; then nothing is held that was not, so that the next try finds the same news.
        """
        merged, changed = dict(self.views), []
        for network_id, view in views.items():
            naming.check_id(network_id, "network")
            known = merged.get(network_id)
            if known is not view and known != view:
                merged[network_id] = view
                changed.append(view)
        for view in changed:
            self._memory.put_view(view)
        self.views, self._wanted = merged, frozenset(views)
        return changed

    def drop_unused_views(self) -> list[str]:
        """Hold no view any more that neither the manager nor a sandbox wants; returns their networks. On disk they stay."""
        used = {attachment.network_id for record in self.records.values() for attachment in record.attachments}
        removed = [network_id for network_id in self.views if network_id not in self._wanted | used]
        self.views = {network_id: view for network_id, view in self.views.items() if network_id not in removed}
        return removed

    def forget_views_on_disk(self, network_ids: Iterable[str]) -> None:
        """Forget views that are held no more. Blocking."""
        for network_id in network_ids:
            self._memory.drop_view(network_id)

    def forget_on_disk(self, sandbox_ids: Iterable[str]) -> None:
        """Forget sandboxes that are held no more."""
        for sandbox_id in sandbox_ids:
            self._memory.drop_sandbox(sandbox_id)
