"""Joining: a token and a signing request in, a node of the cluster and its certificate out.

A join that was interrupted is finished by trying again: the same key gets the same node.
"""

import datetime
import hashlib

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pyswarm_common import pki
from pyswarm_common.clock import Clock
from pyswarm_common.errors import InvalidArgument, PermissionDenied, Unimplemented
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Cluster, Node, NodeDescription, NodeStatus
from pyswarm_common.specs import NodeSpec
from pyswarm_common.wire import JoinAnswer, JoinRequest, ManagerAddress
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import View
from pyswarm_manager.store.transaction import Transaction


class CertificateAuthority:
    """Signs node certificates with the root key that the cluster object holds."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def join(self, request: JoinRequest, peer_address: str) -> JoinAnswer:
        """Let a machine in. Raises PermissionDenied for a wrong token, InvalidArgument for a bad request."""
        cluster = self._store.view.cluster
        role = role_of_token(cluster, request.token)
        if role == "manager":
            raise Unimplemented("joining as a manager is not offered yet: join with the worker token")
        key_digest = signing_key_digest(request.signing_request_pem)
        address = request.address or peer_address
        new_node = Node(
            id=new_id(),
            spec=NodeSpec(role=role),
            role=role,
            key_digest=key_digest,
            description=NodeDescription(hostname=request.hostname, data_path_address=address),
            status=NodeStatus(state="unknown", address=address, message="the node has joined but not reported yet"),
        )

        def admit(tx: Transaction) -> Node:
            known = next((n for n in tx.nodes if n.key_digest == key_digest), None)
            if known is None:
                tx.create(new_node)
            return known or new_node

        node = await self._store.update(admit)
        identity = pki.NodeIdentity(node_id=node.id, role=role, cluster_id=cluster.id)
        return JoinAnswer(
            node_id=node.id,
            cluster_id=cluster.id,
            role=role,
            certificate_pem=self._sign(cluster, request.signing_request_pem, identity, (address,)),
            root_certificate_pem=cluster.root_certificate_pem,
            managers=manager_addresses(self._store.view),
            address=address,
            data_path_port=cluster.data_path_port,
        )

    def _sign(self, cluster: Cluster, request_pem: str, identity: pki.NodeIdentity, addresses: tuple[str, ...]) -> str:
        now = datetime.datetime.fromtimestamp(self._clock.now_ns() / 1e9, datetime.UTC)
        return pki.sign_node_certificate(cluster.root_certificate_pem, cluster.root_key_pem, request_pem, identity, addresses, now)


def role_of_token(cluster: Cluster, token: str) -> str:
    """Return the role that a join token gives. Raises PermissionDenied when it is neither of the cluster's."""
    pki.parse_join_token(token)
    is_worker = pki.token_opens(token, cluster.worker_join_token)
    is_manager = pki.token_opens(token, cluster.manager_join_token)
    if not (is_worker or is_manager):
        raise PermissionDenied(
            "a valid join token is necessary to join this cluster: this one belongs to another cluster or was rotated; "
            'get the present one with "pyswarm swarm join-token worker" on a manager'
        )
    return "manager" if is_manager else "worker"


def signing_key_digest(request_pem: str) -> str:
    """Return the SHA-256 (hex) of the request's public key. Raises InvalidArgument."""
    try:
        key = x509.load_pem_x509_csr(request_pem.encode()).public_key()
    except ValueError as error:
        raise InvalidArgument(f"the certificate signing request cannot be read: {error}") from error
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def manager_addresses(view: View) -> tuple[ManagerAddress, ...]:
    """Return the managers that agents may dial, in the order of their ids."""
    managers = (ManagerAddress(node_id=n.id, address=n.manager.address) for n in view.nodes if n.manager is not None)
    return tuple(sorted(managers, key=lambda m: m.node_id))


def decode_join_request(data: bytes) -> JoinRequest:
    """Return the request in a body. Raises InvalidArgument."""
    try:
        return msgspec.json.decode(data, type=JoinRequest)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"the join request cannot be read: {error}") from error
