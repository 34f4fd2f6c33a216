"""What the cluster object says of certificates: who signs now, what stands behind a leaf, which roots are to be trusted. Pure.

Outside of a change of the root that is its root. During one the new root's key signs, the cross certificate stands behind every
leaf, and both roots are trusted. Afterwards it stays behind new leaves until every manager's etcd has been restarted.
"""

import datetime
from dataclasses import dataclass

from pyswarm_common import pki, pki_chain
from pyswarm_common.clock import NANOSECONDS_PER_SECOND
from pyswarm_common.objects import Cluster, IssuedCertificate


@dataclass(frozen=True)
class Signing:
    """What signs certificates: root and key (PEM), the cross certificates behind each leaf, and how long leaves live."""

    root_pem: str
    key_pem: str
    tail_pem: str
    lifetime: datetime.timedelta

    def sign(self, request_pem: str, identity: pki.NodeIdentity, addresses: tuple[str, ...], now_ns: int) -> str:
        """Return a node's certificate with its tail (PEM). Raises InvalidArgument for a bad request."""
        return pki.sign_node_certificate(
            self.root_pem,
            self.key_pem,
            request_pem,
            identity,
            addresses,
            moment(now_ns),
            lifetime=self.lifetime,
            tail_pem=self.tail_pem,
        )


def signing_in_force(cluster: Cluster) -> Signing:
    """Return what signs now."""
    rotation = cluster.root_rotation
    return Signing(
        root_pem=rotation.root_certificate_pem if rotation else cluster.root_certificate_pem,
        key_pem=rotation.root_key_pem if rotation else cluster.root_key_pem,
        tail_pem=(rotation.cross_certificate_pem if rotation else "") + cluster.cross_certificate_pem,
        lifetime=datetime.timedelta(seconds=cluster.node_certificate_lifetime_s),
    )


def trusted_roots(cluster: Cluster) -> str:
    """Return the bundle of roots (PEM) that every node shall trust now."""
    rotation = cluster.root_rotation
    if rotation is None:
        return cluster.root_certificate_pem
    return pki_chain.join_bundle(cluster.root_certificate_pem, rotation.root_certificate_pem)


def issued(certificate_pem: str, role: str) -> IssuedCertificate:
    """Return what is kept of a certificate that was signed."""
    info = pki_chain.certificate_info(certificate_pem)
    expires_at_ns = round(info.not_after.timestamp()) * NANOSECONDS_PER_SECOND
    return IssuedCertificate(serial=info.serial, expires_at_ns=expires_at_ns, is_manager=role == "manager")


def unexpired(certificates: tuple[IssuedCertificate, ...], now_ns: int) -> tuple[IssuedCertificate, ...]:
    """Return those that may still be shown to somebody."""
    return tuple(certificate for certificate in certificates if certificate.expires_at_ns > now_ns)


def moment(now_ns: int) -> datetime.datetime:
    """Return a time (ns since the epoch) as certificates take it."""
    return datetime.datetime.fromtimestamp(now_ns / NANOSECONDS_PER_SECOND, datetime.UTC)
