"""From the options of `service create` and `service update` to a service spec in the Engine API's JSON. Pure.

Only what was asked for goes into the spec: the daemon fills in its defaults. Raises click.BadParameter and click.UsageError.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pyswarm_cli.key_values import parse_environment, parse_fields, parse_labels
from pyswarm_cli.service.mounts import parse_mount, parse_publish

Options = Mapping[str, Any]
"""The options by click's names: `replicas`, `env`, …; None or () when not given."""


def service_spec(image: str, command: Sequence[str], options: Options, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of `POST /services/create`."""
    template = {
        "ContainerSpec": _container(image, command, options, environment),
        "Resources": _resources(options),
        "RestartPolicy": _restart_policy(options),
        "Placement": _placement(options),
        "Networks": [parse_network(text) for text in options["network"]],
    }
    spec = {
        "Name": options["name"] or "",
        "Labels": parse_labels(options["label"]),
        "TaskTemplate": _given(template),
        "Mode": _mode(options),
        "EndpointSpec": _endpoint(options),
    }
    return {**_given(spec), "Name": spec["Name"], "Mode": spec["Mode"]}


def parse_network(text: str) -> dict[str, Any]:
    """Return the attachment in `app`, or in `name=app,alias=web`."""
    if "=" not in text:
        return {"Target": text}
    parts = text.split(",")
    aliases = [part.partition("=")[2] for part in parts if part.startswith("alias=")]
    given = parse_fields(",".join(part for part in parts if not part.startswith("alias=")), "--network", {"name": "Target"})
    if "Target" not in given:
        raise click.BadParameter(f"--network {text!r}: name=NETWORK is missing")
    return {**given, "Aliases": aliases} if aliases else given


def parse_preference(text: str) -> dict[str, Any]:
    """Return the placement preference in `spread=node.labels.zone`."""
    strategy, equals, descriptor = text.partition("=")
    if strategy != "spread" or not equals or not descriptor:
        raise click.BadParameter(f"--placement-pref {text!r} is not spread=LABEL, such as spread=node.labels.zone")
    return {"Spread": {"SpreadDescriptor": descriptor}}


def parse_capability(name: str) -> str:
    """Return a capability as the API writes it: `CAP_NET_ADMIN`, or `ALL`."""
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def _container(image: str, command: Sequence[str], options: Options, environment: Mapping[str, str]) -> dict[str, Any]:
    return _given(
        {
            "Image": image,
            "Labels": parse_labels(options["container_label"]),
            "Command": split_command(options["entrypoint"]) if options["entrypoint"] is not None else [],
            "Args": list(command),
            "Hostname": options["hostname"],
            "Env": parse_environment(options["env"], environment),
            "Dir": options["workdir"],
            "User": options["user"],
            "TTY": options["tty"],
            "ReadOnly": options["read_only"],
            "Mounts": [parse_mount(text) for text in options["mount"]],
            "StopSignal": options["stop_signal"],
            "CapabilityAdd": [parse_capability(name) for name in options["cap_add"]],
            "CapabilityDrop": [parse_capability(name) for name in options["cap_drop"]],
        },
        StopGracePeriod=options["stop_grace_period"],
    )


def split_command(text: str) -> list[str]:
    """Return an entrypoint's words, quoted as in a shell."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(f"--entrypoint {text!r}: {error}") from None


def _resources(options: Options) -> dict[str, Any]:
    limits = {"NanoCPUs": options["limit_cpu"], "MemoryBytes": options["limit_memory"], "Pids": options["limit_pids"]}
    reservations = {"NanoCPUs": options["reserve_cpu"], "MemoryBytes": options["reserve_memory"]}
    return _given({"Limits": _given(limits), "Reservations": _given(reservations)})


def _restart_policy(options: Options) -> dict[str, Any]:
    return _given(
        {"Condition": options["restart_condition"]},
        Delay=options["restart_delay"],
        MaxAttempts=options["restart_max_attempts"],
        Window=options["restart_window"],
    )


def _placement(options: Options) -> dict[str, Any]:
    return _given(
        {
            "Constraints": list(options["constraint"]),
            "Preferences": [parse_preference(text) for text in options["placement_pref"]],
            "MaxReplicas": options["replicas_max_per_node"],
        }
    )


def _mode(options: Options) -> dict[str, Any]:
    if options["mode"] == "global":
        if options["replicas"] is not None:
            raise click.UsageError("a global service has one task on each node: --replicas does not go with --mode global")
        return {"Global": {}}
    return {"Replicated": {} if options["replicas"] is None else {"Replicas": options["replicas"]}}


def _endpoint(options: Options) -> dict[str, Any]:
    return _given({"Mode": options["endpoint_mode"], "Ports": [parse_publish(text) for text in options["publish"]]})


def _given(members: Mapping[str, Any], **zero_counts: int | None) -> dict[str, Any]:
    """The members that are not empty, and those of `zero_counts`, of which 0 means something, that are not None."""
    found = {name: value for name, value in members.items() if value}
    return {**found, **{name: value for name, value in zero_counts.items() if value is not None}}


def updated_spec(spec: Mapping[str, Any], options: Options, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return a service's spec with the changes that `service update` asks for."""
    template = dict(spec["TaskTemplate"])
    container, placement = dict(template.get("ContainerSpec") or {}), dict(template.get("Placement") or {})
    changed = {**spec, "TaskTemplate": template}
    if options["image"]:
        container["Image"] = options["image"]
    if options["args"] is not None:
        container["Args"] = split_command(options["args"])
    if options["replicas"] is not None:
        changed = with_replicas(changed, options["replicas"])
    if options["env_add"] or options["env_rm"]:
        container["Env"] = _changed_environment(container.get("Env") or [], options, environment)
    if options["label_add"] or options["label_rm"]:
        labels = {**(spec.get("Labels") or {}), **parse_labels(options["label_add"])}
        changed["Labels"] = {key: value for key, value in labels.items() if key not in options["label_rm"]}
    if options["constraint_add"] or options["constraint_rm"]:
        removed = set(map(_without_spaces, options["constraint_rm"]))
        kept = [c for c in placement.get("Constraints") or [] if _without_spaces(c) not in removed]
        placement["Constraints"] = [*kept, *(c for c in options["constraint_add"] if c not in kept)]
        template["Placement"] = placement
    if options["force"]:
        template["ForceUpdate"] = int(template.get("ForceUpdate") or 0) + 1
    _change_resources(template, options)
    template["ContainerSpec"] = container
    return changed


def with_replicas(spec: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """Return a replicated service's spec with another number of tasks. Raises click.ClickException for other modes."""
    if "Replicated" not in (spec.get("Mode") or {"Replicated": {}}):
        raise click.ClickException(f"service {spec.get('Name')} is not replicated: it has no number of replicas to change")
    return {**spec, "Mode": {"Replicated": {"Replicas": replicas}}}


def _changed_environment(before: Sequence[str], options: Options, environment: Mapping[str, str]) -> list[str]:
    variables = dict(pair.partition("=")[::2] for pair in before)
    variables |= dict(pair.partition("=")[::2] for pair in parse_environment(options["env_add"], environment))
    return [f"{key}={value}" for key, value in variables.items() if key not in options["env_rm"]]


def _change_resources(template: dict[str, Any], options: Options) -> None:
    resources = {kind: dict(amounts or {}) for kind, amounts in (template.get("Resources") or {}).items()}
    wanted: tuple[tuple[str, str, str], ...] = (
        ("limit_cpu", "Limits", "NanoCPUs"),
        ("limit_memory", "Limits", "MemoryBytes"),
        ("reserve_cpu", "Reservations", "NanoCPUs"),
        ("reserve_memory", "Reservations", "MemoryBytes"),
    )
    changes = [(kind, name, options[option]) for option, kind, name in wanted if options[option] is not None]
    for kind, name, amount in changes:
        resources.setdefault(kind, {})[name] = amount
    if changes:
        template["Resources"] = resources


def _without_spaces(text: str) -> str:
    return text.replace(" ", "")
