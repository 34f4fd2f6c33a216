"""A network in its two forms: Docker's own (`GET /networks`) and the swarm's (inside a task's attachments)."""

import hashlib
import ipaddress
from collections.abc import Iterable
from typing import Any

from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.ipv6 import ipv6_address_of
from pyswarm_common.network_options import VNI_LIST
from pyswarm_common.objects import Network, NetworkAttachment, Node, Service, Task
from pyswarm_common.own_networks import DRIVERS, PREDEFINED_LABEL, id_in_swarm
from pyswarm_common.specs import IPAMPool
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.ipam import address_text
from pyswarm_manager.allocator.subnets import subnets_of
from pyswarm_manager.api.render.meta import render_meta
from pyswarm_manager.api.render.names import task_name
from pyswarm_manager.store.tables import View
from pyswarm_manager.task_names import attachment_names


def render_network(network: Network) -> dict[str, Any]:
    """Return a network as the list shows it, without its members."""
    spec = network.spec
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_at_ns),
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv6": spec.enable_ipv6,
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


def render_network_details(network: Network, view: View, *, is_verbose: bool, own_node_id: str = "") -> dict[str, Any]:
    """Return a network as `inspect` shows it: with the containers of all nodes, the peers, and (verbose) the services.

    `own_node_id`: the node that was asked.
    """
    members = [t for t in view.tasks.of_network(network.id) if t.status.state is TaskState.RUNNING and t.status.container_id]
    rendered = {**render_network(network), "Labels": network.spec.labels or {}}
    rendered["Containers"] = {task.status.container_id: _render_endpoint(network, task, view) for task in members}
    gateways = _gateways(network, view, own_node_id)
    rendered["Containers"] |= {key: _render_gateway(network, *gateway) for key, gateway in gateways.items()}
    rendered["Peers"] = _render_peers({t.node_id for t in members} | {node.id for node, _ in gateways.values()}, view)
    if is_verbose:
        rendered["Services"] = _render_services(network, members, view)
    return rendered


