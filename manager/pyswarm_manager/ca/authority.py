"""Joining: a token and a signing request in, a node of the cluster and its certificate out; and certificates for nodes that are in.

A join that was interrupted is finished by trying again: the same key gets the same node.
"""

import hashlib
import ipaddress
from collections.abc import Callable

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pyswarm_common import pki
from pyswarm_common.clock import Clock
from pyswarm_common.errors import InvalidArgument, PermissionDenied, Unavailable
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Cluster, Node, NodeDescription, NodeStatus
from pyswarm_common.specs import NodeSpec
from pyswarm_common.wire import CertificateAnswer, CertificateRequest, JoinAnswer, JoinRequest, ManagerAddress
from pyswarm_manager.ca.attempt_limit import AttemptLimit
from pyswarm_manager.ca.signing import Signing, issued, signing_in_force, trusted_roots, unexpired
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import View
from pyswarm_manager.store.transaction import Transaction

SIGNING_TRIES = 5
MOST_ADDRESSES = 16


class CertificateAuthority:
    """Signs node certificates with what the cluster object says; works where the store can be written: on the leader."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._attempts = AttemptLimit(clock)

    def note_attempt(self, peer_address: str) -> None:
        """Count a request of somebody who showed no certificate. Raises ResourceExhausted when there are too many."""
        self._attempts.take(peer_address)

    async def join(self, request: JoinRequest, peer_address: str) -> JoinAnswer:
        """Let a machine in.

        Raises ResourceExhausted after many failures, PermissionDenied for a wrong token, InvalidArgument for a bad request,
        Unavailable when this manager does not lead.
        """
        self._attempts.take(peer_address)
        role = role_of_token(self._store.view.cluster, request.token)
        key_digest = signing_key_digest(request.signing_request_pem)
        self._attempts.give_back(peer_address)
        address = request.address or peer_address
        candidate = Node(
            id=new_id(),
            spec=NodeSpec(role=role),
            role=role,
            key_digest=key_digest,
            description=NodeDescription(hostname=request.hostname, data_path_address=address),
            status=NodeStatus(state="unknown", address=address, message="the node has joined but not reported yet"),
        )

        def node_in(view: View) -> Node:
            # A token that was changed meanwhile, as at the end of a change of the root, lets nobody in any more.
            role_of_token(view.cluster, request.token)
            return next((n for n in view.nodes if n.key_digest == key_digest and n.role == role), candidate)

        node, certificate_pem = await self._issue(node_in, request.signing_request_pem, (address,))
        cluster = self._store.view.cluster
        return JoinAnswer(
            node_id=node.id,
            cluster_id=cluster.id,
            role=node.role,
            certificate_pem=certificate_pem,
            root_certificate_pem=trusted_roots(cluster),
            managers=manager_addresses(self._store.view),
            address=address,
            data_path_port=cluster.data_path_port,
            unlock_key=cluster.unlock_key if node.role == "manager" else "",
        )

    async def renew(self, identity: pki.NodeIdentity, request: CertificateRequest) -> CertificateAnswer:
        """Give a node a new certificate, for the role that the store gives it now, whatever its present one says.

        Raises PermissionDenied for a node that was removed, InvalidArgument for a bad request, Unavailable when this manager does
        not lead.
        """

        def node_in(view: View) -> Node:
            node = view.nodes.get(identity.node_id)
            if node is None:
                raise PermissionDenied(f"node {identity.node_id} was removed from this cluster: join again with a token")
            return node

        signing_key_digest(request.signing_request_pem)
        node, certificate_pem = await self._issue(node_in, request.signing_request_pem, _checked_addresses(request.addresses))
        return CertificateAnswer(
            role=node.role, certificate_pem=certificate_pem, root_certificate_pem=trusted_roots(self._store.view.cluster)
        )

    async def _issue(self, node_in: Callable[[View], Node], request_pem: str, addresses: tuple[str, ...]) -> tuple[Node, str]:
        """Sign for a node and note the certificate in the store, where it is kept for revocation, before anybody gets it.

        What was signed counts only if role and root are the same when it is noted: a certificate of a root that was just replaced
        would lock its node out.
        """
        for _ in range(SIGNING_TRIES):
            node, signing = node_in(self._store.view), signing_in_force(self._store.view.cluster)
            identity = pki.NodeIdentity(node_id=node.id, role=node.role, cluster_id=self._store.view.cluster.id)
            certificate_pem = signing.sign(request_pem, identity, addresses or (node.status.address,), self._clock.now_ns())

            def note(tx: Transaction, node: Node = node, signing: Signing = signing, pem: str = certificate_pem) -> Node | None:
                present = node_in(tx)
                if (present.id, present.role) != (node.id, node.role) or signing_in_force(tx.cluster) != signing:
                    return None
                certificates = (*unexpired(present.certificates, tx.now_ns), issued(pem, node.role))
                present = msgspec.structs.replace(present, certificates=tuple(dict.fromkeys(certificates)))
                return tx.update(present) if present.id in tx.nodes else tx.create(present)

            noted = await self._store.update(note)
            if noted is not None:
                return noted, certificate_pem
        raise Unavailable("the cluster's CA or the node's role is changing: try again")


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


def _checked_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    if len(addresses) > MOST_ADDRESSES:
        raise InvalidArgument(f"a certificate names {MOST_ADDRESSES} addresses at most")
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InvalidArgument(f"a certificate names IP addresses only: {error}") from error
    return addresses


def signing_key_digest(request_pem: str) -> str:
    """Return the SHA-256 (hex) of the request's public key. Raises InvalidArgument."""
    try:
        key = x509.load_pem_x509_csr(request_pem.encode()).public_key()
    except ValueError as error:
        raise InvalidArgument(f"the certificate signing request cannot be read: {error}") from error
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def manager_addresses(view: View) -> tuple[ManagerAddress, ...]:
    """Return the managers that nodes may dial, in the order of their ids: those that vote, as the others do not serve yet."""
    managers = [n for n in view.nodes if n.manager is not None]
    voters = [n for n in managers if n.manager is not None and n.manager.is_voter] or managers
    addresses = (ManagerAddress(node_id=n.id, address=n.manager.address) for n in voters if n.manager is not None)
    return tuple(sorted(addresses, key=lambda m: m.node_id))


def decode_join_request(data: bytes) -> JoinRequest:
    """Return the request in a body. Raises InvalidArgument."""
    try:
        return msgspec.json.decode(data, type=JoinRequest)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"the join request cannot be read: {error}") from error
