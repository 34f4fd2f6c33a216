"""The cluster as `GET /swarm` and `GET /info` show it."""

from functools import lru_cache
from typing import Any

import msgspec

from pyswarm_common.objects import Cluster
from pyswarm_common.pki import tls_info
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.api.render.meta import render_meta

_DEFAULT_ADDRESS_POOL = "10.0.0.0/8"
_NODE_CERTIFICATE_EXPIRY_NS = 90 * 24 * 3600 * SECOND_NS
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
        "TLSInfo": render_tls_info(cluster.root_certificate_pem),
        "RootRotationInProgress": False,
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
        "CAConfig": {"NodeCertExpiry": _NODE_CERTIFICATE_EXPIRY_NS},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": False},
    }
    for key, posted in msgspec.json.decode(cluster.spec_json, type=dict[str, Any]).items():
        default = spec.get(key)
        spec[key] = {**default, **posted} if isinstance(default, dict) and isinstance(posted, dict) else posted
    spec["Orchestration"]["TaskHistoryRetentionLimit"] = cluster.task_history_limit
    spec["Dispatcher"]["HeartbeatPeriod"] = round(cluster.heartbeat_period_s * SECOND_NS)
    return spec


@lru_cache(maxsize=4)
def render_tls_info(root_certificate_pem: str) -> dict[str, str]:
    """Return the `TLSInfo` of the root; empty before there is one."""
    if not root_certificate_pem:
        return {"TrustRoot": "", "CertIssuerSubject": "", "CertIssuerPublicKey": ""}
    return tls_info(root_certificate_pem)
