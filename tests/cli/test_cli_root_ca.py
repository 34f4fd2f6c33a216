"""`pyswarm swarm ca`: what it asks for, and how far it says that the nodes are."""

from typing import Any

import pytest

from pyswarm_cli.swarm.root_ca import RotationProgress, rotated_config, rotation_progress

NEW = {"TrustRoot": "new", "CertIssuerSubject": "s", "CertIssuerPublicKey": "k2"}
BOTH = {**NEW, "TrustRoot": "old new"}
OLD = {"TrustRoot": "old", "CertIssuerSubject": "s", "CertIssuerPublicKey": "k1"}


def node(name: str, tls: dict[str, str] | None, state: str = "ready") -> dict[str, Any]:
    return {"ID": name, "Description": {"Hostname": name, "TLSInfo": tls}, "Status": {"State": state}}


def swarm(tls: dict[str, str], *, is_rotating: bool) -> dict[str, Any]:
    return {"TLSInfo": tls, "RootRotationInProgress": is_rotating}


def test_while_it_goes_on_certificates_are_counted_and_the_others_named() -> None:
    nodes = [node("a", BOTH), node("b", OLD), node("c", OLD, "down"), node("d", None)]
    progress = rotation_progress(swarm(BOTH, is_rotating=True), nodes)
    assert progress == RotationProgress(certificates=1, roots=0, total=4, awaited=("b", "c (down)", "d"), is_over=False)
    assert progress.text == ("rotated TLS certificates: 1/4 nodes, CA certificates: 0/4 nodes; waiting for b, c (down), d")


def test_it_is_over_when_all_nodes_trust_the_new_root_alone() -> None:
    late = rotation_progress(swarm(NEW, is_rotating=False), [node("a", NEW), node("b", BOTH)])
    assert (late.certificates, late.roots, late.awaited, late.is_over) == (2, 1, ("b",), False)
    assert rotation_progress(swarm(NEW, is_rotating=False), [node("a", NEW), node("b", NEW)]).is_over


def test_many_awaited_nodes_are_cut_short() -> None:
    nodes = [node(f"n{i}", OLD) for i in range(9)]
    assert rotation_progress(swarm(BOTH, is_rotating=True), nodes).text.endswith("waiting for n0, n1, n2, n3, n4 …")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"NodeCertExpiry": 5, "SigningCACert": "", "SigningCAKey": "", "ForceRotate": 3}),
        ({"root_pem": "r", "key_pem": "k"}, {"NodeCertExpiry": 5, "SigningCACert": "r", "SigningCAKey": "k", "ForceRotate": 2}),
        ({"expiry_ns": 7}, {"NodeCertExpiry": 7, "SigningCACert": "", "SigningCAKey": "", "ForceRotate": 3}),
    ],
)
def test_what_is_asked_for(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    given = {"root_pem": "", "key_pem": "", "expiry_ns": None, **arguments}
    assert rotated_config({"NodeCertExpiry": 5, "ForceRotate": 2}, **given) == expected
