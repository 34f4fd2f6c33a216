"""The first objects of a new cluster: the cluster with its CA and join tokens, its first node, and the ingress network."""

from dataclasses import dataclass
from typing import Any

import msgspec

from pyswarm_common import pki
from pyswarm_common.clock import Clock
from pyswarm_common.errors import NotFound
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Cluster, ManagerStatus, Network, Node, NodeDescription, NodeStatus
from pyswarm_common.specs import NodeSpec
from pyswarm_manager.ca.authority import signing_key_digest
from pyswarm_manager.ca.signing import issued, moment, signing_in_force
from pyswarm_manager.store.transaction import Transaction

INGRESS_NETWORK = "ingress"


@dataclass(frozen=True)
class NewCluster:
    """What `swarm init` makes before anything is stored: the objects, and the first node's certificate (PEM)."""

    cluster: Cluster
    node: Node
    certificate_pem: str
    ingress: Network

    def store(self, tx: Transaction) -> None:
        """Store the cluster, its node and its ingress network; does nothing when a first try already did."""
        try:
            if tx.cluster.id == self.cluster.id:
                return
        except NotFound:
            pass
        tx.create(self.cluster)
        tx.create(self.node)
        tx.create(self.ingress)


def new_cluster(
    *,
    private_key_pem: str,
    hostname: str,
    address: str,
    data_path_address: str,
    node_address: str,
    settings: dict[str, Any],
    clock: Clock,
) -> NewCluster:
    """Return a new cluster with its CA, tokens and first manager. `settings`: fields of Cluster; `node_address`: host:port."""
    root_pem, root_key_pem = pki.new_root(moment(clock.now_ns()))
    cluster = Cluster(
        id=new_id(),
        root_certificate_pem=root_pem,
        root_key_pem=root_key_pem,
        worker_join_token=pki.new_join_token(root_pem),
        manager_join_token=pki.new_join_token(root_pem),
    )
    request_pem = pki.new_signing_request(private_key_pem)
    node = Node(
        id=new_id(),
        spec=NodeSpec(role="manager"),
        role="manager",
        key_digest=signing_key_digest(request_pem),
        description=NodeDescription(hostname=hostname, data_path_address=data_path_address),
        status=NodeStatus(state="unknown", address=address),
        manager=ManagerStatus(address=node_address),
    )
    cluster = msgspec.structs.replace(cluster, **settings)
    identity = pki.NodeIdentity(node_id=node.id, role="manager", cluster_id=cluster.id)
    addresses = (address, data_path_address, "127.0.0.1")
    certificate_pem = signing_in_force(cluster).sign(request_pem, identity, addresses, clock.now_ns())
    node = msgspec.structs.replace(node, certificates=(issued(certificate_pem, "manager"),))
    return NewCluster(cluster, node, certificate_pem, new_ingress_network())


def new_ingress_network() -> Network:
    """Return the network of the routing mesh as a new cluster has it; the allocator gives it the pool's first subnet."""
    spec = {"Name": INGRESS_NETWORK, "Driver": "overlay", "Scope": "swarm", "Ingress": True}
    return Network(id=new_id(), name=INGRESS_NETWORK, spec_json=msgspec.json.encode(spec))
