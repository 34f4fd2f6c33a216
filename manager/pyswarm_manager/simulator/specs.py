"""From a scenario's words to what the API would have been sent, and to node objects. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from pyswarm_common.objects import Node, NodeDescription, NodeResources, NodeStatus
from pyswarm_common.specs import DiscreteResource, GenericResource, NamedResource, NodeSpec
from pyswarm_manager.simulator.scenario import (
    Labels,
    NodeGroup,
    Reservations,
    RestartPolicySection,
    ServiceSection,
    UpdateSection,
    UpdateService,
)


def numbered_names(name: str, count: int, first: int = 1) -> list[str]:
    """Return NAME-1, NAME-2, … , that many from `first` on."""
    return [f"{name}-{number}" for number in range(first, first + count)]


def service_names(section: ServiceSection) -> list[str]:
    """Return the names of a section's services: its own, or with `count` numbered ones."""
    return [section.name] if section.count == 1 else numbered_names(section.name, section.count)


def make_node(group: NodeGroup, number: int) -> Node:
    """Return the NUMBERth node of a group, from 1; it is ready."""
    name = f"{group.name}-{number}"
    resources = NodeResources(
        nano_cpus=int(group.cpus),
        memory_bytes=int(group.memory),
        generic_resources=tuple(_generic_resources(group.generic_resources)),
    )
    return Node(
        id=name,
        role=group.role,
        spec=NodeSpec(labels=dealt_labels(group.labels, number), role=group.role, availability=group.availability),
        status=NodeStatus(state="ready"),
        description=NodeDescription(
            hostname=name,
            architecture=group.architecture,
            os=group.os,
            resources=resources,
            engine_labels=dealt_labels(group.engine_labels, number),
        ),
    )


def dealt_labels(labels: Labels, number: int) -> dict[str, str]:
    """Return the labels of the NUMBERth node: of a list of values each node gets the next one."""
    return {key: value if isinstance(value, str) else value[(number - 1) % len(value)] for key, value in labels.items() if value}


def service_body(section: ServiceSection, name: str) -> dict[str, Any]:
    """Return what `POST /services/create` would have been sent for the service with this name."""
    container: dict[str, Any] = {"Image": section.image}
    if section.stop_grace_period is not None:
        container["StopGracePeriod"] = int(section.stop_grace_period)
    template: dict[str, Any] = {"ContainerSpec": container, "ForceUpdate": section.force_update}
    if section.restart_policy is not None:
        template["RestartPolicy"] = _restart_policy(section.restart_policy)
    template["Resources"] = {"Reservations": _reservations(section.reservations)}
    template["Placement"] = {
        "Constraints": section.constraints,
        "Preferences": [{"Spread": {"SpreadDescriptor": label}} for label in section.preferences],
        "MaxReplicas": section.max_replicas_per_node,
    }
    template["Networks"] = [{"Target": network} for network in section.networks]
    body: dict[str, Any] = {
        "Name": name,
        "Labels": section.labels,
        "TaskTemplate": template,
        "Mode": _mode(section),
        "EndpointSpec": {"Mode": section.endpoint_mode},
    }
    for key, config in (("UpdateConfig", section.update_config), ("RollbackConfig", section.rollback_config)):
        if config is not None:
            body[key] = _update_config(config)
    return body


def updated_section(section: ServiceSection, event: UpdateService) -> ServiceSection:
    """Return a service's section with what an update changes; a changed behaviour alone makes a new task spec too."""
    changes = {name: getattr(event, name) for name in _UPDATABLE if getattr(event, name) is not None}
    if event.behaviour is not None and not changes.keys() - {"behaviour"}:
        changes["force_update"] = section.force_update + 1
    return msgspec.structs.replace(section, **changes)


_UPDATABLE = tuple(f.name for f in msgspec.structs.fields(UpdateService) if f.name not in ("at", "service"))


def _mode(section: ServiceSection) -> dict[str, Any]:
    match section.mode:
        case "global":
            return {"Global": {}}
        case "global-job":
            return {"GlobalJob": {}}
        case "replicated-job":
            completions = section.replica_count
            concurrent = completions if section.max_concurrent is None else section.max_concurrent
            return {"ReplicatedJob": {"MaxConcurrent": concurrent, "TotalCompletions": completions}}
        case _:
            return {"Replicated": {"Replicas": section.replica_count}}


def _reservations(reservations: Reservations) -> dict[str, Any]:
    kinds = [
        {"DiscreteResourceSpec": {"Kind": kind, "Value": value}} for kind, value in sorted(reservations.generic_resources.items())
    ]
    amounts = {"NanoCPUs": int(reservations.cpus), "MemoryBytes": int(reservations.memory), "Pids": reservations.pids}
    return {key: value for key, value in {**amounts, "GenericResources": kinds}.items() if value}


def _restart_policy(policy: RestartPolicySection) -> dict[str, Any]:
    members = {
        "Condition": policy.condition or "any",
        "Delay": _plain(policy.delay),
        "MaxAttempts": policy.max_attempts,
        "Window": _plain(policy.window),
    }
    return {key: value for key, value in members.items() if value is not None}


def _update_config(config: UpdateSection) -> dict[str, Any]:
    members = {
        "Parallelism": config.parallelism,
        "Delay": int(config.delay),
        "FailureAction": config.failure_action,
        "Monitor": _plain(config.monitor),
        "MaxFailureRatio": config.max_failure_ratio,
        "Order": config.order,
    }
    return {key: value for key, value in members.items() if value is not None}


def _plain(amount: int | None) -> int | None:
    return None if amount is None else int(amount)


def _generic_resources(kinds: Mapping[str, int | list[str]]) -> list[GenericResource]:
    found: list[GenericResource] = []
    for kind, amount in sorted(kinds.items()):
        if isinstance(amount, int):
            found.append(GenericResource(discrete_resource_spec=DiscreteResource(kind=kind, value=amount)))
        else:
            found += [GenericResource(named_resource_spec=NamedResource(kind=kind, value=value)) for value in amount]
    return found
