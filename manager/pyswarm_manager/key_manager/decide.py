"""When the cluster's key of encrypted overlays is made, and made anew. Pure.

Two nodes agree on the keys of their packets by their own pairs and this key; what was agreed on lasts for up to three minutes, and
is renewed after two. Nodes hear of another key within a second or so, so nothing is lost meanwhile. A node that is up but does not
hear of it could not renew: so the key stays until all nodes that are up are in touch. Nodes that are down get it when they return.
"""

import msgspec

from pyswarm_common.network_options import is_encrypted
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.store.tables import View

KEY = "cluster"
"""The only thing that this loop looks at."""
_OUT_OF_TOUCH = ("unknown", "disconnected")


def decide(view: View, now_ns: int, new_key: str) -> Decisions:
    """Return what to do: nothing, or to store this new key (base64); and when to look again."""
    if not any(is_encrypted(network.spec.options) for network in view.networks):
        return Decisions()
    cluster = view.cluster
    due_ns = cluster.network_key_at_ns + int(cluster.network_key_period_s * 1e9)
    if cluster.network_key and now_ns < due_ns:
        return Decisions(wake_at_ns={KEY: due_ns})
    if cluster.network_key and any(node.status.state in _OUT_OF_TOUCH for node in view.nodes):
        return Decisions()  # the node's return is an event
    changed = msgspec.structs.replace(cluster, network_key=new_key, network_key_at_ns=now_ns)
    return Decisions(updated=(changed,), wake_at_ns={KEY: now_ns + due_ns - cluster.network_key_at_ns})
