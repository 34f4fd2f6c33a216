"""A network in its two forms: Docker's own (`GET /networks`) and the swarm's (inside a task's attachments)."""

import hashlib
import ipaddress
from typing import Any

from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.objects import Network, NetworkAttachment, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.api.render.meta import render_meta
from pyswarm_manager.api.render.names import task_name
from pyswarm_manager.store.tables import View
from pyswarm_manager.task_names import attachment_names

_VXLAN_OPTION = "com.docker.network.driver.overlay.vxlanid_list"


def render_network(network: Network) -> dict[str, Any]:
    """Return a network as the list shows it, without its members."""
    spec = network.spec
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_at_ns),
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": _ipam_configs(network)},
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": _options(network),
        "Labels": spec.labels or None,
    }


def render_network_details(network: Network, view: View, *, is_verbose: bool) -> dict[str, Any]:
    """Return a network as `inspect` shows it: with the containers of all nodes, the peers, and (verbose) the services."""
    members = [t for t in view.tasks.of_network(network.id) if t.status.state is TaskState.RUNNING and t.status.container_id]
    rendered = {**render_network(network), "Labels": network.spec.labels or {}}
    rendered["Containers"] = {task.status.container_id: _render_endpoint(network, task, view) for task in members}
    rendered["Peers"] = _render_peers(members, view)
    if is_verbose:
        rendered["Services"] = _render_services(network, members, view)
    return rendered


def render_attached_network(network: Network, version_index: int) -> dict[str, Any]:
    """Return a network as a task's attachment shows it."""
    spec = network.spec
    shown: dict[str, Any] = {"Name": network.name, "Labels": spec.labels or {}, "DriverConfiguration": {"Name": "overlay"}}
    flags = {"Internal": spec.internal, "Attachable": spec.attachable, "Ingress": spec.ingress}
    shown.update({name: True for name, is_set in flags.items() if is_set})
    shown["IPAMOptions"] = {"Driver": {"Name": "default"}}
    shown["Scope"] = "swarm"
    return {
        **render_meta(network, version_index),
        "Spec": shown,
        "DriverState": {"Name": "overlay", "Options": _options(network)},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": _ipam_configs(network)},
    }


def _options(network: Network) -> dict[str, str]:
    vxlan = {_VXLAN_OPTION: str(network.vni)} if network.vni else {}
    return {**vxlan, **(network.spec.options or {})}


def _ipam_configs(network: Network) -> list[dict[str, str]]:
    """The pools as allocated; as asked for before that."""
    if network.subnet:
        return [{"Subnet": network.subnet, "Gateway": network.gateway}]
    pools = (network.spec.ipam.config if network.spec.ipam else None) or []
    shown = ({"Subnet": pool.subnet, "IPRange": pool.ip_range, "Gateway": pool.gateway} for pool in pools)
    return [{name: value for name, value in pool.items() if value} for pool in shown]


def _render_endpoint(network: Network, task: Task, view: View) -> dict[str, str]:
    address = _attachment(network, task).address
    return {
        "Name": attachment_names(task, network.id, view)[0] if task.attached_container_id else task_name(task, view),
        "EndpointID": _endpoint_id(network, task),
        "MacAddress": _mac_address(address),
        "IPv4Address": address,
        "IPv6Address": "",
    }


def _render_peers(members: list[Task], view: View) -> list[dict[str, str]]:
    nodes = {task.node_id: view.nodes.get(task.node_id) for task in members}
    return [{"Name": i[:12], "IP": _data_path_address(view, i)} for i in sorted(nodes) if nodes[i] is not None]


def _render_services(network: Network, members: list[Task], view: View) -> dict[str, Any]:
    services: dict[str, Any] = {}
    for task in members:
        service = view.services.get(task.service_id)
        if service is None:
            continue
        vip = next((v.address for v in service.virtual_ips if v.network_id == network.id), "")
        entry = services.setdefault(service.name, {"VIP": _bare(vip), "Ports": [], "LocalLBIndex": 0, "Tasks": []})
        entry["Tasks"].append(
            {
                "Name": task_name(task, view),
                "EndpointID": _endpoint_id(network, task),
                "EndpointIP": _bare(_attachment(network, task).address),
                "Info": {"Host IP": _data_path_address(view, task.node_id)},
            }
        )
    return services


def _attachment(network: Network, task: Task) -> NetworkAttachment:
    return next(a for a in task.attachments if a.network_id == network.id)


def _data_path_address(view: View, node_id: str) -> str:
    node = view.nodes.get(node_id)
    return "" if node is None else node.description.data_path_address or node.status.address


def _bare(address: str) -> str:
    return address.partition("/")[0]


def _endpoint_id(network: Network, task: Task) -> str:
    """An endpoint has no id of its own here: 64 hex digits that stand for this task on this network."""
    return hashlib.sha256(f"{network.id}/{task.id}".encode()).hexdigest()


def _mac_address(address: str) -> str:
    """Docker's rule for overlays: 02:42 and the IPv4 address."""
    packed = ipaddress.IPv4Interface(address).ip.packed
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + packed)
