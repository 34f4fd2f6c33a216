"""A node as `GET /nodes` shows it."""

from typing import Any

import msgspec

from pyswarm_common.objects import Node, NodeDescription, NodePermissions, NodeResources
from pyswarm_manager.api.render.meta import render_meta

PLUGINS = (
    {"Type": "Log", "Name": "json-file"},
    {"Type": "Network", "Name": "host"},
    {"Type": "Network", "Name": "null"},
    {"Type": "Network", "Name": "overlay"},
    {"Type": "Volume", "Name": "local"},
)


def render_node(
    node: Node, version_index: int, *, tls_info: dict[str, str], leader_node_id: str | None, reachability: str
) -> dict[str, Any]:
    """Return a node's JSON; `reachability`: of a manager, unless it leads."""
    rendered = {
        **render_meta(node, version_index),
        "Spec": _render_spec(node),
        "Description": _render_description(node, tls_info),
        "Status": _render_status(node),
    }
    if node.manager is not None:
        rendered["ManagerStatus"] = _render_manager_status(node, reachability, is_leader=node.id == leader_node_id)
    return rendered


def _render_spec(node: Node) -> dict[str, Any]:
    spec = {"Labels": node.spec.labels, "Role": node.spec.role, "Availability": node.spec.availability}
    return {"Name": node.spec.name, **spec} if node.spec.name else spec


def _render_description(node: Node, tls_info: dict[str, str]) -> dict[str, Any]:
    description = node.description
    engine: dict[str, Any] = {"EngineVersion": description.engine_version}
    if description.engine_labels:
        engine["Labels"] = description.engine_labels
    engine["Plugins"] = PLUGINS
    rendered: dict[str, Any] = {
        "Hostname": description.hostname,
        "Platform": {"Architecture": description.architecture, "OS": description.os},
        "Resources": _render_resources(description.resources),
        "Engine": engine,
        "TLSInfo": tls_info,
    }
    if description.encryption or description.encryption_problem:
        rendered["Encryption"] = _render_encryption(description)
    if description.permissions != NodePermissions():
        rendered["Permissions"] = _render_permissions(description.permissions)
    return rendered


def _render_encryption(description: NodeDescription) -> dict[str, Any]:
    """How the node carries encrypted overlays, or why it cannot, which Docker's API does not know."""
    if not description.encryption:
        return {"Kind": "none", "Problem": description.encryption_problem}
    return {"Kind": description.encryption, "PublicKey": description.wireguard_key, "Port": description.wireguard_port}


def _render_permissions(permissions: NodePermissions) -> dict[str, Any]:
    """What the operator allows there, which Docker's API does not know."""
    return {
        "Privileged": permissions.allows_privileged,
        "Devices": list(permissions.devices),
        "CDIDevices": list(permissions.cdi_devices),
    }


def _render_resources(resources: NodeResources) -> dict[str, Any]:
    rendered: dict[str, Any] = {"NanoCPUs": resources.nano_cpus, "MemoryBytes": resources.memory_bytes}
    if resources.generic_resources:
        rendered["GenericResources"] = msgspec.to_builtins(resources.generic_resources)
    return rendered


def _render_status(node: Node) -> dict[str, Any]:
    status: dict[str, Any] = {"State": node.status.state}
    if node.status.message:
        status["Message"] = node.status.message
    return {**status, "Addr": node.status.address}


def _render_manager_status(node: Node, reachability: str, *, is_leader: bool) -> dict[str, Any]:
    status = {"Reachability": "reachable" if is_leader else reachability, "Addr": node.manager.address if node.manager else ""}
    return {"Leader": True, **status} if is_leader else status
