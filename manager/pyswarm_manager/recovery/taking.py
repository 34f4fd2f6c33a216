"""Taking a backup of a running cluster, on any manager.

The cut is consistent: after a read index, references to all objects are collected in one go, without awaiting; the objects never
change. Encoding follows in slices, so that neither this nor a slow reader holds up the event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from pyswarm_common.clock import Clock
from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.objects import KIND_OF_TYPE, AnyObject
from pyswarm_manager.recovery.backup_format import BACKUP_FORMAT, BACKUP_VERSION, BackupHeader, BackupWriter
from pyswarm_manager.store.store import Store

OBJECTS_PER_FRAME = 500
"""A slice of 500 tasks takes some 2 ms to encode and seal."""


class Cut(NamedTuple):
    """All objects at one revision, and the unlock key of then."""

    header: BackupHeader
    objects: dict[str, Sequence[AnyObject]]
    """By kind."""
    unlock_key: str


async def take_cut(store: Store, clock: Clock) -> Cut:
    """Return all that the cluster holds now: every write acknowledged before is in it. Raises Unavailable.

    With the quorum lost it is what this manager last knew.
    """
    await store.read_index()
    return cut_now(store, clock.now_ns())


def cut_now(store: Store, now_ns: int) -> Cut:
    """Return all that this manager's view holds."""
    view = store.view
    cluster = view.cluster
    objects: dict[str, Sequence[AnyObject]] = {kind: list(view.table(type_)) for type_, kind in KIND_OF_TYPE.items()}  # type: ignore[type-var]
    header = BackupHeader(
        format=BACKUP_FORMAT,
        version=BACKUP_VERSION,
        cluster_id=cluster.id,
        created_at=rfc3339(now_ns),
        revision=store.revision,
        version_base=store.version_base,
        counts={kind: len(of_kind) for kind, of_kind in objects.items()},
        encrypted=False,
    )
    return Cut(header, objects, cluster.unlock_key)


async def backup_pieces(cut: Cut) -> AsyncIterator[bytes]:
    """Yield the bytes of the backup; encrypted under the unlock key if the cluster locks its managers."""
    writer = BackupWriter(cut.header, cut.unlock_key)
    yield writer.begin()
    for kind, objects in cut.objects.items():
        for start in range(0, len(objects), OBJECTS_PER_FRAME):
            yield writer.frame(kind, objects[start : start + OBJECTS_PER_FRAME])
            await asyncio.sleep(0)
    yield writer.end()
