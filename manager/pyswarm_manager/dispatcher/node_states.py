"""What a node has to follow, from the store: its role, the managers, the roots to trust, its own certificates. Pure."""

from pyswarm_common import pki
from pyswarm_common.objects import Node
from pyswarm_common.wire import ManagerAddress, NodeState
from pyswarm_manager.ca.signing import signing_in_force, trusted_roots
from pyswarm_manager.dispatcher.liveness import heartbeat_period_s
from pyswarm_manager.store.tables import View


def node_state(view: View, node: Node, managers: tuple[ManagerAddress, ...], etcd_restart_turn: str = "") -> NodeState:
    """Return the state to tell the node's agent; `managers`: those that agents may dial; and whose turn a restart of etcd is."""
    cluster = view.cluster
    return NodeState(
        role=node.role,
        managers=managers,
        heartbeat_period_s=heartbeat_period_s(cluster.heartbeat_period_s, len(view.nodes)),
        incarnation=cluster.incarnation,
        issuer_digest=pki.root_digest(signing_in_force(cluster).root_pem),
        trust_pem=trusted_roots(cluster),
        is_etcd_restart_due=node.id == etcd_restart_turn,
        certificate_serials=tuple(certificate.serial for certificate in node.certificates),
        network_key=cluster.network_key,
    )
