"""What a posted network must hold before the store takes it."""

from typing import Any

import msgspec

from pyswarm_common.engine_api.responses import refuse_unsupported
from pyswarm_common.errors import InvalidArgument, NotFound, PermissionDenied, Unimplemented
from pyswarm_common.network_options import ENCRYPTED, MTU, VNI_LIST, check_encrypted, parse_mtu
from pyswarm_common.own_networks import DRIVERS
from pyswarm_common.specs import NetworkSpec
from pyswarm_manager.allocator.ipam import PoolError, parse_vnis
from pyswarm_manager.api.network_pools import check_pools
from pyswarm_manager.api.service_validation import validate_name

_LOCAL_DRIVERS = ("bridge", "host", "null", "ipvlan", "macvlan")
_UNSUPPORTED = {
    "ConfigOnly": "a network that only holds configuration",
}
_HONOURED_OPTIONS = (VNI_LIST, MTU, ENCRYPTED)


def parse_network(body: dict[str, Any]) -> NetworkSpec:
    """Return the checked spec of a posted network (without nulls).

    Raises InvalidArgument, NotFound (driver), PermissionDenied (Docker's own names), Unimplemented.
    """
    try:
        spec = msgspec.convert(body, NetworkSpec)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid network spec: {error}") from error
    if spec.name in DRIVERS:
        raise PermissionDenied(f"operation is not permitted on predefined {spec.name} network")
    _check_driver(spec, asked="Driver" in body)
    validate_name(spec.name)
    refuse_unsupported(body, _UNSUPPORTED)
    if isinstance(body.get("ConfigFrom"), dict):
        refuse_unsupported(body["ConfigFrom"], {"Network": "configuration from another network"})
    check_encrypted(spec.options)
    _check_ipam(spec)
    _check_options(spec)
    _check_ingress(spec)
    return spec


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
    check_pools(spec)


def _check_options(spec: NetworkSpec) -> None:
    options = spec.options or {}
    if MTU in options:
        parse_mtu(options[MTU], has_ipv6=spec.enable_ipv6)
    if VNI_LIST in options:
        try:
            parse_vnis(options[VNI_LIST])
        except PoolError as error:
            raise InvalidArgument(f"option {VNI_LIST}: {error}") from error


def _check_ingress(spec: NetworkSpec) -> None:
    if spec.ingress and spec.attachable:
        raise InvalidArgument("ingress network cannot be attachable", grpc_code="InvalidArgument")
    if spec.ingress and spec.internal:
        raise InvalidArgument("ingress network cannot be internal: it is the way in", grpc_code="InvalidArgument")
