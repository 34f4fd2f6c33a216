"""Cross certificates, bundles, revocation lists and roots of the operator; what TLS makes of them is tried with OpenSSL."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pyswarm_common import pki, pki_chain
from pyswarm_common.errors import InvalidArgument

NOW = datetime.datetime.now(datetime.UTC)
OLD = pki.new_root(NOW)
NEW = pki.new_root(NOW)
NEWEST = pki.new_root(NOW)
CROSS = pki_chain.cross_sign(NEW[0], *OLD, NOW)
MANAGER = pki.NodeIdentity(node_id="n" * 25, role="manager", cluster_id="c" * 25)
YEARS = datetime.timedelta(days=365)


def leaf(root: tuple[str, str], tail: str = "", **options: datetime.timedelta) -> tuple[str, str]:
    """Return a manager's certificate with its tail, and its key."""
    key = pki.new_private_key_pem()
    request = pki.new_signing_request(key)
    return pki.sign_node_certificate(*root, request, MANAGER, ("127.0.0.1",), NOW, tail_pem=tail, **options), key


def handshake(folder: Path, server: tuple[str, str], client: tuple[str, str], *, server_trust: str, client_trust: str) -> None:
    """Carry out a TLS handshake in memory; raises ssl.SSLError when either side refuses."""
    sides = []
    for name, (certificate, key), trust, protocol in (
        ("server", server, server_trust, ssl.PROTOCOL_TLS_SERVER),
        ("client", client, client_trust, ssl.PROTOCOL_TLS_CLIENT),
    ):
        context = ssl.SSLContext(protocol)
        context.verify_mode = ssl.CERT_REQUIRED
        (folder / f"{name}.pem").write_text(certificate + key)
        context.load_cert_chain(folder / f"{name}.pem")
        context.load_verify_locations(cadata=trust)
        sides.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepting = sides[0].wrap_bio(to_server, to_client, server_side=True)
    dialling = sides[1].wrap_bio(to_client, to_server, server_hostname=pki.MANAGER_ROLE_NAME)
    open_sides = {accepting, dialling}
    while open_sides:
        for side in (dialling, accepting):
            try:
                side.do_handshake()
                open_sides.discard(side)
            except ssl.SSLWantReadError:
                continue


@pytest.mark.parametrize("trust", [OLD[0], NEW[0], OLD[0] + NEW[0], NEW[0] + OLD[0]], ids=["old", "new", "old+new", "new+old"])
def test_a_leaf_with_the_cross_certificate_is_accepted_by_who_knows_either_root(trust: str, tmp_path: Path) -> None:
    own = leaf(NEW, CROSS)
    handshake(tmp_path, own, own, server_trust=trust, client_trust=trust)


@pytest.mark.parametrize("tail", ["", CROSS], ids=["without", "with"])
def test_without_a_root_that_leads_to_it_a_leaf_is_refused(tail: str, tmp_path: Path) -> None:
    own = leaf(NEW, tail)
    trust = NEWEST[0] if tail else OLD[0]
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, own, own, server_trust=trust, client_trust=trust)


def test_two_rotations_in_a_row_reach_back_to_the_first_root(tmp_path: Path) -> None:
    tail = pki_chain.cross_sign(NEWEST[0], *NEW, NOW) + CROSS
    own = leaf(NEWEST, tail)
    for trust in (OLD[0], NEW[0], NEWEST[0]):
        handshake(tmp_path, own, own, server_trust=trust, client_trust=trust)


def test_an_old_leaf_is_refused_once_the_old_root_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, leaf(NEW, CROSS), leaf(OLD), server_trust=NEW[0], client_trust=OLD[0])


def test_the_issuer_is_found_among_roots_of_one_name() -> None:
    pem, _ = leaf(NEW, CROSS)
    assert pki_chain.issuer_digest(pem, OLD[0] + NEW[0]) == pki.root_digest(NEW[0])
    assert pki_chain.issuer_digest(pem, OLD[0]) == ""
    assert pki_chain.issuer_digest(leaf(OLD)[0], OLD[0] + NEW[0]) == pki.root_digest(OLD[0])


