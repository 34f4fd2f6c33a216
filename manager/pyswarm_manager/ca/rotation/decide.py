"""What comes next in a change of the root CA. Pure: the cluster and its nodes in, one step out.

1. *begun*: `Cluster.root_rotation` is there. New leaves are signed by the new root and carry the cross certificate; nodes are told
   to trust both roots and to renew. It lasts until every node of the store says that it did both. As in Docker a node that is down
   holds it up until it returns or is removed: left behind, it could never come back with the certificate that it has.
2. *finished*: the new root is the cluster's, nodes trust it alone, join tokens pin it. Leaves still carry the cross certificate,
   because running etcd members have read their roots at start. They are restarted one at a time, the leader's last; it hands the
   leadership over first.
3. *over*: no member runs with a former root; new leaves go without the cross certificate.

A change that is replaced by the next one before it finished leaves nodes with leaves of the abandoned root; those chain to the
cluster's root by their own cross certificate. One that begins before step 3 keeps the former cross certificate behind its own.
"""

import enum
from collections.abc import Iterable

import msgspec

from pyswarm_common import pki, pki_chain
from pyswarm_common.objects import Cluster, Node
from pyswarm_manager.ca.signing import trusted_roots


class Step(enum.Enum):
    """What the leader has to do now."""

    WAIT = "nothing"
    FINISH = "make the new root the cluster's"
    DROP_CROSS = "sign without the cross certificate from now on"


def next_step(cluster: Cluster, nodes: Iterable[Node]) -> Step:
    """Return the next step of a change of the root, if there is one."""
    nodes = tuple(nodes)
    if cluster.root_rotation is not None:
        return Step.WAIT if awaited_nodes(cluster, nodes) else Step.FINISH
    if not cluster.cross_certificate_pem:
        return Step.WAIT
    return Step.WAIT if _behind(cluster, nodes) else Step.DROP_CROSS


def awaited_nodes(cluster: Cluster, nodes: Iterable[Node]) -> tuple[str, ...]:
    """Return the ids of the nodes that do not use the new root yet, sorted; empty when no change is under way."""
    rotation = cluster.root_rotation
    if rotation is None:
        return ()
    issuer = pki.root_digest(rotation.root_certificate_pem)
    trust = pki_chain.bundle_digest(trusted_roots(cluster))
    used = ((n.id, n.description.tls) for n in nodes)
    return tuple(sorted(node_id for node_id, tls in used if (tls.issuer_digest, tls.trust_digest) != (issuer, trust)))


def etcd_restart_turn(cluster: Cluster, nodes: Iterable[Node], leader_node_id: str) -> str:
    """Return whose etcd member is to be restarted now; "" for nobody's.

    One at a time, in the order of their ids but the leader last, and only while all other managers are sound.
    """
    if cluster.root_rotation is not None or not cluster.cross_certificate_pem:
        return ""
    nodes = tuple(nodes)
    behind = sorted(_behind(cluster, nodes), key=lambda n: n.id == leader_node_id)
    return behind[0].id if behind and all(_is_sound(n) for n in _managers(nodes)) else ""


def finished(cluster: Cluster) -> Cluster:
    """Return the cluster after step 1: the new root is its root. Its join tokens are to be renewed."""
    rotation = cluster.root_rotation
    assert rotation is not None
    return msgspec.structs.replace(
        cluster,
        root_certificate_pem=rotation.root_certificate_pem,
        root_key_pem=rotation.root_key_pem,
        root_rotation=None,
        cross_certificate_pem=rotation.cross_certificate_pem + cluster.cross_certificate_pem,
    )


def _managers(nodes: Iterable[Node]) -> list[Node]:
    return sorted((n for n in nodes if n.manager is not None), key=lambda n: n.id)


def _behind(cluster: Cluster, nodes: Iterable[Node]) -> list[Node]:
    """Return the managers whose etcd was started with other roots than those to trust now."""
    wanted = pki_chain.bundle_digest(trusted_roots(cluster))
    return [n for n in _managers(nodes) if n.description.tls.etcd_trust_digest != wanted]


def _is_sound(node: Node) -> bool:
    return node.status.state == "ready" and node.manager is not None and node.manager.is_voter
