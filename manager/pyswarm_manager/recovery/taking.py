"""Taking a backup of a running cluster, on any manager.

The cut is consistent: after a read index, references to all objects are collected in one go, without awaiting; the objects never
change. Encoding follows in slices, so that neither this nor a slow reader holds up the event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

from pyswarm_common.clock import Clock
from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.objects import KIND_OF_TYPE, AnyObject, Content
from pyswarm_manager.recovery.backup_format import BACKUP_FORMAT, BACKUP_VERSION, BackupHeader, BackupWriter
from pyswarm_manager.store.store import Store

OBJECTS_PER_FRAME = 500
"""A slice of 500 tasks takes some 2 ms to encode and seal."""
CONTENT_BYTES_PER_FRAME = 4 << 20
"""Of the data of secrets and configs."""


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
        for part in _slices(objects):
            yield writer.frame(kind, part)
            await asyncio.sleep(0)
    yield writer.end()


def _slices(objects: Sequence[AnyObject]) -> Iterator[Sequence[AnyObject]]:
    part: list[AnyObject] = []
    content_bytes = 0
    for item in objects:
        size_bytes = len(item.data) if isinstance(item, Content) else 0
        if part and (len(part) >= OBJECTS_PER_FRAME or content_bytes + size_bytes > CONTENT_BYTES_PER_FRAME):
            yield part
            part, content_bytes = [], 0
        part.append(item)
        content_bytes += size_bytes
    if part:
        yield part
