"""The networks of this node, bridge, host and none and those that its users made, as Docker's list and inspect show them; pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pyswarm_agent.api.container_networks import network_names, networks_of
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.local_containers.records import BRIDGE, HOST, NONE
from pyswarm_agent.node_networks.records import NodeNetwork
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.own_networks import id_on_node
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.egress import gateway_of

_DRIVERS = {BRIDGE: "bridge", HOST: "host", NONE: "null"}
_BRIDGE_OPTIONS = {
    "com.docker.network.bridge.default_bridge": "true",
    "com.docker.network.bridge.enable_icc": "true",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
    "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
    "com.docker.network.driver.mtu": "1500",
}
_TRUE = ("true", "1")


class Member(NamedTuple):
    """A container, and what is known of it if it is a local one."""

    record: ContainerRecord
    held: Held | None


def local_networks(made: Iterable[NodeNetwork], *, bridge_subnet: str = "", created_at_ns: int = 0) -> list[dict[str, Any]]:
    """Return all as the list shows them, without their containers: those that users `made`, and the three that every node has.

    `bridge_subnet`: "" while none was chosen, which is with the first container that needs it.
    """
    pools = {BRIDGE: [_pool(bridge_subnet, gateway_of(bridge_subnet))]} if bridge_subnet else {}
    predefined = [_render(name, driver, pools.get(name, []), created_at_ns) for name, driver in _DRIVERS.items()]
    return [*map(_render_made, made), *predefined]


def carried_networks(views: Iterable[NetworkView]) -> list[dict[str, Any]]:
    """Return the cluster's networks that a node without a manager knows, as far as it knows them."""
    return [
        _render(view.name, "overlay", [_pool(view.subnet, view.gateway)], 0)
        | {
            "Id": view.network_id,
            "Scope": "swarm",
            "EnableIPv6": bool(view.ipv6_subnet),
            "Internal": view.internal,
            "Ingress": view.is_ingress,
            "Options": {"com.docker.network.driver.overlay.vxlanid_list": str(view.vni)},
        }
        for view in views
    ]


def _pool(subnet: str, gateway: str) -> dict[str, str]:
    return {"Subnet": subnet, "Gateway": gateway.partition("/")[0]}


def unused_networks(networks: Iterable[dict[str, Any]], members: Iterable[Member]) -> list[str]:
    """Return the ids of those that users made and that no container is on, running or not."""
    used = {id_ for member in members for id_ in network_names(member.record, member.held).values()}
    return [network["Id"] for network in networks if not _is_predefined(network) and network["Id"] not in used]


def with_members(network: dict[str, Any], members: Iterable[Member]) -> dict[str, Any]:
    """Return one of them as inspect shows it: with the containers that run there."""
    joined = {
        member.record.config.id: _endpoint(member, network["Name"])
        for member in members
        if member.record.is_live and network_names(member.record, member.held).get(network["Name"]) == network["Id"]
    }
    return {**network, "Containers": joined}


def find_local(networks: Iterable[dict[str, Any]], reference: str) -> dict[str, Any] | None:
    """Return the network with this name or id."""
    every = list(networks)
    named = (network for network in every if network["Name"] == reference)
    return next(named, next((network for network in every if network["Id"] == reference), None))


def is_shown(network: dict[str, Any], filters: Filters, members: Iterable[Member] = ()) -> bool:
    """Whether the filters of a list let a network of this node through; those that are predefined are never dangling."""
    return (
        filters.allows("driver", network["Driver"])
        and filters.allows("scope", network["Scope"])
        and filters.allows("type", "builtin" if _is_predefined(network) else "custom")
        and filters.allows_labels("label", network["Labels"])
        and all(
            key not in filters or any(part in network[member] for part in filters.values(key))
            for key, member in (("id", "Id"), ("name", "Name"))
        )
        and (
            "dangling" not in filters
            or bool(unused_networks([network], members)) in {value in _TRUE for value in filters.values("dangling")}
        )
    )


def _is_predefined(network: dict[str, Any]) -> bool:
    return network["Scope"] == "local" and network["Name"] in _DRIVERS


def _render_made(network: NodeNetwork) -> dict[str, Any]:
    pool: dict[str, Any] = {"Subnet": network.subnet, "Gateway": network.gateway}
    if network.ip_range:
        pool["IPRange"] = network.ip_range
    if network.reserved:
        pool["AuxiliaryAddresses"] = network.reserved
    shown = _render(network.name, network.driver, [pool], network.created_at_ns)
    return shown | {
        "Id": network.id,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [pool]},
        "Internal": network.is_internal,
        "Attachable": network.is_attachable,
        "Options": network.options,
        "Labels": network.labels,
    }


def _render(name: str, driver: str, pools: list[dict[str, str]], created_at_ns: int) -> dict[str, Any]:
    return {
        "Name": name,
        "Id": id_on_node(name),
        "Created": rfc3339(created_at_ns),
        "Scope": "local",
        "Driver": driver,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": pools},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": dict(_BRIDGE_OPTIONS) if name == BRIDGE else {},
        "Labels": {},
    }


def _endpoint(member: Member, network: str) -> dict[str, Any]:
    shown = networks_of(member.record, member.held)[network]
    address = f"{shown['IPAddress']}/{shown['IPPrefixLen']}" if shown["IPAddress"] else ""
    return {
        "Name": member.record.config.name,
        "EndpointID": shown["EndpointID"],
        "MacAddress": shown["MacAddress"],
        "IPv4Address": address,
        "IPv6Address": "",
    }
