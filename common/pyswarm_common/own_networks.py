"""The networks that every node has of its own, `bridge`, `host` and `none`, and their ids.

A node has them in its scope, under one id; for services they are in the swarm's scope, under another, as in Docker. Nothing of
them is stored: a service's task runs on that of its node.
"""

import hashlib

from pyswarm_common.ids import OBJECT_ID_LENGTH, base36

BRIDGE, HOST, NONE = "bridge", "host", "none"
DRIVERS = {BRIDGE: "bridge", HOST: "host", NONE: "null"}
"""By name."""
PREDEFINED_LABEL = "com.docker.swarm.predefined"


def id_on_node(name: str) -> str:
    """Return a node's id of one of them: 64 hexadecimal digits."""
    return hashlib.sha256(f"pyswarm network {name}".encode()).hexdigest()


def id_in_swarm(name: str) -> str:
    """Return the id by which services name one of them: 25 characters of base 36."""
    digest = hashlib.sha256(f"pyswarm network {name} of the node".encode()).digest()
    return base36(int.from_bytes(digest), OBJECT_ID_LENGTH)[-OBJECT_ID_LENGTH:]


_NAMES = {reference: name for name in DRIVERS for reference in (name, id_in_swarm(name), id_on_node(name))}


def own_network_of(target: str) -> str:
    """Return which of them a service's target means, a name or an id; "" for none of them."""
    return _NAMES.get(target, "")
