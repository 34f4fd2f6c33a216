"""What an operator asks of the CA (`CAConfig` of the swarm's spec, as Docker's clients post it): how a change of the root begins.

    NodeCertExpiry              how long node certificates live, in nanoseconds; an hour at least
    ForceRotate                 a number; another one than before asks for a new root of ours
    SigningCACert, SigningCAKey the operator's own root; the present one ends a change that is under way
    ExternalCAs                 refused

Root and key are taken out of the spec that is stored and shown, as Docker does: a client that posts the whole spec back asks for no
change.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from pyswarm_common import pki, pki_chain
from pyswarm_common.errors import InvalidArgument, Unimplemented
from pyswarm_common.objects import Cluster, RootRotation
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.ca.signing import moment

_SIGNING_FIELDS = ("SigningCACert", "SigningCAKey")


@dataclass(frozen=True)
class CARequest:
    """A posted `CAConfig`, checked. `candidate`: root certificate and key (PEM) to change to, if a change is asked for."""

    force_rotate: int
    is_operators: bool
    candidate: tuple[str, str]
    now_ns: int


def parse_ca_config(spec: dict[str, Any], now_ns: int) -> CARequest:
    """Return what the posted swarm spec asks of the CA. Raises InvalidArgument, Unimplemented."""
    config = _config_of(spec)
    if config.get("ExternalCAs"):
        raise Unimplemented("external CAs are not supported: give the root and its key with --ca-cert and --ca-key")
    root_pem, key_pem = (str(config.get(name) or "") for name in _SIGNING_FIELDS)
    if key_pem and not root_pem:
        raise _invalid("if a signing CA key is provided, the signing CA cert must also be provided")
    if root_pem and not key_pem:
        raise _invalid("a signing CA cert needs its key, as external CAs are not supported: give --ca-key too")
    candidate = (pki_chain.check_root(root_pem, key_pem, moment(now_ns)), key_pem) if root_pem else pki.new_root(moment(now_ns))
    return CARequest(
        force_rotate=_whole_number(config, "ForceRotate"),
        is_operators=bool(root_pem),
        candidate=candidate,
        now_ns=now_ns,
    )


def stored_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the swarm's spec without what is not to be kept in it."""
    if "CAConfig" not in spec:
        return spec
    return {**spec, "CAConfig": {name: value for name, value in _config_of(spec).items() if name not in _SIGNING_FIELDS}}


def with_ca_request(cluster: Cluster, request: CARequest) -> Cluster:
    """Return the cluster as the operator wants its CA: perhaps with a change of the root begun, replaced or given up. Pure."""
    root_pem, key_pem = request.candidate
    if not request.is_operators and request.force_rotate == force_rotate_of(cluster):
        return cluster
    if root_pem == cluster.root_certificate_pem:
        return msgspec.structs.replace(cluster, root_key_pem=key_pem, root_rotation=None)
    rotation = cluster.root_rotation
    if rotation is not None and rotation.root_certificate_pem == root_pem:
        return cluster
    cross = pki_chain.cross_sign(root_pem, cluster.root_certificate_pem, cluster.root_key_pem, moment(request.now_ns))
    rotation = RootRotation(root_certificate_pem=root_pem, root_key_pem=key_pem, cross_certificate_pem=cross)
    return msgspec.structs.replace(cluster, root_rotation=rotation)


def force_rotate_of(cluster: Cluster) -> int:
    """Return the number that the stored spec has."""
    spec = msgspec.json.decode(cluster.spec_json, type=dict[str, Any])
    return _whole_number(_config_of(spec), "ForceRotate")


def certificate_lifetime_s(spec: dict[str, Any]) -> float | None:
    """Return how long node certificates shall live by a posted swarm spec, None if it does not say. Raises InvalidArgument."""
    nanoseconds = _whole_number(_config_of(spec), "NodeCertExpiry")
    if not nanoseconds:
        return None
    if nanoseconds < pki_chain.LEAST_NODE_LIFETIME_S * SECOND_NS:
        raise _invalid("minimum certificate expiry time is: 1h0m0s")
    return nanoseconds / SECOND_NS


def _config_of(spec: dict[str, Any]) -> dict[str, Any]:
    config = spec.get("CAConfig", {})
    if not isinstance(config, dict):
        raise InvalidArgument("invalid swarm spec: CAConfig must be an object")
    return config


def _whole_number(config: dict[str, Any], name: str) -> int:
    value = config.get(name) or 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidArgument(f"invalid swarm spec: CAConfig.{name} must be a whole number, 0 or more")
    return value


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument(message, grpc_code="InvalidArgument")
