"""Restoring a backup: this machine becomes the only manager, as a new node, of the cluster that the backup holds.

`restored_cluster` says what the objects are to be (pure but for new ids and a certificate); `write_restored` writes them to an etcd
that is empty, before the store runs on it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyswarm_common import pki
from pyswarm_common.errors import Conflict
from pyswarm_common.ids import new_id
from pyswarm_common.objects import AnyObject, Cluster, ManagerStatus, Node, NodeDescription, NodeStatus
from pyswarm_common.specs import NodeSpec
from pyswarm_manager.ca.authority import signing_key_digest
from pyswarm_manager.ca.signing import issued, signing_in_force
from pyswarm_manager.recovery.backup_format import Backup
from pyswarm_manager.recovery.bereavement import after_loss_of, as_unheard, as_worker, is_or_was_to_be_manager
from pyswarm_manager.store.backend import Backend, Compare, Put
from pyswarm_manager.store.batch import MAX_BYTES, MAX_CHANGES
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.records import VERSION_BASE_KEY, Codec, VersionBase, object_key
from pyswarm_manager.store.transaction import Transaction
from pyswarm_manager.store.version_base import restored_version_base

NOT_HEARD_YET = "the cluster was restored from a backup and the node has not reported since"


@dataclass(frozen=True)
class RestoredCluster:
    """What a restore makes of a backup. `node`: this machine, the only manager; the certificate is PEM."""

    cluster: Cluster
    node: Node
    objects: tuple[AnyObject, ...]
    version_base: int
    certificate_pem: str
    former_managers: tuple[Node, ...]
    """As they were when the backup was taken."""

    def store(self, tx: Transaction) -> None:
        """Store nothing: all was written before the store ran."""


@dataclass(frozen=True)
class NewManager:
    """The machine that restores: its key (PEM), name and addresses. `node_address` is host:port, the others bare IPs."""

    private_key_pem: str
    hostname: str
    address: str
    data_path_address: str
    node_address: str


def restored_cluster(backup: Backup, machine: NewManager, now_ns: int) -> RestoredCluster:
    """Return what the store is to hold, and this machine's certificate. Raises InvalidArgument for a backup without a cluster."""
    before = backup.cluster
    nodes = [item for item in backup.objects if isinstance(item, Node)]
    former = [node for node in nodes if is_or_was_to_be_manager(node)]
    cluster = after_loss_of(former, before, now_ns)
    request_pem = pki.new_signing_request(machine.private_key_pem)
    node_id = new_id()
    certificate_pem = signing_in_force(cluster).sign(
        request_pem,
        pki.NodeIdentity(node_id=node_id, role="manager", cluster_id=cluster.id),
        (machine.address, machine.data_path_address, "127.0.0.1"),
        now_ns,
    )
    node = Node(
        id=node_id,
        created_at_ns=now_ns,
        updated_at_ns=now_ns,
        spec=NodeSpec(role="manager"),
        role="manager",
        key_digest=signing_key_digest(request_pem),
        description=NodeDescription(hostname=machine.hostname, data_path_address=machine.data_path_address),
        status=NodeStatus(state="unknown", address=machine.address),
        manager=ManagerStatus(address=machine.node_address, is_voter=True, added_at_ns=now_ns),
        certificates=(issued(certificate_pem, "manager"),),
    )
    changed: dict[str, AnyObject] = {old.id: as_unheard(old, NOT_HEARD_YET) for old in nodes}
    changed |= {old.id: as_unheard(as_worker(old), NOT_HEARD_YET) for old in former}
    others = (changed.get(item.id, item) for item in backup.objects if not isinstance(item, Cluster))
    return RestoredCluster(
        cluster=cluster,
        node=node,
        objects=(*others, node, cluster),
        version_base=restored_version_base(backup.header.version_base, now_ns),
        certificate_pem=certificate_pem,
        former_managers=tuple(former),
    )


async def write_restored(backend: Backend, data_keys: DataKeys, restored: RestoredCluster) -> int:
    """Write everything to an empty store; returns the number of transactions. Raises Conflict when it is not empty, Unavailable.

    The cluster object comes last: a store without it was cut off in the middle.
    """
    codec = Codec(data_keys)
    base = codec.seal_record(VERSION_BASE_KEY, VersionBase(base=restored.version_base))
    result = await backend.commit([Compare(VERSION_BASE_KEY, 0)], [Put(VERSION_BASE_KEY, base)])
    if not result.succeeded:
        raise Conflict("the new store is not empty: something was restored or stored there before")
    count = 1
    for batch in _batches(codec, restored.objects):
        await backend.commit([], batch)
        count += 1
    return count


def _batches(codec: Codec, objects: Iterable[AnyObject]) -> Iterator[list[Put]]:
    batch: list[Put] = []
    size_bytes = 0
    for item in objects:
        key = object_key(type(item), item.id)
        put = Put(key, codec.seal(key, codec.encode(item)))
        if batch and (len(batch) >= MAX_CHANGES or size_bytes + len(put.value) > MAX_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(put)
        size_bytes += len(put.value)
    yield batch
