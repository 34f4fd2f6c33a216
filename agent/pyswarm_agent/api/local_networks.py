"""The three networks that every node has, bridge, host and none, as Docker's list and inspect show them; pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pyswarm_agent.api.container_rendering import network_id, network_names, render_container
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.local_containers.network import POOL
from pyswarm_agent.local_containers.records import BRIDGE, HOST, NONE
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_netplugin.egress import gateway_of, subnet_of

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


def local_networks(members: Iterable[Member], created_at_ns: int) -> list[dict[str, Any]]:
    """Return all three as the list shows them, without their containers."""
    pools = {BRIDGE: [_bridge_pool(members)]}
    return [_render(name, driver, pools.get(name, []), created_at_ns) for name, driver in _DRIVERS.items()]


def with_members(network: dict[str, Any], members: Iterable[Member]) -> dict[str, Any]:
    """Return one of them as inspect shows it: with the containers that run there."""
    joined = {
        member.record.config.id: _endpoint(member, network["Name"])
        for member in members
        if member.record.is_live and network["Name"] in network_names(member.record, member.held)
    }
    return {**network, "Containers": joined}


def find_local(networks: Iterable[dict[str, Any]], reference: str) -> dict[str, Any] | None:
    """Return the network with this name or id."""
    return next((network for network in networks if reference in (network["Name"], network["Id"])), None)


def is_shown(network: dict[str, Any], filters: Filters) -> bool:
    """Whether the filters of a list let a network of this node through: it is predefined, and so never dangling."""
    return (
        filters.allows("driver", network["Driver"])
        and filters.allows("scope", "local")
        and filters.allows("type", "builtin")
        and filters.allows_labels("label", {})
        and all(
            key not in filters or any(part in network[member] for part in filters.values(key))
            for key, member in (("id", "Id"), ("name", "Name"))
        )
        and not set(filters.values("dangling")).intersection(_TRUE)
    )


def _render(name: str, driver: str, pools: list[dict[str, str]], created_at_ns: int) -> dict[str, Any]:
    return {
        "Name": name,
        "Id": network_id(name),
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
    shown = render_container(member.record, 0, held=member.held)["NetworkSettings"]["Networks"][network]
    address = f"{shown['IPAddress']}/{shown['IPPrefixLen']}" if shown["IPAddress"] else ""
    return {
        "Name": member.record.config.name,
        "EndpointID": shown["EndpointID"],
        "MacAddress": shown["MacAddress"],
        "IPv4Address": address,
        "IPv6Address": "",
    }


def _bridge_pool(members: Iterable[Member]) -> dict[str, str]:
    """The bridge's subnet is chosen when its first container starts: until then, the one that it will try first."""
    for _, held in members:
        if held is not None and held.container.network_mode == BRIDGE and held.place is not None and held.place.address:
            subnet = subnet_of(held.place.address)
            break
    else:
        subnet = POOL
    return {"Subnet": subnet, "Gateway": gateway_of(subnet).partition("/")[0]}
