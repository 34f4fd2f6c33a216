"""What a service's spec must hold before the store takes it; the words are SwarmKit's (`manager/controlapi/service.go`)."""

import re
from collections.abc import Iterable
from typing import NoReturn

from pyswarm_common.container_spec import ContainerSpec
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.log_drivers import DEFAULT_DRIVER, check_log_driver
from pyswarm_common.service_labels import BALANCE, BALANCINGS, MOVE_ORDER, SCHEDULE, STRATEGIES, STRATEGY
from pyswarm_common.specs import (
    GenericResource,
    ResourceAmounts,
    RestartPolicy,
    ServiceSpec,
    TaskTemplate,
    UpdateConfig,
)
from pyswarm_manager.api.container_validation import validate_container_settings, validate_memory
from pyswarm_manager.api.healthcheck_validation import validate_healthcheck
from pyswarm_manager.api.port_validation import validate_endpoint
from pyswarm_manager.api.service_contents import validate_content_references
from pyswarm_manager.orchestrator.overlap import ORDERS
from pyswarm_manager.orchestrator.schedule.timetable import timetable_of
from pyswarm_manager.scheduler.constraints import parse_constraints

_NAME = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*")
_MAXIMUM_NAME_LENGTH = 63
_MINIMUM_MEMORY_BYTES = 4 * 1024 * 1024
_MINIMUM_NANO_CPUS = 1_000_000
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::\w[\w.-]{0,127})?(?:@[a-zA-Z][a-zA-Z0-9+._-]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
"""An image reference, after the grammar of `distribution/reference`."""
_RESTART_CONDITIONS = ("", "none", "on-failure", "any")
_FAILURE_ACTIONS = ("", "pause", "continue", "rollback")
_UPDATE_ORDERS = ("", "stop-first", "start-first")


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
    _validate_job(spec)
    _validate_template(spec.task_template)
    validate_endpoint(spec)
    for config in (spec.update_config, spec.rollback_config):
        _validate_update(config or UpdateConfig())
    labels = spec.labels or {}
    if labels.get(MOVE_ORDER, ORDERS[0]) not in ORDERS:
        _refuse(f"label {MOVE_ORDER}: there is no order '{labels[MOVE_ORDER]}', only {' and '.join(ORDERS)}")
    if labels.get(STRATEGY, "").lower() not in ("", *STRATEGIES):
        _refuse(f"label {STRATEGY}: there is no strategy '{labels[STRATEGY]}', only {' and '.join(STRATEGIES)}")
    if labels.get(BALANCE, "") not in ("", *BALANCINGS):
        _refuse(f"label {BALANCE}: there is no balancing '{labels[BALANCE]}', only {' and '.join(BALANCINGS)}")


def warnings_about(template: dict[str, object]) -> list[str] | None:
    """Return what the task template asks for and will not get yet, said openly; None when there is nothing to say."""
    warnings = []
    container = template.get("ContainerSpec")
    privileges = container.get("Privileges") if isinstance(container, dict) else None
    for key in ("CredentialSpec", "SELinuxContext"):
        if isinstance(privileges, dict) and _says_anything(privileges.get(key)):
            warnings.append(f"{key} is stored but has no effect")
    return warnings or None


def _says_anything(value: object) -> bool:
    """Whether a value, or anything in it, is not empty: clients post structures whose members all have their zero values."""
    return any(map(_says_anything, value.values())) if isinstance(value, dict) else bool(value)


def _validate_mode(spec: ServiceSpec) -> None:
    mode = spec.mode
    if mode is None:
        return
    if sum(m is not None for m in (mode.replicated, mode.global_, mode.replicated_job, mode.global_job)) > 1:
        _refuse("cannot specify more than one mode")
    if spec.replicas < 0:
        _refuse("Number of replicas must be non-negative")
    if spec.max_concurrent < 0:
        _refuse("Maximum concurrent jobs must not be negative")
    if spec.total_completions < 0:
        _refuse("Total completed jobs must not be negative")


def _validate_job(spec: ServiceSpec) -> None:
    timetable = timetable_of(spec.labels)
    if timetable is not None and not spec.is_job:
        instead = "use --mode replicated-job or --mode global-job"
        _refuse(f"label {SCHEDULE}: only jobs run on a schedule, and the mode of this service is {spec.mode_name}: {instead}")
    if spec.is_job and spec.update_config is not None:
        _refuse("Jobs may not have an update config")


def _validate_template(template: TaskTemplate) -> None:
    container = template.container_spec or ContainerSpec()
    _validate_container(container)
    if template.resources is not None:
        validate_memory(template.resources)
        for amounts in (template.resources.limits, template.resources.reservations):
            _validate_amounts(amounts or ResourceAmounts())
            _validate_generic_resources((amounts and amounts.generic_resources) or ())
    _validate_restart(template.restart_policy or RestartPolicy())
    if template.log_driver is not None:
        # Without a name it is each node's default; whichever that is, it knows no options but those of the product's default.
        check_log_driver(template.log_driver.name or DEFAULT_DRIVER, template.log_driver.options or {})
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
    validate_content_references(container)
    validate_healthcheck(container.healthcheck)
    validate_container_settings(container)


def _validate_amounts(amounts: ResourceAmounts) -> None:
    if amounts.nano_cpus and amounts.nano_cpus < _MINIMUM_NANO_CPUS:
        _refuse(f"invalid cpu value {amounts.nano_cpus / 1e9:g}: Must be at least {_MINIMUM_NANO_CPUS / 1e9:g}")
    if amounts.memory_bytes and amounts.memory_bytes < _MINIMUM_MEMORY_BYTES:
        _refuse(f"invalid memory value {amounts.memory_bytes}: Must be at least 4MiB")


def _validate_generic_resources(resources: Iterable[GenericResource]) -> None:
    for resource in resources:
        discrete, named = resource.discrete_resource_spec, resource.named_resource_spec
        if discrete is None or discrete.value < 0:  # a particular one cannot be asked for, as in Swarm
            kind = discrete.kind if discrete is not None else named.kind if named is not None else ""
            _refuse(f"invalid argument for resource {kind}: a reservation names a kind and how many of it")


def _validate_restart(policy: RestartPolicy) -> None:
    if policy.condition not in _RESTART_CONDITIONS:
        _refuse(f'invalid RestartCondition: "{policy.condition}"')
    for name, duration in (("delay", policy.delay), ("window", policy.window)):
        if duration is not None and duration < 0:
            _refuse(f"TaskSpec: restart-{name} cannot be negative")
    if policy.max_attempts is not None and policy.max_attempts < 0:
        _refuse("TaskSpec: restart-max-attempts cannot be negative")


def _validate_update(config: UpdateConfig) -> None:
    if config.failure_action not in _FAILURE_ACTIONS:
        _refuse(f"unrecognized update failure action {config.failure_action}")
    if config.order not in _UPDATE_ORDERS:
        _refuse(f"unrecognized update order {config.order}")
    if config.parallelism < 0:
        _refuse("TaskSpec: update-parallelism cannot be negative")
    if config.delay < 0:
        _refuse("TaskSpec: update-delay cannot be negative")
    if config.monitor is not None and config.monitor < 0:
        _refuse("TaskSpec: update-monitor cannot be negative")
    if not 0 <= config.max_failure_ratio <= 1:
        _refuse("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1")


def _first_duplicate(values: Iterable[object]) -> object | None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message, grpc_code="InvalidArgument")