def render_own_network(name: str, view: View) -> dict[str, Any]:
    """Return one of the networks that each node has of its own as services know it: in the swarm's scope, and on no list."""
    return {
        "Name": name,
        "Id": id_in_swarm(name),
        "Created": rfc3339(view.cluster.created_at_ns),
        "Scope": "swarm",
        "Driver": DRIVERS[name],
        "EnableIPv6": False,
        "IPAM": {"Driver": "", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": None,
        "Labels": {PREDEFINED_LABEL: "true"},
    }


def render_attached_network(network: Network, version_index: int) -> dict[str, Any]:
    """Return a network as a task's attachment shows it."""
    spec = network.spec
    driver, ipam_driver = ({}, {}) if spec.ingress else ({"Name": "overlay"}, {"Name": "default"})  # as Docker's own is made
    shown: dict[str, Any] = {"Name": network.name, "Labels": spec.labels or {}, "DriverConfiguration": driver}
    flags = {"Internal": spec.internal, "Attachable": spec.attachable, "Ingress": spec.ingress}
    shown.update({name: True for name, is_set in flags.items() if is_set})
    shown["IPAMOptions"] = {"Driver": ipam_driver}
    shown["Scope"] = "swarm"
    return {
        **render_meta(network, version_index),
        "Spec": shown,
        "DriverState": {"Name": "overlay", "Options": _options(network)},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": _ipam_configs(network)},
    }


def _options(network: Network) -> dict[str, str]:
    vxlan = {VNI_LIST: str(network.vni)} if network.vni else {}
    return {**vxlan, **(network.spec.options or {})}


def _ipam_configs(network: Network) -> list[dict[str, Any]]:
    """The pools as allocated; as asked for before that."""
    pools = (network.spec.ipam.config if network.spec.ipam else None) or []
    if not network.subnet:
        return [_pool(pool, pool.subnet, pool.gateway) for pool in pools]
    asked = {pool.subnet: pool for pool in pools}
    gateways = (address_text(subnet.gateway) for subnet in subnets_of(network))
    shown = list(zip((network.subnet, *network.further_subnets), gateways, strict=True))
    if network.ipv6_subnet:
        shown.append((network.ipv6_subnet, ipv6_address_of(network.ipv6_subnet, network.gateway)))
    return [_pool(asked.get(subnet, IPAMPool()), subnet, gateway) for subnet, gateway in shown]


def _pool(asked: IPAMPool, subnet: str, gateway: str) -> dict[str, Any]:
    shown = {"Subnet": subnet, "IPRange": asked.ip_range, "Gateway": gateway, "AuxiliaryAddresses": asked.auxiliary_addresses}
    return {name: value for name, value in shown.items() if value}


def _render_endpoint(network: Network, task: Task, view: View) -> dict[str, str]:
    name = attachment_names(task, network.id, view)[0] if task.attached_container_id else task_name(task, view)
    return _endpoint(network, _attachment(network, task), name, _endpoint_id(network, task))


def _endpoint(network: Network, attachment: NetworkAttachment, name: str, endpoint_id: str) -> dict[str, str]:
    ipv6 = network.ipv6_subnet
    return {
        "Name": name,
        "EndpointID": endpoint_id,
        "MacAddress": attachment.mac or _mac_address(attachment.address),
        "IPv4Address": attachment.address,
        "IPv6Address": f"{ipv6_address_of(ipv6, attachment.address)}/{ipv6.partition('/')[2]}" if ipv6 else "",
    }


def _gateways(network: Network, view: View, own_node_id: str) -> dict[str, tuple[Node, NetworkAttachment]]:
    """The nodes' own places on the ingress network; Docker's name is of the node that was asked, the others' ends in their id."""
    found = [(node, a) for node in view.nodes for a in node.attachments if a.network_id == network.id]
    found.sort(key=lambda gateway: (gateway[0].id != own_node_id, gateway[0].id))
    return {f"ingress-sbox.{node.id}" if number else "ingress-sbox": (node, a) for number, (node, a) in enumerate(found)}


def _render_gateway(network: Network, node: Node, attachment: NetworkAttachment) -> dict[str, str]:
    return _endpoint(network, attachment, "ingress-endpoint", hashlib.sha256(f"{network.id}/{node.id}".encode()).hexdigest())


def _render_peers(node_ids: Iterable[str], view: View) -> list[dict[str, str]]:
    return [{"Name": i[:12], "IP": _data_path_address(view, i)} for i in sorted(node_ids) if i in view.nodes]


def _render_services(network: Network, members: list[Task], view: View) -> dict[str, Any]:
    services: dict[str, Any] = {}
    for task in members:
        service = view.services.get(task.service_id)
        if service is None:
            continue
        vip = next((v.address for v in service.virtual_ips if v.network_id == network.id), "")
        entry = services.setdefault(
            service.name,
            {"VIP": _bare(vip), "Ports": _ports(network, service), "LocalLBIndex": 0, "Tasks": []},
        )
        entry["Tasks"].append(
            {
                "Name": task_name(task, view),
                "EndpointID": _endpoint_id(network, task),
                "EndpointIP": _bare(_attachment(network, task).address),
                "Info": _info(task, view),
            }
        )
    return services


def _info(task: Task, view: View) -> dict[str, str]:
    """Docker's word of where the task is; in the same map, which may hold anything, ours."""
    node = view.nodes.get(task.node_id)
    return {
        "Host IP": _data_path_address(view, task.node_id),
        "Node": "" if node is None else node.description.hostname,
        "Node ID": task.node_id,
        "Service ID": task.service_id,
        "Task ID": task.id,
    }


def _ports(network: Network, service: Service) -> list[str]:
    """The service's ports of the routing mesh: on its network alone, in Docker's words."""
    ports = service.ports if network.spec.ingress else ()
    return [f"Target: {p.target_port}, Publish: {p.published_port}" for p in ports if p.publish_mode == "ingress"]


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
