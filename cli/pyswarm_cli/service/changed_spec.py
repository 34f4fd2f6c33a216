"""From a service's spec and the options of `service update` to its new spec, in the Engine API's JSON. Pure.

What no option names stays as it was. Raises click.BadParameter, click.UsageError and click.ClickException.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from pyswarm_cli.content.references import changed_references
from pyswarm_cli.key_values import parse_environment, parse_labels
from pyswarm_cli.service.container_settings import changed_members, swap_members
from pyswarm_cli.service.health import healthcheck
from pyswarm_cli.service.log_options import log_driver
from pyswarm_cli.service.mounts import parse_mount
from pyswarm_cli.service.networks import parse_network
from pyswarm_cli.service.ports import changed_ports
from pyswarm_cli.service.rules import (
    SCHEDULE_LABELS,
    Options,
    generic_resource_kind,
    given,
    parse_generic_resource,
    parse_preference,
    restart_policy,
    roll_config,
    rule_labels,
)
from pyswarm_cli.service.spec import split_command
from pyswarm_common import service_labels

Changed = dict[str, Any]


def updated_spec(
    spec: Mapping[str, Any], options: Options, environment: Mapping[str, str], network_ids: Mapping[str, str] | None = None
) -> Changed:
    """Return a service's spec with the changes that `service update` asks for. `network_ids`: of the networks named there."""
    template = dict(spec["TaskTemplate"])
    changed = {**spec, "TaskTemplate": template}
    template["ContainerSpec"] = _container(template.get("ContainerSpec") or {}, options, environment)
    _put(template, "Resources", _resources(template.get("Resources") or {}, options))
    _put(template, "RestartPolicy", {**(template.get("RestartPolicy") or {}), **restart_policy(options)})
    _put(template, "Placement", _placement(template.get("Placement") or {}, options))
    _put(template, "Networks", _networks(template.get("Networks") or (), options, network_ids or {}))
    _put(template, "LogDriver", log_driver(options, template.get("LogDriver") or {}))
    if options["force"]:
        template["ForceUpdate"] = int(template.get("ForceUpdate") or 0) + 1
    if options["replicas"] is not None:
        changed = with_replicas(changed, options["replicas"])
    if options["max_concurrent"] is not None:
        changed = _with_max_concurrent(changed, options["max_concurrent"])
    _put(changed, "Labels", _labels(spec.get("Labels") or {}, options))
    _put(changed, "UpdateConfig", roll_config(options, "update", spec.get("UpdateConfig") or {}))
    _put(changed, "RollbackConfig", roll_config(options, "rollback", spec.get("RollbackConfig") or {}))
    _put(changed, "EndpointSpec", _endpoint(spec.get("EndpointSpec") or {}, options))
    return changed


def with_replicas(spec: Mapping[str, Any], replicas: int) -> Changed:
    """Return a spec with another number of tasks (of a job: completions). Raises click.ClickException for other modes."""
    mode = spec.get("Mode") or {"Replicated": {}}
    if "Replicated" in mode:
        return {**spec, "Mode": {"Replicated": {**(mode["Replicated"] or {}), "Replicas": replicas}}}
    if "ReplicatedJob" in mode:
        return {**spec, "Mode": {"ReplicatedJob": {**(mode["ReplicatedJob"] or {}), "TotalCompletions": replicas}}}
    raise click.ClickException(f"service {spec.get('Name')} is not replicated: it has no number of replicas to change")


def _with_max_concurrent(spec: Mapping[str, Any], at_once: int) -> Changed:
    mode = spec.get("Mode") or {}
    if "ReplicatedJob" not in mode:
        raise click.ClickException(f"service {spec.get('Name')} is no replicated job: --max-concurrent does not go with it")
    return {**spec, "Mode": {"ReplicatedJob": {**(mode["ReplicatedJob"] or {}), "MaxConcurrent": at_once}}}


def _put(parent: Changed, name: str, value: Any) -> None:
    """Set a member unless it was missing and still has nothing to say."""
    if value or name in parent:
        parent[name] = value


def _container(before: Mapping[str, Any], options: Options, environment: Mapping[str, str]) -> Changed:
    container = dict(before)
    words = {"Image": options["image"], "Dir": options["workdir"], "User": options["user"], "Hostname": options["hostname"]}
    container |= given({**words, "StopSignal": options["stop_signal"]}, StopGracePeriod=options["stop_grace_period"])
    if options["args"] is not None:
        container["Args"] = split_command(options["args"])
    if options["entrypoint"] is not None:
        container["Command"] = split_command(options["entrypoint"])
    if options["env_add"] or options["env_rm"]:
        container["Env"] = _environment(container.get("Env") or [], options, environment)
    if options["container_label_add"] or options["container_label_rm"]:
        labels = {**(container.get("Labels") or {}), **parse_labels(options["container_label_add"])}
        container["Labels"] = {key: value for key, value in labels.items() if key not in options["container_label_rm"]}
    container |= changed_references(container, options)
    container |= changed_members(container, options)
    container |= given({"Healthcheck": healthcheck(container.get("Healthcheck"), options)})
    if options["mount_add"] or options["mount_rm"]:
        container["Mounts"] = _replaced(
            container.get("Mounts") or (), map(parse_mount, options["mount_add"]), options["mount_rm"], lambda m: m.get("Target")
        )
    return container


