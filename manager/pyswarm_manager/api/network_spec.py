"""What a posted network must hold before the store takes it."""

import ipaddress
from typing import Any

import msgspec

from pyswarm_common.engine_api.responses import refuse_unsupported
from pyswarm_common.errors import InvalidArgument, NotFound, PermissionDenied, Unimplemented
from pyswarm_common.specs import IPAMPool, NetworkSpec
from pyswarm_manager.api.service_spec import LOCAL_NETWORKS
from pyswarm_manager.api.service_validation import validate_name

_LOCAL_DRIVERS = ("bridge", "host", "null", "ipvlan", "macvlan")
_LARGEST_PREFIX_LENGTH = 29
_UNSUPPORTED = {
    "EnableIPv6": "IPv6 on overlay networks",
    "Ingress": "an ingress network of one's own",
    "ConfigOnly": "a network that only holds configuration",
}
_HONOURED_OPTIONS = ("com.docker.network.driver.overlay.vxlanid_list",)


def parse_network(body: dict[str, Any]) -> NetworkSpec:
    """Return the checked spec of a posted network (without nulls).

    Raises InvalidArgument, NotFound (driver), PermissionDenied (Docker's own names), Unimplemented.
    """
    try:
        spec = msgspec.convert(body, NetworkSpec)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid network spec: {error}") from error
    if spec.name in LOCAL_NETWORKS:
        raise PermissionDenied(f"operation is not permitted on predefined {spec.name} network")
    _check_driver(spec, asked="Driver" in body)
    validate_name(spec.name)
    refuse_unsupported(body, _UNSUPPORTED)
    if isinstance(body.get("ConfigFrom"), dict):
        refuse_unsupported(body["ConfigFrom"], {"Network": "configuration from another network"})
    if "encrypted" in (spec.options or {}):
        raise Unimplemented("encrypted overlay networks are not supported yet")
    _check_ipam(spec)
    return spec


def subnets_of(spec: NetworkSpec) -> list[ipaddress.IPv4Network]:
    """Return the subnets that a checked spec asks for."""
    return [ipaddress.IPv4Network(pool.subnet) for pool in _pools(spec) if pool.subnet]


def warning_about(spec: NetworkSpec) -> str:
    """Return what the spec asks for and will not get, said openly; "" when there is nothing to say."""
    ignored = sorted(set(spec.options or {}).difference(_HONOURED_OPTIONS))
    return f"these options are stored but have no effect: {', '.join(ignored)}" if ignored else ""


def _check_driver(spec: NetworkSpec, *, asked: bool) -> None:
    if spec.driver == "overlay":
        if spec.scope not in ("", "swarm", "global"):
            raise InvalidArgument(f"an overlay network has the scope swarm, not {spec.scope}")
        return
    if spec.driver in _LOCAL_DRIVERS or not asked:
        raise Unimplemented(
            f'networks of the driver "{spec.driver}" live on one node and are not supported yet: use --driver overlay'
        )
    raise NotFound(f'plugin "{spec.driver}" not found')


def _check_ipam(spec: NetworkSpec) -> None:
    if spec.ipam is not None and spec.ipam.driver not in ("", "default"):
        raise NotFound(f'ipam driver "{spec.ipam.driver}" not found')
    if len(_pools(spec)) > 1:
        raise Unimplemented("more than one subnet in a network is not supported yet")
    for pool in _pools(spec):
        _check_pool(pool)


def _check_pool(pool: IPAMPool) -> None:
    if not pool.subnet:
        raise InvalidArgument("invalid network config: an address pool needs a subnet")
    try:
        subnet = ipaddress.ip_network(pool.subnet)
        gateway = ipaddress.ip_address(pool.gateway) if pool.gateway else None
        address_range = ipaddress.ip_network(pool.ip_range) if pool.ip_range else None
    except ValueError as error:
        raise InvalidArgument(f"invalid network config: {error}") from error
    if subnet.version != 4:
        raise Unimplemented("IPv6 on overlay networks is not supported yet")
    if subnet.prefixlen > _LARGEST_PREFIX_LENGTH:
        raise InvalidArgument(f"invalid network config: subnet {subnet} is too small, it needs at least 8 addresses")
    if gateway is not None and (gateway not in subnet or gateway in (subnet.network_address, subnet.broadcast_address)):
        raise InvalidArgument(f"invalid network config: no matching subnet for gateway {gateway}")
    if address_range is not None:
        raise Unimplemented("an address range within a network's subnet is not supported yet")


def _pools(spec: NetworkSpec) -> list[IPAMPool]:
    return (spec.ipam.config if spec.ipam else None) or []
