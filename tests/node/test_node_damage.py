"""Damaged files of a node: what is wrong is said together with what to do."""

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from pyswarm_common import pki
from pyswarm_common.errors import PyswarmError
from pyswarm_node.certificate_check import check_certificate
from pyswarm_node.membership import Membership, MembershipStore

ROOT_PEM, ROOT_KEY_PEM = pki.new_root(datetime.datetime.now(datetime.UTC))
MEMBERSHIP = Membership(node_id="n1", cluster_id="c", role="manager", advertise_address="10.0.0.1", data_path_address="10.0.0.1")


def certificate(key_pem: str, node_id: str = "n1") -> str:
    identity = pki.NodeIdentity(node_id=node_id, role="manager", cluster_id="c")
    request = pki.new_signing_request(key_pem)
    return pki.sign_node_certificate(ROOT_PEM, ROOT_KEY_PEM, request, identity, (), datetime.datetime.now(datetime.UTC))


@pytest.fixture
def files(tmp_path: Path) -> MembershipStore:
    files = MembershipStore(tmp_path / "data", tmp_path / "run")
    key = files.private_key()
    files.save_certificate(root_pem=ROOT_PEM, certificate_pem=certificate(key), key_pem=key)
    files.save(MEMBERSHIP)
    return files


def again(files: MembershipStore) -> MembershipStore:
    """Return the files as the next start of the daemon sees them."""
    return MembershipStore(files.folder.parent, files.folder.parent.parent / "run")


def lose_the_certificate(files: MembershipStore) -> None:
    files.certificate_path.unlink()


def cut_the_certificate_off(files: MembershipStore) -> None:
    files.certificate_path.write_text(files.certificate_path.read_text()[:100])


def damage_the_root(files: MembershipStore) -> None:
    files.root_path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def lose_the_root(files: MembershipStore) -> None:
    files.root_path.unlink()


def take_anothers_certificate(files: MembershipStore) -> None:
    files.certificate_path.write_text(certificate(files.private_key(), "n2"))


def take_a_certificate_of_another_key(files: MembershipStore) -> None:
    files.certificate_path.write_text(certificate(pki.new_private_key_pem()))


def damage_the_keys(files: MembershipStore) -> None:
    (files.certificates / "node-keys.json").write_text("{")


def test_sound_files_pass(files: MembershipStore) -> None:
    check_certificate(again(files), MEMBERSHIP)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lose_the_certificate, r"node\.crt is missing"),
        (cut_the_certificate_off, "damaged"),
        (damage_the_root, "cannot be used"),
        (lose_the_root, "damaged"),
        (take_anothers_certificate, "is that of node n2, and this is node n1"),
        (take_a_certificate_of_another_key, "the key is not that of the certificate"),
        (damage_the_keys, "has lost its keys"),
    ],
)
def test_damage_is_named_with_what_to_do(files: MembershipStore, damage: Callable[[MembershipStore], None], problem: str) -> None:
    damage(files)
    with pytest.raises(PyswarmError, match=problem) as caught:
        check_certificate(again(files), MEMBERSHIP)
    assert "join again" in caught.value.message


def test_a_damaged_state_is_named_with_what_to_do(files: MembershipStore) -> None:
    (files.folder / "state.json").write_text('{"node_id": "n1", ')
    with pytest.raises(PyswarmError, match="does not know its cluster any more") as caught:
        again(files).load()
    assert "swarm leave --force" in caught.value.message


def test_lost_data_keys_are_named_with_what_to_do(files: MembershipStore) -> None:
    with pytest.raises(PyswarmError, match="has lost the keys of its store") as caught:
        again(files).load_data_keys()
    assert "swarm restore FILE" in caught.value.message
