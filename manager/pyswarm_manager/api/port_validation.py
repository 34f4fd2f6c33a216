"""What a service may publish, by itself and beside the others; the words are SwarmKit's (`manager/controlapi/service.go`)."""

from collections.abc import Iterable
from typing import NoReturn, TypeAlias

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Service
from pyswarm_common.specs import PortConfig, ServiceSpec
from pyswarm_manager.store.tables import View

PROTOCOLS = ("tcp", "udp", "sctp")
PUBLISH_MODES = ("ingress", "host")
_MAXIMUM_PORT = 65535

_Number: TypeAlias = tuple[str, int]
"""Protocol and published port."""


def validate_endpoint(spec: ServiceSpec) -> None:
    """Check how a service is reached, as far as that needs no other object. Raises InvalidArgument."""
    if spec.endpoint_mode not in ("vip", "dnsrr"):
        _refuse(f'invalid EndpointSpec.Mode "{spec.endpoint_mode}"')
    seen: set[_Number] = set()
    for port in ports_of(spec):
        _validate_port(port)
        if spec.endpoint_mode == "dnsrr" and port.publish_mode == "ingress":
            _refuse("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
        if port.published_port and _number(port) in seen:
            _refuse("EndpointSpec: duplicate published ports provided")
        seen.add(_number(port))


def validate_published_ports(spec: ServiceSpec, own_id: str, view: View) -> None:
    """Check that no other service publishes the same port in a way that both cannot have it. Raises InvalidArgument.

    Several services may publish the same port in host mode: the scheduler keeps their tasks apart.
    """
    in_mesh = {_number(port) for port in ports_of(spec) if port.published_port and port.publish_mode == "ingress"}
    on_nodes = {_number(port) for port in ports_of(spec) if port.published_port and port.publish_mode == "host"}
    if not in_mesh and not on_nodes:
        return
    for other in view.services:
        if other.id == own_id:
            continue
        for port in _held_by(other):
            if port.publish_mode == "host" and _number(port) in in_mesh:
                _refuse(f"{_in_use_by(port, other)} as a host-published port")
            if port.publish_mode == "ingress" and _number(port) in in_mesh | on_nodes:
                _refuse(f"{_in_use_by(port, other)} as an ingress port")


def ports_of(spec: ServiceSpec) -> list[PortConfig]:
    """Return the ports that a service asks to publish."""
    return (spec.endpoint_spec.ports if spec.endpoint_spec else None) or []


def _validate_port(port: PortConfig) -> None:
    if not 0 < port.target_port <= _MAXIMUM_PORT or not 0 <= port.published_port <= _MAXIMUM_PORT:
        _refuse(f"EndpointSpec: invalid port {port.published_port}:{port.target_port}")
    if port.protocol not in PROTOCOLS:
        _refuse(f'EndpointSpec: invalid protocol "{port.protocol}"')
    if port.publish_mode not in PUBLISH_MODES:
        _refuse(f'EndpointSpec: invalid publish mode "{port.publish_mode}"')


def _held_by(service: Service) -> Iterable[PortConfig]:
    """The ports that it asks for, and those that it was given."""
    return (port for port in (*ports_of(service.spec), *service.ports) if port.published_port)


def _number(port: PortConfig) -> _Number:
    return port.protocol, port.published_port


def _in_use_by(port: PortConfig, service: Service) -> str:
    return f"port '{port.published_port}' is already in use by service '{service.name}' ({service.id})"


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message, grpc_code="InvalidArgument")
