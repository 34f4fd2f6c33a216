"""A new cluster forced from one manager's data, after the others were lost: what happens to the store before it runs again.

One transaction does all of it, so it happened or it did not: the other managers become workers and are revoked, the incarnation and
the version base rise (uncommitted history may have been dropped), this manager has the address that it shall have from now on. It
looks for the incarnation that was asked for, so it happens once, however often it is tried.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from pyswarm_common.errors import Conflict, NotFound, Unavailable
from pyswarm_common.objects import AnyObject, Cluster, IssuedCertificate, ManagerStatus, Node, Record
from pyswarm_manager.recovery.bereavement import after_loss_of, as_worker, is_or_was_to_be_manager
from pyswarm_manager.store.backend import Backend, Compare, Entry, Operation, Put
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.records import (
    OBJECTS_PREFIX,
    VERSION_BASE_KEY,
    VERSION_BASE_STEP,
    Codec,
    VersionBase,
    object_key,
    parse_object_key,
)


class ForcedCluster(Record, frozen=True, kw_only=True):
    """What was asked of this node: written to disk before anything is done, gone when all is done."""

    incarnation: int
    """The incarnation that the new cluster gets at least; one that has it is finished."""
    is_forced: bool = False
    """Whether etcd has run alone already: it is never forced again after the store was written to."""


class Survivor(NamedTuple):
    """This manager: its node's id and its addresses from now on (host:port of the node port, URL of the etcd member)."""

    node_id: str
    node_address: str
    etcd_peer_url: str


Certify: TypeAlias = Callable[[Cluster], IssuedCertificate]
"""Gives this manager a certificate for its addresses from now on."""


async def forsake_others(
    backend: Backend, data_keys: DataKeys, survivor: Survivor, forced: ForcedCluster, certify: Certify, now_ns: int
) -> Cluster:
    """Make this manager the only one in the store; returns the cluster as it then is. Doing it again changes nothing.

    Raises NotFound when the store does not hold this node or no cluster, Conflict when somebody else writes, Unavailable.
    """
    codec = Codec(data_keys)
    entries = await _read_all(backend)
    cluster, nodes = _cluster_and_nodes(codec, entries)
    if cluster.incarnation >= forced.incarnation:
        return cluster
    own = next((node for node in nodes if node.id == survivor.node_id), None)
    if own is None:
        raise NotFound(f"the data of this manager does not know node {survivor.node_id}")
    former = [node for node in nodes if node.id != own.id and is_or_was_to_be_manager(node)]
    cluster = after_loss_of(former, cluster, now_ns)
    cluster = msgspec.structs.replace(cluster, incarnation=max(cluster.incarnation, forced.incarnation))
    changed: list[AnyObject] = [cluster, _alone(own, survivor, certify(cluster)), *(as_worker(node) for node in former)]
    base_entry = next((entry for entry in entries if entry.key == VERSION_BASE_KEY), None)
    base = codec.open_version_base(base_entry.value) if base_entry is not None else 0
    operations: list[Operation] = [_put(codec, item) for item in changed]
    raised = VersionBase(base=base + VERSION_BASE_STEP)
    operations.append(Put(VERSION_BASE_KEY, codec.seal_record(VERSION_BASE_KEY, raised)))
    guard = Compare(VERSION_BASE_KEY, base_entry.mod_revision if base_entry is not None else 0)
    result = await backend.commit([guard], operations)
    if not result.succeeded:
        raise Conflict("somebody else writes to the store of this manager")
    return cluster


async def _read_all(backend: Backend) -> list[Entry]:
    page = await backend.read_page("")
    entries, revision = list(page.entries), page.revision
    while page.has_more:
        page = await backend.read_page(page.entries[-1].key + "\0", revision)
        entries += page.entries
    if not entries:
        raise Unavailable("the store of this manager is empty")
    return entries


def _cluster_and_nodes(codec: Codec, entries: Sequence[Entry]) -> tuple[Cluster, list[Node]]:
    cluster: Cluster | None = None
    nodes: list[Node] = []
    for entry in entries:
        if entry.key.startswith(OBJECTS_PREFIX) and parse_object_key(entry.key)[0] in ("clusters", "nodes"):
            item = codec.open_object(entry.key, entry.value)
            if isinstance(item, Cluster):
                cluster = item
            elif isinstance(item, Node):
                nodes.append(item)
    if cluster is None:
        raise NotFound("the data of this manager holds no cluster")
    return cluster, nodes


def _alone(own: Node, survivor: Survivor, certificate: IssuedCertificate) -> Node:
    status = own.manager if own.manager is not None else ManagerStatus()
    manager = msgspec.structs.replace(
        status, address=survivor.node_address or status.address, etcd_peer_url=survivor.etcd_peer_url, is_voter=True
    )
    return msgspec.structs.replace(
        own,
        role="manager",
        spec=msgspec.structs.replace(own.spec, role="manager"),
        manager=manager,
        certificates=(*own.certificates, certificate),
    )


def _put(codec: Codec, item: AnyObject) -> Put:
    key = object_key(type(item), item.id)
    return Put(key, codec.seal(key, codec.encode(item)))
