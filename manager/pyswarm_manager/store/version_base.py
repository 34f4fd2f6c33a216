"""Raising the version base: what a restore and a forced new cluster do before the store runs again.

Both set the history back, so mod_revisions that clients know come again with other content. With a higher base, their version
indexes do not.
"""

from pyswarm_common.errors import Conflict
from pyswarm_manager.store.backend import Backend, Compare, Put
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.records import VERSION_BASE_KEY, VERSION_BASE_STEP, Codec, VersionBase

RESTORE_UNIT_NS = 600 * 1_000_000_000
RESTORE_EPOCH_NS = 1_767_225_600 * 1_000_000_000
"""2026-01-01. Counted in ten minutes from there, bases stay below 2^53, which JavaScript clients need, for forty years."""


def restored_version_base(backed_up: int, now_ns: int) -> int:
    """Return the base after a restore: higher than the backup's, and than that of what else was restored from it before."""
    steps = max(backed_up // VERSION_BASE_STEP + 1, (now_ns - RESTORE_EPOCH_NS) // RESTORE_UNIT_NS)
    return steps * VERSION_BASE_STEP


async def raise_version_base(backend: Backend, data_keys: DataKeys) -> int:
    """Add 2^32 to the version base; returns the new base. Raises Conflict when someone else does so too, Unavailable."""
    codec = Codec(data_keys)
    found = await backend.read(VERSION_BASE_KEY)
    base = (codec.open_version_base(found.entry.value) if found.entry is not None else 0) + VERSION_BASE_STEP
    value = codec.seal_record(VERSION_BASE_KEY, VersionBase(base=base))
    result = await backend.commit([Compare(VERSION_BASE_KEY, found.mod_revision)], [Put(VERSION_BASE_KEY, value)])
    if not result.succeeded:
        raise Conflict("the version base is being raised by someone else")
    return base