def test_a_bundle_is_named_whatever_its_order_and_a_single_root_as_its_token_names_it() -> None:
    bundle = pki_chain.join_bundle(OLD[0], NEW[0], OLD[0])
    assert pki_chain.split_bundle(bundle) == (OLD[0], NEW[0])
    assert pki_chain.bundle_digest(bundle) == pki_chain.bundle_digest(NEW[0] + "\nof the operator\n" + OLD[0])
    assert pki_chain.bundle_digest(bundle) != pki_chain.bundle_digest(OLD[0])
    assert pki_chain.bundle_digest(OLD[0]) == pki.root_digest(OLD[0])
    assert pki_chain.bundle_digest("") == ""


def test_a_certificate_lives_as_long_as_it_is_told() -> None:
    pem, _ = leaf(NEW, CROSS, lifetime=datetime.timedelta(hours=1))
    info = pki_chain.certificate_info(pem)
    assert info.not_after - info.not_before == datetime.timedelta(hours=1) + pki.BACKDATE
    assert int(info.serial, 16) == x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.mark.parametrize("serials", [(), ("1", "ab" * 19)])
def test_a_revocation_list_names_its_serials(serials: tuple[str, ...]) -> None:
    parsed = x509.load_pem_x509_crl(pki_chain.revocation_list(*NEW, serials, NOW).encode())
    assert [f"{entry.serial_number:x}" for entry in parsed] == list(serials)
    root = x509.load_pem_x509_certificate(NEW[0].encode())
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert parsed.is_signature_valid(key)


def operators_root(
    *,
    key: pki.SigningKey | None = None,
    is_ca: bool = True,
    begins: datetime.datetime = NOW - YEARS,
    ends: datetime.datetime = NOW + 3 * YEARS,
    signer: pki.SigningKey | None = None,
) -> tuple[str, str]:
    key = key or ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example Root")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .sign(signer or key, hashes.SHA256())
    )
    key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem.decode()


RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("key", [None, RSA_KEY], ids=["ecdsa", "rsa"])
def test_an_operators_root_signs_and_is_cross_signed(key: pki.SigningKey | None, tmp_path: Path) -> None:
    pem, key_pem = operators_root(key=key)
    kept = pki_chain.check_root(f"some words before\n{pem}", key_pem, NOW)
    assert kept == pem
    own = leaf((kept, key_pem), pki_chain.cross_sign(kept, *OLD, NOW))
    for trust in (OLD[0], kept):
        handshake(tmp_path, own, own, server_trust=trust, client_trust=trust)
    back = leaf(NEW, pki_chain.cross_sign(NEW[0], kept, key_pem, NOW))
    handshake(tmp_path, back, back, server_trust=kept, client_trust=NEW[0])


ECDSA_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (("", NEW[1]), "no valid root CA certificates found"),
        ((OLD[0] + NEW[0], NEW[1]), "cannot contain multiple certificates"),
        ((OLD[0], NEW[1]), "certificate key mismatch"),
        ((NEW[0], "no key"), "malformed private key"),
        (operators_root(is_ca=False), "not the certificate of a CA"),
        (operators_root(signer=ECDSA_KEY), "not signed by its own key"),
        (operators_root(ends=NOW - datetime.timedelta(days=1)), "has expired or is not yet valid"),
        (operators_root(ends=NOW + datetime.timedelta(days=300)), "CA certificate expires too soon"),
        (operators_root(key=rsa.generate_private_key(65537, 1024)), "fewer than 2048 bits"),
    ],
)
def test_an_unfit_root_is_refused_with_the_reason(root: tuple[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as refused:
        pki_chain.check_root(*root, NOW)
    assert refused.value.status_code == 400
