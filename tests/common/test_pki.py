"""Certificates and join tokens."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common import pki
from pyswarm_common.errors import InvalidArgument

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
IDENTITY = pki.NodeIdentity(node_id="n" * 25, role="worker", cluster_id="c" * 25)


@pytest.fixture(scope="module")
def root() -> tuple[str, str]:
    return pki.new_root(NOW)


def signed(root: tuple[str, str], identity: pki.NodeIdentity = IDENTITY) -> str:
    request = pki.new_signing_request(pki.new_private_key_pem())
    return pki.sign_node_certificate(*root, request, identity, ("10.0.0.1", "10.0.0.1"), NOW)


def test_a_certificate_says_who_its_node_is(root: tuple[str, str]) -> None:
    pem = signed(root)
    assert pki.identity_of(pem.encode()) == IDENTITY
    der = ssl.PEM_cert_to_DER_cert(pem)
    assert pki.identity_of(der) == IDENTITY


def test_a_worker_certificate_does_not_carry_the_managers_name(root: tuple[str, str]) -> None:
    names = x509.load_pem_x509_certificate(signed(root).encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["swarm-worker", "n" * 25]


def test_the_root_verifies_what_it_signed_and_no_other_root_does(root: tuple[str, str]) -> None:
    certificate = x509.load_pem_x509_certificate(signed(root).encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root[0].encode()))
    other, _ = pki.new_root(NOW)
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(other.encode()))


def test_a_token_pins_its_ca(root: tuple[str, str]) -> None:
    token = pki.parse_join_token(pki.new_join_token(root[0]))
    assert token.ca_digest == pki.root_digest(root[0])
    assert pki.root_digest(pki.new_root(NOW)[0]) != token.ca_digest


def test_tokens_are_compared_whole(root: tuple[str, str]) -> None:
    token = pki.new_join_token(root[0])
    assert pki.token_opens(token + "\n", token)
    assert not pki.token_opens(token[:-1], token)
    assert not pki.token_opens("", token)


@given(st.text(max_size=120))
def test_any_text_is_a_token_or_a_clear_error(text: str) -> None:
    try:
        token = pki.parse_join_token(text)
    except InvalidArgument:
        return
    assert (len(token.ca_digest), len(token.secret)) == (50, 25)


def test_a_bad_token_says_what_one_looks_like() -> None:
    with pytest.raises(InvalidArgument, match="SWMTKN-1-"):
        pki.parse_join_token("SWMTKN-1-short-token")


def test_a_forged_request_is_refused(root: tuple[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        pki.sign_node_certificate(*root, "no request", IDENTITY, (), NOW)
