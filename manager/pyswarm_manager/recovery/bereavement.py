"""What becomes of the objects when one manager goes on without the others: after a restore, and after a forced new cluster. Pure.

The others become workers and their manager certificates are revoked. The cluster's incarnation rises, so that nodes refuse what is
left of the former one. It is never less than the time in seconds: two clusters that were made from one backup shall differ, and a
restore of an old backup shall count as later than what happened after that backup was taken.
"""

from collections.abc import Iterable

import msgspec

from pyswarm_common.clock import NANOSECONDS_PER_SECOND
from pyswarm_common.objects import Cluster, Node, NodeStatus
from pyswarm_manager.ca.signing import unexpired


def next_incarnation(present: int, now_ns: int) -> int:
    """Return the incarnation that follows."""
    return max(present + 1, now_ns // NANOSECONDS_PER_SECOND)


def is_or_was_to_be_manager(node: Node) -> bool:
    """Whether something of a manager is left on the node."""
    return node.role == "manager" or node.manager is not None or node.spec.role == "manager"


def as_worker(node: Node) -> Node:
    """Return the node as a worker that has no valid manager certificate."""
    return msgspec.structs.replace(
        node,
        role="worker",
        spec=msgspec.structs.replace(node.spec, role="worker"),
        manager=None,
        certificates=tuple(certificate for certificate in node.certificates if not certificate.is_manager),
    )


def as_unheard(node: Node, message: str) -> Node:
    """Return the node with a state that gives it time to report before anything is decided about it."""
    return msgspec.structs.replace(node, status=NodeStatus(state="unknown", message=message, address=node.status.address))


def after_loss_of(former_managers: Iterable[Node], cluster: Cluster, now_ns: int) -> Cluster:
    """Return the cluster in its next incarnation, with the manager certificates of these nodes revoked."""
    revoked = [*cluster.revoked_certificates]
    for node in former_managers:
        revoked += [c for c in node.certificates if c.is_manager and c not in revoked]
    return msgspec.structs.replace(
        cluster,
        incarnation=next_incarnation(cluster.incarnation, now_ns),
        revoked_certificates=unexpired(tuple(revoked), now_ns),
        updated_at_ns=now_ns,
    )
