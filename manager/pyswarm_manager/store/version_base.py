"""Raising the version base: what a restore and a forced new cluster do before the store runs again.

Both set the history back, so mod_revisions that clients know come again with other content. With a higher base, their version
indexes do not.
"""

from pyswarm_common.errors import Conflict
from pyswarm_manager.store.backend import Backend, Compare, Put
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.records import VERSION_BASE_KEY, VERSION_BASE_STEP, Codec, VersionBase


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
