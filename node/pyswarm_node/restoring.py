"""How a node begins a cluster anew from a backup: `swarm restore`. Loaded when it is asked for, as founding.py is.

Nothing is remembered before all is written: a node that is killed meanwhile starts again as a node of no cluster.
"""

import asyncio
from typing import Any

import structlog

from pyswarm_manager.recovery.backup_format import read_backup
from pyswarm_manager.recovery.restoring import NewManager, RestoredCluster, restored_cluster
from pyswarm_node.daemon import Daemon
from pyswarm_node.founding import begin_cluster, parse_addresses

RESTORE_TIMEOUT_S = 600.0

_log = structlog.get_logger()


async def restore_cluster(daemon: Daemon, data: bytes, request: dict[str, Any], unlock_key: str) -> dict[str, Any]:
    """Become the only manager of the cluster in this backup; returns what the API answers.

    `request`: addresses, as in the body of `POST /swarm/init`. Raises PyswarmError, and then leaves the node as it was.
    """
    backup = await asyncio.to_thread(read_backup, data, unlock_key)
    before = backup.cluster
    addresses = parse_addresses({**request, "DataPathPort": before.data_path_port}, daemon.config.instance_tag)

    def make(private_key_pem: str) -> RestoredCluster:
        machine = NewManager(
            private_key_pem=private_key_pem,
            hostname=daemon.hostname,
            address=addresses.advertise,
            data_path_address=addresses.data_path,
            node_address=addresses.node,
        )
        return restored_cluster(backup, machine, daemon.clock.now_ns())

    restored = await begin_cluster(daemon, addresses, make, timeout_s=RESTORE_TIMEOUT_S)
    cluster = restored.cluster
    _log.info("swarm.restored", node=restored.node.id, cluster=cluster.id, taken=backup.header.created_at)
    return {
        "NodeID": restored.node.id,
        "ClusterID": cluster.id,
        "CreatedAt": backup.header.created_at,
        "Counts": backup.header.counts,
        "NodeAddr": addresses.node,
        "FormerManagers": [node.status.address for node in restored.former_managers],
        "Locked": bool(cluster.unlock_key),
    }
