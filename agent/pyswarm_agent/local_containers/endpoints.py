"""What a request asks of a container's place on a network; pure."""

import ipaddress
import re

from pyswarm_agent.local_containers.create_body import EndpointBody, EndpointIPAMBody
from pyswarm_agent.local_containers.records import BRIDGE, HOST, NONE, Joined
from pyswarm_common.errors import InvalidArgument, Unimplemented

_DEFAULT_NETWORKS = (BRIDGE, HOST, NONE)
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")
_GROUP_BIT = 1


def joined_of(network: str, endpoint: EndpointBody) -> Joined:
    """Return what a checked request asks for."""
    return Joined(
        network=network,
        aliases=tuple(endpoint.aliases or ()),
        address=(endpoint.ipam_config or EndpointIPAMBody()).ipv4_address,
        mac=endpoint.mac_address.lower().replace("-", ":"),
        priority=endpoint.gw_priority,
    )


def check_endpoint(network: str, endpoint: EndpointBody) -> None:
    """Raise InvalidArgument for what cannot be, Unimplemented for what nobody would do."""
    ipam = endpoint.ipam_config or EndpointIPAMBody()
    if endpoint.links:
        raise Unimplemented(
            "--link is not offered: containers on one network find each other by name; further names are --network-alias"
        )
    if endpoint.driver_opts:
        raise Unimplemented(f"driver options of an endpoint are not offered: {', '.join(sorted(endpoint.driver_opts))}")
    if ipam.ipv6_address or ipam.link_local_ips:
        raise Unimplemented(f"{'--ip6' if ipam.ipv6_address else '--link-local-ip'} is not offered on the networks of one node")
    if ipam.ipv4_address:
        try:
            ipaddress.IPv4Address(ipam.ipv4_address)
        except ValueError as error:
            raise InvalidArgument(f"invalid IPv4 address: {ipam.ipv4_address}") from error
    if endpoint.mac_address and not (_MAC.fullmatch(endpoint.mac_address) and not int(endpoint.mac_address[:2], 16) & _GROUP_BIT):
        raise InvalidArgument(f"{endpoint.mac_address} is not a valid mac address")
    if network in _DEFAULT_NETWORKS:
        _check_default(endpoint, ipam)


def _check_default(endpoint: EndpointBody, ipam: EndpointIPAMBody) -> None:
    if ipam.ipv4_address:
        raise InvalidArgument("invalid config: user specified IP address is supported on user defined networks only")
    if endpoint.aliases:
        raise InvalidArgument("network-scoped aliases are only supported for user-defined networks")
    if endpoint.mac_address:
        raise Unimplemented("--mac-address is not offered on the default networks: make one (network create), and use it")
