"""The cluster's certificates: the root CA, node certificates and join tokens.

Root: ECDSA P-256, 20 years, CN `swarm-ca`. Node certificates: CN node id, OU role, O cluster id, 90 days, backdated one hour.
The SAN of a node names its role (peers and clients check that instead of a host name), its id and its addresses. Join token:
`SWMTKN-1-<sha256 of the root certificate in base 36, 50 characters>-<secret, 25 characters>`; the digest pins the CA before
anything else is trusted. Layout and lifetimes are SwarmKit's (`ca/certificates.go`).
"""

import base64
import datetime
import hashlib
import hmac
import ipaddress
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.ids import base36

SigningKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

ROOT_LIFETIME = datetime.timedelta(days=365 * 20)
NODE_LIFETIME = datetime.timedelta(days=90)
BACKDATE = datetime.timedelta(hours=1)
MANAGER_ROLE_NAME = "swarm-manager"
WORKER_ROLE_NAME = "swarm-worker"
_TOKEN_PREFIX = "SWMTKN"
_DIGEST_LENGTH = 50
_SECRET_LENGTH = 25


@dataclass(frozen=True)
class JoinToken:
    """A parsed join token: what pins the CA, and what proves the right to join."""

    ca_digest: str
    secret: str


@dataclass(frozen=True)
class NodeIdentity:
    """Who a certificate says its holder is. `role` is `manager` or `worker`."""

    node_id: str
    role: str
    cluster_id: str


def role_name(role: str) -> str:
    """Return the certificate's word for a role: `swarm-manager` or `swarm-worker`."""
    return MANAGER_ROLE_NAME if role == "manager" else WORKER_ROLE_NAME


def new_private_key_pem() -> str:
    """Return a new ECDSA P-256 private key (PKCS #8 PEM, not encrypted)."""
    return _key_to_pem(ec.generate_private_key(ec.SECP256R1()))


def new_root(now: datetime.datetime) -> tuple[str, str]:
    """Return a new root certificate and its private key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _certificate_to_pem(certificate), _key_to_pem(key)


def new_signing_request(private_key_pem: str) -> str:
    """Return a certificate signing request (PEM) for this key; the CA alone decides what the certificate says."""
    key = _load_key(private_key_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pyswarm-node")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sign_node_certificate(
    root_certificate_pem: str,
    root_key_pem: str,
    request_pem: str,
    identity: NodeIdentity,
    addresses: tuple[str, ...],
    now: datetime.datetime,
    *,
    lifetime: datetime.timedelta = NODE_LIFETIME,
    tail_pem: str = "",
) -> str:
    """Return a node certificate (PEM) for the request's key, and behind it `tail_pem`: cross certificates.

    Raises InvalidArgument when the request is not a good one.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
    except ValueError as error:
        raise InvalidArgument(f"the certificate signing request cannot be read: {error}") from error
    if not request.is_signature_valid:
        raise InvalidArgument("the certificate signing request is not signed by its own key")
    root = x509.load_pem_x509_certificate(root_certificate_pem.encode())
    root_key = load_signing_key(root_key_pem)
    public_key = request.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise InvalidArgument("node keys must be ECDSA keys")
    names: list[x509.GeneralName] = [x509.DNSName(role_name(identity.role)), x509.DNSName(identity.node_id)]
    names += [x509.IPAddress(ipaddress.ip_address(a)) for a in dict.fromkeys(addresses)]
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.cluster_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role_name(identity.role)),
            x509.NameAttribute(NameOID.COMMON_NAME, identity.node_id),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(authority_key_identifier(root), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return _certificate_to_pem(certificate) + tail_pem


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the extension that names this issuer's key, as the issuer itself names it."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier(x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest, None, None)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def identity_of(certificate: bytes) -> NodeIdentity:
    """Return who a node certificate (PEM or DER) names. Raises InvalidArgument when it is no node certificate."""
    try:
        if certificate.startswith(b"-----"):
            parsed = x509.load_pem_x509_certificate(certificate)
        else:
            parsed = x509.load_der_x509_certificate(certificate)
        unit = _subject_value(parsed, NameOID.ORGANIZATIONAL_UNIT_NAME)
        role = {MANAGER_ROLE_NAME: "manager", WORKER_ROLE_NAME: "worker"}[unit]
        return NodeIdentity(
            node_id=_subject_value(parsed, NameOID.COMMON_NAME),
            role=role,
            cluster_id=_subject_value(parsed, NameOID.ORGANIZATION_NAME),
        )
    except (ValueError, KeyError, IndexError) as error:
        raise InvalidArgument(f"not a node certificate: {error}") from error


@lru_cache(maxsize=64)
def root_digest(root_certificate_pem: str) -> str:
    """Return the digest of a root certificate as join tokens carry it: SHA-256 of the PEM in base 36, 50 characters."""
    digest = hashlib.sha256(root_certificate_pem.encode()).digest()
    return base36(int.from_bytes(digest, "big"), _DIGEST_LENGTH)


def new_join_token(root_certificate_pem: str) -> str:
    """Return a new join token for the CA: `SWMTKN-1-<digest>-<secret>`."""
    secret = base36(int.from_bytes(os.urandom(16), "big"), _SECRET_LENGTH)
    return f"{_TOKEN_PREFIX}-1-{root_digest(root_certificate_pem)}-{secret}"


def parse_join_token(token: str) -> JoinToken:
    """Return the parts of a join token. Raises InvalidArgument in Docker's words when it is none."""
    parts = token.strip().split("-")
    well_formed = len(parts) == 4 and parts[0] == _TOKEN_PREFIX and parts[1] == "1"
    if not well_formed or len(parts[2]) != _DIGEST_LENGTH or len(parts[3]) != _SECRET_LENGTH:
        raise InvalidArgument("invalid join token: it must look like SWMTKN-1-<50 characters>-<25 characters>")
    return JoinToken(ca_digest=parts[2], secret=parts[3])


def token_opens(offered: str, expected: str) -> bool:
    """Whether a token is the expected one, compared in constant time."""
    return hmac.compare_digest(offered.strip().encode(), expected.encode())


def tls_info(root_certificate_pem: str) -> dict[str, str]:
    """Return the Engine API's `TLSInfo` of the root: its PEM, and base64 of the issuer's subject and public key (DER)."""
    root = x509.load_pem_x509_certificate(root_certificate_pem.encode())
    key_der = root.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "TrustRoot": root_certificate_pem,
        "CertIssuerSubject": base64.b64encode(root.subject.public_bytes()).decode(),
        "CertIssuerPublicKey": base64.b64encode(key_der).decode(),
    }


def _subject_value(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    return str(certificate.subject.get_attributes_for_oid(oid)[0].value)


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return what a certificate's key may be used for: signing certificates and revocation lists, or TLS."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidArgument("the key is not an ECDSA key")
    return key


def load_signing_key(pem: str) -> SigningKey:
    """Return a CA's private key. Raises InvalidArgument when it is neither an ECDSA nor an RSA key."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"malformed private key: {error}") from error
    if not isinstance(key, SigningKey):
        raise InvalidArgument("malformed private key: it must be an ECDSA or an RSA key")
    return key


def _key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def _certificate_to_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