def _environment(before: Sequence[str], options: Options, environment: Mapping[str, str]) -> list[str]:
    variables = dict(pair.partition("=")[::2] for pair in before)
    variables |= dict(pair.partition("=")[::2] for pair in parse_environment(options["env_add"], environment))
    return [f"{key}={value}" for key, value in variables.items() if key not in options["env_rm"]]


def _resources(before: Mapping[str, Any], options: Options) -> Changed:
    resources = {kind: dict(amounts) if isinstance(amounts, dict) else amounts for kind, amounts in before.items()}
    resources |= swap_members(options)
    wanted: tuple[tuple[str, str, str], ...] = (
        ("limit_cpu", "Limits", "NanoCPUs"),
        ("limit_memory", "Limits", "MemoryBytes"),
        ("limit_pids", "Limits", "Pids"),
        ("reserve_cpu", "Reservations", "NanoCPUs"),
        ("reserve_memory", "Reservations", "MemoryBytes"),
    )
    for option, kind, name in wanted:
        if options[option] is not None:
            resources.setdefault(kind, {})[name] = options[option]
    if options["generic_resource_add"] or options["generic_resource_rm"]:
        reserved = resources.setdefault("Reservations", {})
        reserved["GenericResources"] = _replaced(
            reserved.get("GenericResources") or (),
            map(parse_generic_resource, options["generic_resource_add"]),
            [text.partition("=")[0] for text in options["generic_resource_rm"]],
            generic_resource_kind,
        )
    return resources


def _placement(before: Mapping[str, Any], options: Options) -> Changed:
    placement = dict(before)
    if options["constraint_add"] or options["constraint_rm"]:
        removed = set(map(_without_spaces, options["constraint_rm"]))
        kept = [c for c in placement.get("Constraints") or [] if _without_spaces(c) not in removed]
        placement["Constraints"] = [*kept, *(c for c in options["constraint_add"] if c not in kept)]
    if options["placement_pref_add"] or options["placement_pref_rm"]:
        removed_preferences = [parse_preference(text) for text in options["placement_pref_rm"]]
        preferences = [p for p in placement.get("Preferences") or [] if p not in removed_preferences]
        added = [parse_preference(text) for text in options["placement_pref_add"]]
        placement["Preferences"] = [*preferences, *(p for p in added if p not in preferences)]
    if options["replicas_max_per_node"] is not None:
        placement["MaxReplicas"] = options["replicas_max_per_node"]
    return placement


def _networks(before: Sequence[Mapping[str, Any]], options: Options, ids: Mapping[str, str]) -> list[Any]:
    added = [parse_network(text) for text in options["network_add"]]
    added = [{**each, "Target": ids.get(each["Target"], each["Target"])} for each in added]
    removed = [ids.get(name, name) for name in options["network_rm"]]
    return _replaced(before, added, removed, lambda network: network.get("Target"))


def _labels(before: Mapping[str, str], options: Options) -> dict[str, str]:
    labels = {**before, **parse_labels(options["label_add"]), **rule_labels(options)}
    dropped = {*options["label_rm"], *(SCHEDULE_LABELS if options["no_schedule"] else ())}
    if options["rebalance"] is False:
        dropped.add(service_labels.REBALANCE)
    if options["depends_on_add"] or options["depends_on_rm"]:
        names = dict.fromkeys([*service_labels.names_depended_on(labels), *options["depends_on_add"]])
        labels[service_labels.DEPENDS_ON] = ",".join(name for name in names if name not in options["depends_on_rm"])
        if not labels[service_labels.DEPENDS_ON]:
            dropped.add(service_labels.DEPENDS_ON)
    return {key: value for key, value in labels.items() if key not in dropped}


def _endpoint(before: Mapping[str, Any], options: Options) -> Changed:
    endpoint = {**before, **given({"Mode": options["endpoint_mode"]})}
    if options["publish_add"] or options["publish_rm"]:
        endpoint["Ports"] = changed_ports(before.get("Ports") or (), options["publish_add"], options["publish_rm"])
    return endpoint


def _replaced(before: Sequence[Any], added: Iterable[Any], removed: Sequence[str], key: Callable[[Any], Any]) -> list[Any]:
    """The list with what was added, each in place of what has the same key, and without what was removed."""
    members = {key(each): each for each in before}
    members |= {key(each): each for each in added}
    return [each for name, each in members.items() if name not in removed]


def _without_spaces(text: str) -> str:
    return text.replace(" ", "")
