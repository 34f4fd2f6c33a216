"""What belongs to a change of the root CA: cross certificates, bundles of roots, revocation lists, roots that operators bring.

While a change is under way nodes trust a *bundle*, the old and the new root. New node certificates are signed by the new root's key
and carry a *cross certificate* behind them (the new root's key and subject, signed by the old root), so that those who know the old
root alone accept them as well. Nodes and the store name roots and bundles by digest: `pki.root_digest` of their text.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pyswarm_common import pki
from pyswarm_common.errors import InvalidArgument

LEAST_NODE_LIFETIME_S = 3600.0
"""Docker's minimum."""
LEAST_ROOT_LIFETIME = datetime.timedelta(days=365)
LEAST_RSA_KEY_BITS = 2048
REVOCATION_LIST_LIFETIME = datetime.timedelta(days=3650)
_END = "-----END CERTIFICATE-----"


@dataclass(frozen=True)
class CertificateInfo:
    """What a certificate says of itself: `serial` in hex without 0x, `addresses` as the IP addresses that it names."""

    serial: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    addresses: tuple[str, ...]


def certificate_info(pem: str) -> CertificateInfo:
    """Return what the first certificate of a PEM text says. Raises InvalidArgument when there is none."""
    certificate = _load(pem)
    return CertificateInfo(
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        addresses=_addresses(certificate),
    )


def issuer_digest(pem: str, roots_pem: str) -> str:
    """Return the digest of the root, among these, whose key signed the first certificate of `pem`; "" when it was another's.

    The authority key id says which to try, the signature decides.
    """
    certificate = _load(pem)
    for root_pem in split_bundle(roots_pem):
        if _is_issued_by(certificate, _load(root_pem)):
            return pki.root_digest(root_pem)
    return ""


def split_bundle(pem: str) -> tuple[str, ...]:
    """Return each certificate of a PEM text, in its order, each ending with a newline; what stands between is left out."""
    parts = (part[part.index("-----BEGIN") :] for part in pem.split(_END) if "-----BEGIN CERTIFICATE-----" in part)
    return tuple(f"{part.strip()}\n{_END}\n" for part in parts)


def join_bundle(*pems: str) -> str:
    """Return all the certificates of these PEM texts as one, each of them once."""
    return "".join(dict.fromkeys(certificate for pem in pems for certificate in split_bundle(pem)))


def bundle_digest(pem: str) -> str:
    """Return the digest of a bundle of roots, whatever their order; of a single root it is `pki.root_digest`. "" for none."""
    roots = sorted(set(split_bundle(pem)))
    return pki.root_digest("".join(roots)) if roots else ""


def cross_sign(new_root_pem: str, old_root_pem: str, old_key_pem: str, now: datetime.datetime) -> str:
    """Return the cross certificate: the new root's subject and key, signed by the old root, valid while both are."""
    new, old = _load(new_root_pem), _load(old_root_pem)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(new.subject)
        .issuer_name(old.subject)
        .public_key(new.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - pki.BACKDATE)
        .not_valid_after(min(new.not_valid_after_utc, old.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(pki.key_usage(signs_certificates=True), critical=True)
        .add_extension(_own_key_identifier(new), critical=False)
        .add_extension(pki.authority_key_identifier(old), critical=False)
        .sign(pki.load_signing_key(old_key_pem), hashes.SHA256())
    )
    return _to_pem(certificate)


def revocation_list(root_pem: str, root_key_pem: str, revoked: Iterable[str], now: datetime.datetime) -> str:
    """Return the list (PEM) of revoked certificates, by their serials in hex."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_load(root_pem).subject)
        .last_update(now - pki.BACKDATE)
        .next_update(now + REVOCATION_LIST_LIFETIME)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(now - pki.BACKDATE).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(pki.load_signing_key(root_key_pem), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def empty_revocation_list(now: datetime.datetime) -> str:
    """Return a list (PEM) that revokes nothing, signed by nobody known: etcd needs one to start, before the store can be read."""
    return revocation_list(*pki.new_root(now), (), now)


def check_root(root_pem: str, key_pem: str, now: datetime.datetime) -> str:
    """Return an operator's root certificate as it is to be kept (PEM). Raises InvalidArgument, in Docker's words, when unfit."""
    roots = split_bundle(root_pem)
    if not roots:
        raise _unfit("no valid root CA certificates found: --ca-cert must hold a certificate in PEM form")
    if len(roots) > 1:
        raise _unfit("the desired CA certificate cannot contain multiple certificates")
    root = _load(roots[0])
    try:
        root.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _unfit("error while validating Root CA Certificate: it is not signed by its own key") from error
    if not _may_sign(root):
        raise _unfit("error while validating Root CA Certificate: it is not the certificate of a CA (CA:TRUE, keyCertSign)")
    if not root.not_valid_before_utc <= now < root.not_valid_after_utc:
        raise _unfit("error while validating Root CA Certificate: certificate has expired or is not yet valid")
    if root.not_valid_after_utc < now + LEAST_ROOT_LIFETIME:
        raise _unfit("CA certificate expires too soon: it must be valid for a year at least")
    key = pki.load_signing_key(key_pem)
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < LEAST_RSA_KEY_BITS:
        raise _unfit(f"unsupported signature algorithm: RSA with fewer than {LEAST_RSA_KEY_BITS} bits")
    if key.public_key() != root.public_key():
        raise _unfit("certificate key mismatch: --ca-key is not the key of --ca-cert")
    return _to_pem(root)


def _unfit(message: str) -> InvalidArgument:
    return InvalidArgument(message, grpc_code="InvalidArgument")


def _addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(address) for address in names.get_values_for_type(x509.IPAddress))


def _may_sign(root: x509.Certificate) -> bool:
    try:
        if not root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return root.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid


def _own_key_identifier(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())


def _is_issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _load(pem: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise InvalidArgument(f"invalid certificate: {error}") from error
    if not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise InvalidArgument("unsupported signature algorithm: keys must be ECDSA or RSA keys")
    return certificate


def _to_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
