"""Typed views of what users ask for, in the Engine API's JSON shapes.

The store keeps a spec as the JSON bytes that were posted, so that fields we do not know come back unchanged; the parts of
pyswarm read it through these structs. Durations are nanoseconds, sizes bytes, CPU shares 1e-9 of a CPU.
Source of names and defaults: Docker Engine API 1.41 and SwarmKit `api/defaults/service.go`.
"""

from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec

from pyswarm_common.container_spec import ContainerSpec, Driver
from pyswarm_common.spec_base import Spec

SECOND_NS = 1_000_000_000
DEFAULT_RESTART_DELAY_NS = 5 * SECOND_NS
DEFAULT_STOP_GRACE_PERIOD_NS = 10 * SECOND_NS
DEFAULT_MONITOR_NS = 5 * SECOND_NS

Mode: TypeAlias = Literal["replicated", "global", "replicated-job", "global-job"]


class DiscreteResource(Spec, frozen=True, kw_only=True):
    """So many of a kind that the operator declared on nodes, such as 2 of `ssd`."""

    kind: str = ""
    value: int = 0


class NamedResource(Spec, frozen=True, kw_only=True):
    """One particular of a kind that the operator declared on nodes, such as `GPU` `uuid-1`."""

    kind: str = ""
    value: str = ""


class GenericResource(Spec, frozen=True, kw_only=True):
    """One of both is set. A reservation only names kinds with a number; nodes have, and tasks get, either sort."""

    discrete_resource_spec: DiscreteResource | None = None
    named_resource_spec: NamedResource | None = None


class ResourceAmounts(Spec, frozen=True, kw_only=True):
    """CPU, memory and process amounts; 0 means none asked."""

    nano_cpus: int = msgspec.field(name="NanoCPUs", default=0)
    memory_bytes: int = 0
    pids: int = 0
    generic_resources: list[GenericResource] | None = None


class ResourceRequirements(Spec, frozen=True, kw_only=True):
    """What a task may use at most, and what it must find free.

    `swap_bytes`: swap beside the memory limit, -1 for no limit, None for as much as memory; `memory_swappiness` from 0 to 100.
    """

    limits: ResourceAmounts | None = None
    reservations: ResourceAmounts | None = None
    swap_bytes: int | None = None
    memory_swappiness: int | None = None


class RestartPolicy(Spec, frozen=True, kw_only=True):
    """When an ended task is replaced."""

    condition: str = "any"
    delay: int | None = None
    max_attempts: int | None = None
    window: int | None = None


class SpreadOver(Spec, frozen=True, kw_only=True):
    """A label over whose values tasks are spread evenly."""

    spread_descriptor: str = ""


class PlacementPreference(Spec, frozen=True, kw_only=True):
    """One level of the preference tree."""

    spread: SpreadOver | None = None


class Platform(Spec, frozen=True, kw_only=True):
    """An architecture and operating system."""

    architecture: str = ""
    os: str = msgspec.field(name="OS", default="")


class Placement(Spec, frozen=True, kw_only=True):
    """Where a task may run."""

    constraints: list[str] | None = None
    preferences: list[PlacementPreference] | None = None
    max_replicas: int = 0
    platforms: list[Platform] | None = None


class NetworkAttachmentConfig(Spec, frozen=True, kw_only=True):
    """A network that a task joins: `target` is its id or name. Of the driver options `pyswarm.addresses` is honoured."""

    target: str = ""
    aliases: list[str] | None = None
    driver_opts: dict[str, str] | None = None


class NetworkAttachmentSpec(Spec, frozen=True, kw_only=True):
    """A single container that only needs addresses."""

    container_id: str = msgspec.field(name="ContainerID", default="")


class TaskTemplate(Spec, frozen=True, kw_only=True):
    """What a task runs, and under which rules."""

    container_spec: ContainerSpec | None = None
    network_attachment_spec: NetworkAttachmentSpec | None = None
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: list[NetworkAttachmentConfig] | None = None
    log_driver: Driver | None = None
    force_update: int = 0
    runtime: str = "container"


class ReplicatedMode(Spec, frozen=True, kw_only=True):
    """So many tasks, wherever they fit."""

    replicas: int | None = None


class ReplicatedJobMode(Spec, frozen=True, kw_only=True):
    """Run until so many tasks have completed, at most so many at once; what is not said is filled in on create, as Docker does."""

    max_concurrent: int | None = None
    total_completions: int | None = None


class ServiceMode(Spec, frozen=True, kw_only=True):
    """Exactly one of the modes is set; replicated by default."""

    replicated: ReplicatedMode | None = None
    global_: dict[str, Any] | None = msgspec.field(name="Global", default=None)
    replicated_job: ReplicatedJobMode | None = None
    global_job: dict[str, Any] | None = None


