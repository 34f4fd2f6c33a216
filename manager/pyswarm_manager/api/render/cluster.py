"""The cluster as `GET /swarm` and `GET /info` show it."""

from functools import lru_cache
from typing import Any

import msgspec

from pyswarm_common.objects import Cluster, NodeTLS
from pyswarm_common.pki import tls_info
from pyswarm_common.pki_chain import bundle_digest
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.api.render.meta import render_meta
from pyswarm_manager.ca.signing import signing_in_force, trusted_roots

_DEFAULT_ADDRESS_POOL = "10.0.0.0/8"
_RAFT = {
    "SnapshotInterval": 10000,
    "KeepOldSnapshots": 0,
    "LogEntriesForSlowFollowers": 500,
    "ElectionTick": 10,
    "HeartbeatTick": 1,
}
"""Docker's figures, for clients that post the whole spec back; our Raft is etcd, which has its own."""


def render_cluster_info(cluster: Cluster, version_index: int) -> dict[str, Any]:
    """Return the cluster without its join tokens, as `info` shows it."""
    pool = cluster.default_address_pool
    return {
        **render_meta(cluster, version_index),
        "Spec": render_cluster_spec(cluster),
        "TLSInfo": render_cluster_tls_info(cluster),
        "RootRotationInProgress": cluster.root_rotation is not None,
        "DefaultAddrPool": None if pool == _DEFAULT_ADDRESS_POOL else [pool],
        "SubnetSize": cluster.subnet_prefix_length,
        "DataPathPort": cluster.data_path_port,
    }


def render_swarm(cluster: Cluster, version_index: int) -> dict[str, Any]:
    """Return the cluster with its join tokens."""
    tokens = {"Worker": cluster.worker_join_token, "Manager": cluster.manager_join_token}
    return {**render_cluster_info(cluster, version_index), "JoinTokens": tokens}


def render_cluster_spec(cluster: Cluster) -> dict[str, Any]:
    """Return the cluster's spec: what was posted over the defaults, with the figures that are in force."""
    spec: dict[str, Any] = {
        "Name": "default",
        "Labels": {},
        "Orchestration": {},
        "Raft": dict(_RAFT),
        "Dispatcher": {},
        "CAConfig": {},
        "TaskDefaults": {},
        "EncryptionConfig": {},
    }
    for key, posted in msgspec.json.decode(cluster.spec_json, type=dict[str, Any]).items():
        default = spec.get(key)
        spec[key] = {**default, **posted} if isinstance(default, dict) and isinstance(posted, dict) else posted
    spec["Orchestration"]["TaskHistoryRetentionLimit"] = cluster.task_history_limit
    spec["CAConfig"]["NodeCertExpiry"] = round(cluster.node_certificate_lifetime_s * SECOND_NS)
    spec["Dispatcher"]["HeartbeatPeriod"] = round(cluster.heartbeat_period_s * SECOND_NS)
    spec["EncryptionConfig"]["AutoLockManagers"] = bool(cluster.unlock_key)
    return spec


def render_cluster_tls_info(cluster: Cluster) -> dict[str, str]:
    """Return the cluster's `TLSInfo`: what its nodes shall use."""
    return _render_tls_info(signing_in_force(cluster).root_pem, trusted_roots(cluster))


def render_node_tls_info(cluster: Cluster, tls: NodeTLS) -> dict[str, str]:
    """Return a node's `TLSInfo`, of what it says that it uses; empty where that is nothing which the cluster knows now."""
    signing, trusted = signing_in_force(cluster).root_pem, trusted_roots(cluster)
    issuers = {_digest(pem): pem for pem in (cluster.root_certificate_pem, signing) if pem}
    bundles = {_digest(pem): pem for pem in (cluster.root_certificate_pem, trusted) if pem}
    return _render_tls_info(issuers.get(tls.issuer_digest, ""), bundles.get(tls.trust_digest, ""))


@lru_cache(maxsize=16)
def _digest(pem: str) -> str:
    return bundle_digest(pem)


@lru_cache(maxsize=16)
def _render_tls_info(issuer_pem: str, trust_pem: str) -> dict[str, str]:
    issuer = tls_info(issuer_pem) if issuer_pem else {"CertIssuerSubject": "", "CertIssuerPublicKey": ""}
    return {"TrustRoot": trust_pem, **{name: issuer[name] for name in ("CertIssuerSubject", "CertIssuerPublicKey")}}
