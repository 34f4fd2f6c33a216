"""What a service's spec must hold before the store takes it; the words are SwarmKit's (`manager/controlapi/service.go`)."""

import re
from collections.abc import Iterable
from typing import NoReturn

from pyswarm_common.errors import InvalidArgument, Unimplemented
from pyswarm_common.specs import (
    ContainerSpec,
    PortConfig,
    ResourceAmounts,
    RestartPolicy,
    ServiceSpec,
    TaskTemplate,
)
from pyswarm_manager.scheduler.constraints import parse_constraints
from pyswarm_manager.store.tables import View

_NAME = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*")
_MAXIMUM_NAME_LENGTH = 63
_MINIMUM_MEMORY_BYTES = 4 * 1024 * 1024
_MINIMUM_NANO_CPUS = 1_000_000
_MAXIMUM_PORT = 65535
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::\w[\w.-]{0,127})?(?:@[a-zA-Z][a-zA-Z0-9+._-]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
"""An image reference, after the grammar of `distribution/reference`."""
_RESTART_CONDITIONS = ("", "none", "on-failure", "any")


def validate_name(name: str) -> None:
    """Check the name of a service or network. Raises InvalidArgument."""
    if not name:
        _refuse("meta: name must be provided")
    if len(name) > _MAXIMUM_NAME_LENGTH:
        _refuse(f"name must be {_MAXIMUM_NAME_LENGTH} characters or fewer")
    if not _NAME.fullmatch(name):
        _refuse("name must be valid as a DNS name component")


def validate_service(spec: ServiceSpec) -> None:
    """Check everything about a spec that needs no other object. Raises InvalidArgument and Unimplemented."""
    validate_name(spec.name)
    _validate_mode(spec)
    _validate_template(spec.task_template)
    _validate_endpoint(spec)


def validate_published_ports(spec: ServiceSpec, own_id: str, view: View) -> None:
    """Check that no other service publishes the same port in the mesh. Raises InvalidArgument."""
    wanted = {(p.protocol, p.published_port) for p in _ports(spec) if p.publish_mode == "ingress" and p.published_port}
    if not wanted:
        return
    for other in view.services:
        for port in _ports(other.spec) if other.id != own_id else ():
            if port.publish_mode == "ingress" and (port.protocol, port.published_port) in wanted:
                _refuse(f"port '{port.published_port}' is already in use by service '{other.name}' ({other.id})")


def warnings_about(spec: ServiceSpec, template: dict[str, object]) -> list[str] | None:
    """Return what the spec asks for and will not get yet, said openly; None when there is nothing to say."""
    warnings = []
    if _ports(spec):
        warnings.append("published ports are stored but not active yet: the service is reachable on its networks only")
    container = template.get("ContainerSpec")
    for key in ("Healthcheck", "Ulimits", "Sysctls", "Privileges"):
        if isinstance(container, dict) and container.get(key):
            warnings.append(f"{key} is stored but has no effect yet")
    if template.get("LogDriver"):
        warnings.append("LogDriver is stored but has no effect yet: logs are kept on the task's node")
    return warnings or None


def _validate_mode(spec: ServiceSpec) -> None:
    mode = spec.mode
    if mode is None:
        return
    if sum(m is not None for m in (mode.replicated, mode.global_, mode.replicated_job, mode.global_job)) > 1:
        _refuse("cannot specify more than one mode")
    if mode.global_ is not None:
        raise Unimplemented("global services are not supported yet: use --mode replicated")
    if not spec.is_replicated:
        raise Unimplemented("jobs are not supported yet: use --mode replicated")
    if spec.replicas < 0:
        _refuse("Number of replicas must be non-negative")


def _validate_template(template: TaskTemplate) -> None:
    container = template.container_spec or ContainerSpec()
    _validate_container(container)
    if template.resources is not None:
        for amounts in (template.resources.limits, template.resources.reservations):
            _validate_amounts(amounts or ResourceAmounts())
    _validate_restart(template.restart_policy or RestartPolicy())
    if template.placement is not None:
        parse_constraints(template.placement.constraints or [])
        if template.placement.max_replicas < 0:
            _refuse("TaskSpec: max replicas per node cannot be negative")


def _validate_container(container: ContainerSpec) -> None:
    if not container.image:
        _refuse("ContainerSpec: image reference must be provided")
    if not _IMAGE.fullmatch(container.image):
        _refuse(f'ContainerSpec: "{container.image}" is not a valid repository/tag')
    if container.stop_grace_period is not None and container.stop_grace_period < 0:
        _refuse("ContainerSpec: stop-grace-period cannot be negative")
    duplicate = _first_duplicate(mount.target for mount in container.mounts or ())
    if duplicate is not None:
        _refuse(f"ContainerSpec: duplicate mount point: {duplicate}")
    for mount in container.mounts or ():
        if not mount.target.startswith("/"):
            _refuse(f"invalid mount target, must be an absolute path: {mount.target}")


def _validate_amounts(amounts: ResourceAmounts) -> None:
    if amounts.nano_cpus and amounts.nano_cpus < _MINIMUM_NANO_CPUS:
        _refuse(f"invalid cpu value {amounts.nano_cpus / 1e9:g}: Must be at least {_MINIMUM_NANO_CPUS / 1e9:g}")
    if amounts.memory_bytes and amounts.memory_bytes < _MINIMUM_MEMORY_BYTES:
        _refuse(f"invalid memory value {amounts.memory_bytes}: Must be at least 4MiB")


def _validate_restart(policy: RestartPolicy) -> None:
    if policy.condition not in _RESTART_CONDITIONS:
        _refuse(f'invalid RestartCondition: "{policy.condition}"')
    for name, duration in (("delay", policy.delay), ("window", policy.window)):
        if duration is not None and duration < 0:
            _refuse(f"TaskSpec: restart-{name} cannot be negative")
    if policy.max_attempts is not None and policy.max_attempts < 0:
        _refuse("TaskSpec: restart-max-attempts cannot be negative")


def _validate_endpoint(spec: ServiceSpec) -> None:
    if spec.endpoint_mode not in ("vip", "dnsrr"):
        _refuse(f'invalid EndpointSpec.Mode "{spec.endpoint_mode}"')
    ports = _ports(spec)
    for port in ports:
        if not 0 < port.target_port <= _MAXIMUM_PORT or not 0 <= port.published_port <= _MAXIMUM_PORT:
            _refuse(f"EndpointSpec: invalid port {port.published_port}:{port.target_port}")
        if port.protocol not in ("tcp", "udp", "sctp"):
            _refuse(f'EndpointSpec: invalid protocol "{port.protocol}"')
        if port.publish_mode not in ("ingress", "host"):
            _refuse(f'EndpointSpec: invalid publish mode "{port.publish_mode}"')
    if spec.endpoint_mode == "dnsrr" and any(port.publish_mode == "ingress" for port in ports):
        _refuse("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
    published = ((p.protocol, p.published_port, p.publish_mode) for p in ports if p.published_port)
    if _first_duplicate(published) is not None:
        _refuse("EndpointSpec: duplicate published ports provided")


def _ports(spec: ServiceSpec) -> list[PortConfig]:
    return (spec.endpoint_spec.ports if spec.endpoint_spec else None) or []


def _first_duplicate(values: Iterable[object]) -> object | None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message, grpc_code="InvalidArgument")
