"""The networks of this node: in memory, and one file each on disk, written whole and synced."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from pyswarm_agent.node_networks.records import NodeNetwork
from pyswarm_common.errors import AlreadyExists, Conflict, NotFound
from pyswarm_common.files import remove_for_good, write_atomically

_log = structlog.get_logger()


class NodeNetworks:
    """Loaded at once; changes are on disk before they are in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._networks = {network.id: network for network in _load(folder)}
        self.lock = asyncio.Lock()
        """Held from the check of a change until it is made."""

    def __iter__(self) -> Iterator[NodeNetwork]:
        """Yield the networks, oldest first."""
        return iter(sorted(self._networks.values(), key=lambda network: (network.created_at_ns, network.id)))

    def get(self, network_id: str) -> NodeNetwork | None:
        """Return the network with this id."""
        return self._networks.get(network_id)

    def find(self, reference: str) -> NodeNetwork | None:
        """Return the network with this name, id, or beginning of an id. Raises Conflict when several ids begin so."""
        for network in self._networks.values():
            if reference in (network.name, network.id):
                return network
        begun = [network for network in self._networks.values() if reference and network.id.startswith(reference)]
        if len(begun) > 1:
            raise Conflict(f"network {reference} is ambiguous ({len(begun)} matches found based on ID prefix)")
        return begun[0] if begun else None

    def need(self, reference: str) -> NodeNetwork:
        """Return the network as `find`. Raises NotFound, Conflict."""
        found = self.find(reference)
        if found is None:
            raise NotFound(f"network {reference} not found")
        return found

    def check_name(self, name: str) -> None:
        """Raise AlreadyExists for a name that is taken."""
        if any(network.name == name for network in self._networks.values()):
            raise AlreadyExists(f"network with name {name} already exists")

    async def add(self, network: NodeNetwork) -> None:
        """Keep a network. Raises AlreadyExists, OSError."""
        self.check_name(network.name)
        await asyncio.to_thread(write_atomically, self._path(network.id), msgspec.json.encode(network))
        self._networks[network.id] = network

    async def remove(self, network_id: str) -> None:
        """Forget a network. Raises OSError."""
        await asyncio.to_thread(remove_for_good, self._path(network_id))
        self._networks.pop(network_id, None)

    def _path(self, network_id: str) -> Path:
        return self._folder / f"{network_id}.json"


def _load(folder: Path) -> Iterator[NodeNetwork]:
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.json")):
        try:
            yield msgspec.json.decode(path.read_bytes(), type=NodeNetwork)
        except msgspec.DecodeError as error:
            _log.error("node_network.record_damaged", path=str(path), error=str(error))
