"""The `Swarm` section of `info`, and the warnings beside it: the truth about this node's place in the swarm, in Docker's words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyswarm_common.disk_space import disk_full_message, is_disk_full
from pyswarm_node.api.control import LocalState, NodeControl

if TYPE_CHECKING:
    from pyswarm_manager.api.manager_services import ManagerServices

TWO_MANAGERS = """WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance."""


def describe_swarm(control: NodeControl) -> dict[str, Any]:
    """Return the `Swarm` section of `info`."""
    local, manager = control.local, control.manager
    section: dict[str, Any] = {
        "NodeID": local.node_id,
        "NodeAddr": local.node_addr,
        "LocalNodeState": local.swarm_state,
        "ControlAvailable": manager is not None,
        "Error": _error(local, manager),
        "RemoteManagers": [{"NodeID": m.node_id, "Addr": m.address} for m in local.managers] or None,
    }
    if local.encryption:
        section["EncryptedOverlays"] = local.encryption
    if local.progress:
        section["Progress"] = local.progress
    if manager is not None:
        section |= _describe_cluster(manager)
        if section["Managers"] == 2:
            section["Warnings"] = [TWO_MANAGERS]
    return section


def describe_warnings(local: LocalState, swarm: dict[str, Any], network: Sequence[str] = ()) -> list[str] | None:
    """Return the `Warnings` of `info`, given its `Swarm` section and those of the `network`; None for none, as Docker shows it."""
    warnings = [f"WARNING: {disk_full_message(local.data_dir)}"] if is_disk_full(local.data_dir) else []
    return warnings + [f"WARNING: {each}" for each in network] + swarm.get("Warnings", []) or None


def _describe_cluster(manager: "ManagerServices") -> dict[str, Any]:
    from pyswarm_manager.api.render.cluster import render_cluster_info  # there is a manager, so it is loaded already

    view = manager.store.view
    return {
        "Nodes": len(view.nodes),
        "Managers": sum(node.manager is not None for node in view.nodes),
        "Cluster": render_cluster_info(view.cluster, manager.store.version_index(view.cluster)),
    }


def _error(local: LocalState, manager: "ManagerServices | None") -> str:
    problem = local.error or (manager.problem() if manager is not None else "")
    has_trouble = problem or local.swarm_state == "pending"
    if has_trouble and "no space left" not in problem and is_disk_full(local.data_dir):
        return disk_full_message(local.data_dir) + (f" ({problem})" if problem else "")
    return problem
