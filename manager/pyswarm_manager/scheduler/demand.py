"""What a group of identical tasks asks of a node: read once per task template and service spec. Pure.

Of the JSON only what concerns the scheduler is decoded: a cluster may have a template for each of 100,000 tasks.
"""

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.host_access import NO_ACCESS, HostAccess, host_access
from pyswarm_common.service_labels import STRATEGY
from pyswarm_common.spec_base import Spec
from pyswarm_common.specs import (
    EndpointSpec,
    Placement,
    Platform,
    PortConfig,
    ResourceAmounts,
    ResourceRequirements,
    TaskTemplate,
)
from pyswarm_manager.scheduler.constraints import Constraint, parse_constraints

_NO_PLACEMENT = Placement()
_NO_RESERVATION = ResourceAmounts()
BINPACK = "binpack"


class _ContainerPart(Spec, frozen=True, kw_only=True):
    labels: dict[str, str] | None = None


class _TemplatePart(Spec, frozen=True, kw_only=True):
    resources: ResourceRequirements | None = None
    placement: Placement | None = None
    container_spec: _ContainerPart | None = None


class _NetworkPart(Spec, frozen=True, kw_only=True):
    target: str = ""


class _NetworksPart(Spec, frozen=True, kw_only=True):
    networks: list[_NetworkPart] | None = None


class _ServicePart(Spec, frozen=True, kw_only=True):
    labels: dict[str, str] | None = None
    endpoint_spec: EndpointSpec | None = None


class TemplateDemand(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a task template asks for. Amounts as in `ResourceAmounts`."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0
    generic: tuple[tuple[str, int], ...] = ()
    """Kinds and numbers of generic resources."""
    constraints: tuple[Constraint, ...] | None = ()
    """None: they cannot be understood."""
    platforms: tuple[Platform, ...] = ()
    spreads: tuple[str, ...] = ()
    """Labels to spread over, the first level first."""
    max_replicas: int = 0
    access: HostAccess = NO_ACCESS
    """What it wants of its machine that operators have to allow."""
    is_encrypted: bool = False
    """Whether one of its networks is encrypted, which the template alone does not say (`groups.py`)."""


class ServiceDemand(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a service asks for beside its template."""

    host_ports: tuple[PortConfig, ...] = ()
    """Ports published on the task's node under a number that the user chose."""
    dynamic_host_ports: tuple[PortConfig, ...] = ()
    """Ports published on the task's node under a number that the node chooses."""
    packs: bool = False
    """Whether the fullest suitable node is taken first."""


NO_TEMPLATE_DEMAND = TemplateDemand()
NO_SERVICE_DEMAND = ServiceDemand()


@lru_cache(maxsize=2048)
def template_demand(template_json: bytes) -> TemplateDemand:
    """Return what a task spec asks for. Raises msgspec.ValidationError."""
    part = msgspec.json.decode(template_json, type=_TemplatePart)
    return _demand(part.resources, part.placement, part.container_spec.labels if part.container_spec else None)


@lru_cache(maxsize=2048)
def networks_of_template(template_json: bytes) -> tuple[str, ...]:
    """Return the networks that a task spec names. Raises msgspec.ValidationError."""
    return tuple(network.target for network in msgspec.json.decode(template_json, type=_NetworksPart).networks or ())


def demand_of_template(template: TaskTemplate) -> TemplateDemand:
    """Return what a template that is not stored yet asks for."""
    container = template.container_spec
    return _demand(template.resources, template.placement, container.labels if container else None)


@lru_cache(maxsize=2048)
def service_demand(spec_json: bytes) -> ServiceDemand:
    """Return what a service spec asks for. Raises msgspec.ValidationError."""
    part = msgspec.json.decode(spec_json, type=_ServicePart)
    return demand_of_service(part.labels, part.endpoint_spec)


def demand_of_service(labels: dict[str, str] | None, endpoint: EndpointSpec | None) -> ServiceDemand:
    """Return what a service with these labels and ports asks for."""
    of_nodes = [p for p in (endpoint.ports if endpoint else None) or () if p.publish_mode == "host"]
    packs = (labels or {}).get(STRATEGY, "").lower() == BINPACK
    if not of_nodes and not packs:
        return NO_SERVICE_DEMAND
    return ServiceDemand(
        host_ports=tuple(p for p in of_nodes if p.published_port),
        dynamic_host_ports=tuple(p for p in of_nodes if not p.published_port),
        packs=packs,
    )


def _demand(
    resources: ResourceRequirements | None, placement: Placement | None, container_labels: dict[str, str] | None
) -> TemplateDemand:
    reservation = (resources.reservations if resources else None) or _NO_RESERVATION
    placement = placement or _NO_PLACEMENT
    return TemplateDemand(
        nano_cpus=reservation.nano_cpus,
        memory_bytes=reservation.memory_bytes,
        pids=reservation.pids,
        generic=_generic_amounts(reservation) if reservation.generic_resources else (),
        constraints=_parsed(placement.constraints) if placement.constraints else (),
        platforms=tuple(placement.platforms) if placement.platforms else (),
        spreads=_spreads(placement) if placement.preferences else (),
        max_replicas=placement.max_replicas,
        access=_access(container_labels),
    )


def _access(labels: dict[str, str] | None) -> HostAccess:
    """Labels that mean nothing were refused; should there be some, the node says so."""
    try:
        return host_access(labels)
    except InvalidArgument:
        return NO_ACCESS


def _generic_amounts(reservation: ResourceAmounts) -> tuple[tuple[str, int], ...]:
    """Kinds with numbers; a particular one cannot be asked for (as in Swarm), so its name counts as one of its kind."""
    amounts: dict[str, int] = {}
    for resource in reservation.generic_resources or ():
        if (discrete := resource.discrete_resource_spec) is not None:
            amounts[discrete.kind] = amounts.get(discrete.kind, 0) + discrete.value
        elif (named := resource.named_resource_spec) is not None:
            amounts[named.kind] = amounts.get(named.kind, 0) + 1
    return tuple((kind, amount) for kind, amount in amounts.items() if amount > 0)


def _spreads(placement: Placement) -> tuple[str, ...]:
    return tuple(p.spread.spread_descriptor for p in placement.preferences or () if p.spread is not None)


def _parsed(expressions: Sequence[str]) -> tuple[Constraint, ...] | None:
    try:
        return parse_constraints(expressions)
    except InvalidArgument:
        return None
