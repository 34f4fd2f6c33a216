"""What every object of the swarm shows first: its id, version and times."""

from typing import Any

import msgspec

from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.objects import AnyObject


class VersionJSON(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """An object's version, to be given back with an update."""

    index: int


def render_meta(item: AnyObject, version_index: int) -> dict[str, Any]:
    """Return the first four members of an object's JSON."""
    return {
        "ID": item.id,
        "Version": {"Index": version_index},
        "CreatedAt": rfc3339(item.created_at_ns),
        "UpdatedAt": rfc3339(item.updated_at_ns),
    }
