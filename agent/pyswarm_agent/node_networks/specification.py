"""From the body of `POST /networks/create` to a network of this node; pure.

Source: Moby `daemon/network.go`, libnetwork `drivers/bridge`, `ipamutils` (the pools from which subnets are chosen).
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pyswarm_agent.node_networks.records import (
    BINDING_OPTION,
    COMMUNICATION_OPTION,
    MASQUERADE_OPTION,
    MTU_OPTION,
    NAME_OPTION,
    NodeNetwork,
)
from pyswarm_common.engine_api.member_names import with_canonical_names
from pyswarm_common.engine_api.responses import without_nulls
from pyswarm_common.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unimplemented
from pyswarm_common.specs import IPAMPool, NetworkSpec
from pyswarm_netplugin.host_bridges.bridges import interface_name

POOLS = (*(f"172.{second}.0.0/16" for second in range(17, 32)), *(f"192.168.{third}.0/20" for third in range(0, 256, 16)))
"""What Docker chooses from."""
LOCAL_DRIVERS = ("bridge", "macvlan", "ipvlan")
PREDEFINED = ("bridge", "host", "none", "default")
_HONOURED = (MTU_OPTION, NAME_OPTION, MASQUERADE_OPTION, BINDING_OPTION, COMMUNICATION_OPTION)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_SMALLEST_MTU_BYTES, _LARGEST_MTU_BYTES = 68, 65535
_LONGEST_PREFIX = 30
_OVERLAPS = "Pool overlaps with other one on this address space"


def is_local(body: Mapping[str, Any]) -> bool:
    """Whether a body asks for a network of the node that is asked, not of the cluster."""
    named = {key.lower(): value for key, value in body.items()}
    driver, scope = named.get("driver") or "bridge", named.get("scope") or ""
    return driver in (*LOCAL_DRIVERS, "host", "null") and scope in ("", "local") and not named.get("ingress")


def parse(body: Mapping[str, Any]) -> NetworkSpec:
    """Return the checked spec. Raises InvalidArgument, NotFound, PermissionDenied, Unimplemented, FailedPrecondition."""
    try:
        spec = msgspec.convert(with_canonical_names(without_nulls(dict(body)), NetworkSpec), NetworkSpec)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid network spec: {error}") from error
    driver = spec.driver or "bridge"
    if spec.name in PREDEFINED:
        raise PermissionDenied(f"operation is not permitted on predefined {spec.name} network")
    if driver in ("host", "null"):
        raise PermissionDenied(f'only one instance of "{driver}" network is allowed')
    if not _NAME.fullmatch(spec.name):
        raise InvalidArgument(f"invalid network name {spec.name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    if driver in ("macvlan", "ipvlan"):
        raise Unimplemented(
            f"networks of the driver {driver} are not offered: containers reach the outside through a bridge network (--driver "
            "bridge), other hosts' containers through an overlay network (--driver overlay --attachable)"
        )
    named = {key.lower(): value for key, value in body.items()}
    if named.get("configonly") or (named.get("configfrom") or {}).get("Network"):
        raise Unimplemented("networks that only hold configuration, or take it from another, are not offered")
    if spec.enable_ipv6:
        raise Unimplemented(
            "IPv6 on bridge networks is not offered: overlay networks have it (--driver overlay --attachable --ipv6)"
        )
    if spec.ipam is not None and spec.ipam.driver not in ("", "default"):
        raise NotFound(f'plugin "{spec.ipam.driver}" not found')
    _check_options(spec.options or {})
    return spec


def warning_about(spec: NetworkSpec) -> str:
    """Return what the spec asks for and will not get, said openly; "" when there is nothing to say."""
    ignored = sorted(set(spec.options or {}).difference(_HONOURED))
    return f"these options are stored but have no effect: {', '.join(ignored)}" if ignored else ""


def build(spec: NetworkSpec, others: Iterable[NodeNetwork], taken: Iterable[str], *, id_: str, now_ns: int) -> NodeNetwork:
    """Return the network with a subnet that overlaps none of the others' and, if it is ours to choose, nothing that is `taken`.

    `taken`: the host's routes and what this node keeps for itself. Raises InvalidArgument, PermissionDenied, FailedPrecondition.
    """
    pools = [pool for pool in (spec.ipam.config if spec.ipam is not None else None) or [] if pool != IPAMPool()]
    if len(pools) > 1:
        raise InvalidArgument("a bridge network has one IPv4 subnet: make further networks, containers can be on several")
    pool = pools[0] if pools else IPAMPool()
    used = [ipaddress.IPv4Network(other.subnet) for other in others]
    if pool.subnet:
        subnet = _network(pool.subnet, "subnet")
        if any(subnet.overlaps(other) for other in used):
            raise PermissionDenied(f"invalid pool request: {_OVERLAPS}")
    elif pool.ip_range or pool.gateway:
        raise InvalidArgument("invalid network config: --gateway and --ip-range need a --subnet in which they are")
    else:
        subnet = _choose([*used, *_networks(taken)])
    return NodeNetwork(
        id=id_,
        name=spec.name,
        created_at_ns=now_ns,
        subnet=str(subnet),
        gateway=_gateway(pool, subnet),
        ip_range=_ip_range(pool, subnet),
        reserved={name: _address(text, subnet, "auxiliary address") for name, text in (pool.auxiliary_addresses or {}).items()},
        is_internal=spec.internal,
        is_attachable=spec.attachable,
        labels=spec.labels or {},
        options=spec.options or {},
        interface=(spec.options or {}).get(NAME_OPTION) or interface_name(id_),
    )


def give_address(network: NodeNetwork, used: Iterable[str]) -> str:
    """Return the lowest free address with prefix length. `used`: plain or with prefix. Raises FailedPrecondition."""
    subnet = ipaddress.IPv4Network(network.subnet)
    taken = {*(text.partition("/")[0] for text in used), network.gateway, *network.reserved.values()}
    around = ipaddress.IPv4Network(network.ip_range) if network.ip_range else subnet
    for address in around:
        if address not in (subnet.network_address, subnet.broadcast_address) and str(address) not in taken:
            return f"{address}/{subnet.prefixlen}"
    raise FailedPrecondition(f"no available IPv4 addresses on this network's address pools: {network.name} ({network.id})")


def take_address(network: NodeNetwork, asked: str, used: Iterable[str]) -> str:
    """Return the address that a container asks for, with prefix length. Raises InvalidArgument, FailedPrecondition."""
    subnet = ipaddress.IPv4Network(network.subnet)
    address = _address(asked, subnet, "address")
    taken = {*(text.partition("/")[0] for text in used), network.gateway}
    if address in taken or address in (str(subnet.network_address), str(subnet.broadcast_address)):
        raise FailedPrecondition("Address already in use")
    return f"{address}/{subnet.prefixlen}"


def _check_options(options: Mapping[str, str]) -> None:
    mtu = options.get(MTU_OPTION, "1500")
    if not (mtu.isascii() and mtu.isdigit() and _SMALLEST_MTU_BYTES <= int(mtu) <= _LARGEST_MTU_BYTES):
        raise InvalidArgument(f"invalid value for the option {MTU_OPTION}: {mtu!r} is no MTU in bytes")
    name = options.get(NAME_OPTION, "br")
    if not _INTERFACE.fullmatch(name) or name in (".", ".."):
        raise InvalidArgument(f"invalid value for the option {NAME_OPTION}: {name!r} is no interface name of at most 15 characters")
    if options.get(COMMUNICATION_OPTION, "true").lower() not in ("true", "1"):
        raise Unimplemented("a network whose containers do not reach each other is not offered: give each a network of its own")
    try:
        ipaddress.IPv4Address(options.get(BINDING_OPTION, "0.0.0.0"))
    except ValueError as error:
        raise InvalidArgument(f"invalid value for the option {BINDING_OPTION}: {error}") from error


def _choose(used: list[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    for text in POOLS:
        candidate = ipaddress.IPv4Network(text)
        if not any(candidate.overlaps(other) for other in used):
            return candidate
    raise FailedPrecondition(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network: "
        "give one that is free, with --subnet"
    )


def _networks(texts: Iterable[str]) -> list[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network(text, strict=False) for text in texts]


def _network(text: str, what: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(text, strict=False)
    except ValueError as error:
        if ":" in text:
            raise Unimplemented(f"IPv6 {what}s on bridge networks are not offered yet: {text}") from error
        raise InvalidArgument(f"invalid network config: invalid {what} {text}: {error}") from error
    if what == "subnet" and network.prefixlen > _LONGEST_PREFIX:
        raise InvalidArgument(f"invalid network config: subnet {text} is too small: it needs room for a gateway and a container")
    if str(network) != text and what == "subnet":
        raise InvalidArgument(f"invalid network config: invalid subnet {text}: it should be {network}")
    return network


def _gateway(pool: IPAMPool, subnet: ipaddress.IPv4Network) -> str:
    if pool.gateway:
        return _address(pool.gateway, subnet, "gateway")
    return str(subnet.network_address + 1)


def _ip_range(pool: IPAMPool, subnet: ipaddress.IPv4Network) -> str:
    if not pool.ip_range:
        return ""
    around = _network(pool.ip_range, "ip-range")
    if not around.subnet_of(subnet):
        raise InvalidArgument(f"invalid network config: ip-range {pool.ip_range} is not in the subnet {subnet}")
    return str(around)


def _address(text: str, subnet: ipaddress.IPv4Network, what: str) -> str:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid network config: invalid {what} {text}: {error}") from error
    if address not in subnet:
        raise InvalidArgument(f"invalid network config: no matching subnet for {what} {text}: it is not in {subnet}")
    return str(address)