class UpdateConfig(Spec, frozen=True, kw_only=True):
    """How an update, or a rollback, goes. Durations in nanoseconds; `parallelism` 0 means all at once."""

    parallelism: int = 0
    delay: int = 0
    failure_action: str = "pause"
    monitor: int | None = None
    max_failure_ratio: float = 0.0
    order: str = "stop-first"


class PortConfig(Spec, frozen=True, kw_only=True):
    """A published port."""

    name: str = ""
    protocol: str = "tcp"
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = "ingress"


class EndpointSpec(Spec, frozen=True, kw_only=True):
    """How a service is reached: `mode` is `vip` or `dnsrr`."""

    mode: str = "vip"
    ports: list[PortConfig] | None = None


class ServiceSpec(Spec, frozen=True, kw_only=True):
    """A service as its user asked for it."""

    name: str = ""
    labels: dict[str, str] | None = None
    task_template: TaskTemplate = msgspec.field(default_factory=TaskTemplate)
    mode: ServiceMode | None = None
    endpoint_spec: EndpointSpec | None = None
    networks: list[NetworkAttachmentConfig] | None = None
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None

    @property
    def mode_name(self) -> Mode:
        """The mode in Docker's words; an empty mode means `replicated`."""
        mode = self.mode
        if mode is None:
            return "replicated"
        if mode.global_ is not None:
            return "global"
        if mode.replicated_job is not None:
            return "replicated-job"
        return "global-job" if mode.global_job is not None else "replicated"

    @property
    def is_job(self) -> bool:
        """Whether its tasks are to complete instead of running for ever."""
        return self.mode_name in ("replicated-job", "global-job")

    @property
    def replicas(self) -> int:
        """How many tasks a replicated service asks for; 1 when not said."""
        replicated = self.mode.replicated if self.mode else None
        if replicated is None or replicated.replicas is None:
            return 1
        return replicated.replicas

    @property
    def max_concurrent(self) -> int:
        """How many tasks of a replicated job may run at once; 1 when not said."""
        job = self.mode.replicated_job if self.mode else None
        return 1 if job is None or job.max_concurrent is None else job.max_concurrent

    @property
    def total_completions(self) -> int:
        """How many tasks of a replicated job shall complete; as many as may run at once when not said."""
        job = self.mode.replicated_job if self.mode else None
        return self.max_concurrent if job is None or job.total_completions is None else job.total_completions

    @property
    def is_replicated(self) -> bool:
        """Whether this is a replicated service, which is also what an empty mode means."""
        return self.mode_name == "replicated"

    @property
    def publishes_in_mesh(self) -> bool:
        """Whether it has published ports in the routing mesh: then it and its tasks have a place on the ingress network."""
        return any(port.publish_mode == "ingress" for port in (self.endpoint_spec.ports if self.endpoint_spec else None) or ())

    @property
    def endpoint_mode(self) -> str:
        """`vip` or `dnsrr`."""
        return (self.endpoint_spec.mode if self.endpoint_spec else "") or "vip"


class IPAMPool(Spec, frozen=True, kw_only=True):
    """One address pool of a network. `auxiliary_addresses` are given to nobody; their names mean nothing to us."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = msgspec.field(name="IPRange", default="")
    auxiliary_addresses: dict[str, str] | None = None


class IPAM(Spec, frozen=True, kw_only=True):
    """How a network's addresses are chosen."""

    driver: str = "default"
    config: list[IPAMPool] | None = None


class NetworkSpec(Spec, frozen=True, kw_only=True):
    """A network as its user asked for it (the body of `POST /networks/create`)."""

    name: str = ""
    driver: str = "bridge"
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    ipam: IPAM | None = msgspec.field(name="IPAM", default=None)


class NodeSpec(Spec, frozen=True, kw_only=True):
    """What an operator says of a node."""

    name: str = ""
    labels: dict[str, str] = {}
    role: str = "worker"
    availability: str = "active"


@lru_cache(maxsize=8192)
def decode_service_spec(raw: bytes) -> ServiceSpec:
    """Return the typed view of a service spec's JSON (without its task template). Raises msgspec.ValidationError."""
    return msgspec.json.decode(raw, type=ServiceSpec)


@lru_cache(maxsize=8192)
def decode_task_template(raw: bytes) -> TaskTemplate:
    """Return the typed view of a task template's JSON. Raises msgspec.ValidationError."""
    return msgspec.json.decode(raw, type=TaskTemplate)


@lru_cache(maxsize=1024)
def decode_network_spec(raw: bytes) -> NetworkSpec:
    """Return the typed view of a network spec's JSON. Raises msgspec.ValidationError."""
    return msgspec.json.decode(raw, type=NetworkSpec)
