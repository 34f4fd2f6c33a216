"""Tells the node's DNS what the driver holds: names of networks, and the sandboxes in which they can be asked for."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import structlog

from pyswarm_common.errors import Unavailable
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin import naming
from pyswarm_netplugin.desired import SandboxRecord
from pyswarm_netplugin.dns.protocol import SandboxConfig
from pyswarm_netplugin.holdings import Holdings
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.name_service import DNS, Everything, NameService
from pyswarm_netplugin.names import records_of

_log = structlog.get_logger()


class ToldNames:
    """To be told after the holdings have changed: a DNS process that is new is fed from them. The mesh sandbox has no names."""

    def __init__(self, dns: DNS, held: Holdings, netns_directory: Path) -> None:
        self._dns = dns
        self._held = held
        self._netns_directory = netns_directory
        self._service = NameService(dns, self._everything)
        self.start, self.close, self.stop = self._service.start, self._service.close, self._service.stop

    def netns_path(self, sandbox_id: str) -> str:
        """Return where a sandbox's namespace is."""
        return str(self._netns_directory / (naming.SANDBOX_PREFIX + sandbox_id))

    async def views_changed(self, changed: Iterable[NetworkView], removed: Iterable[str]) -> None:
        """These views are new, these networks gone. A DNS that cannot be had is logged: it gets everything when it can."""
        calls = [partial(self._dns.set_network, view.network_id, records_of(view), view.name) for view in changed]
        removals = [partial(self._dns.remove_network, network_id) for network_id in removed]
        if not calls and not removals:
            return
        try:
            await self._service.tell(*calls, *removals)
        except Unavailable as error:
            _log.warning("network.names_unavailable", error=error.message)

    async def sandbox_made(self, record: SandboxRecord) -> None:
        """Serve a sandbox. Raises Unavailable."""
        config = self._config(record)
        where = (config.netns_path, config.network_ids, config.search, config.upstreams)
        await self._service.tell(partial(self._dns.add_sandbox, record.id, *where))

    async def sandboxes_leave(self, sandbox_ids: Iterable[str]) -> None:
        """Serve these no more, before their namespaces go. A DNS that cannot be had is logged."""
        try:
            await self._service.tell(*(partial(self._dns.remove_sandbox, sandbox_id) for sandbox_id in sandbox_ids))
        except Unavailable as error:
            _log.warning("network.names_unavailable", error=error.message)

    def _everything(self) -> Everything:
        held = self._held
        configs = {record.id: self._config(record) for record in held.records.values() if record.id != MESH_SANDBOX_ID}
        records = {network_id: records_of(view) for network_id, view in held.views.items()}
        return records, configs, {network_id: view.name for network_id, view in held.views.items()}

    def _config(self, record: SandboxRecord) -> SandboxConfig:
        networks = tuple(attachment.network_id for attachment in record.attachments)
        return SandboxConfig(self.netns_path(record.id), networks, record.search, record.nameservers)
