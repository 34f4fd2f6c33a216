"""From the options of `service create` to a service spec in the Engine API's JSON. Pure. (Those of `update`: `changed_spec`.)

Only what was asked for goes into the spec: the daemon fills in its defaults. Raises click.BadParameter and click.UsageError.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pyswarm_cli.key_values import parse_environment, parse_labels
from pyswarm_cli.service.container_settings import access_labels, container_members, swap_members
from pyswarm_cli.service.health import healthcheck
from pyswarm_cli.service.log_options import log_driver
from pyswarm_cli.service.mounts import parse_mount
from pyswarm_cli.service.networks import parse_network
from pyswarm_cli.service.ports import parse_published
from pyswarm_cli.service.rules import (
    SCHEDULE_LABELS,
    Options,
    given,
    parse_generic_resource,
    parse_preference,
    restart_policy,
    roll_config,
    rule_labels,
)

_JOBS = ("replicated-job", "global-job")


def service_spec(image: str, command: Sequence[str], options: Options, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of `POST /services/create`. The options `secret` and `config` hold references (see `content.references`)."""
    template = {
        "ContainerSpec": _container(image, command, options, environment),
        "Resources": _resources(options),
        "RestartPolicy": restart_policy(options),
        "Placement": _placement(options),
        "Networks": [parse_network(text) for text in options["network"]],
        "LogDriver": log_driver(options, {}),
    }
    spec = {
        "Name": options["name"] or "",
        "Labels": {**parse_labels(options["label"]), **rule_labels(options)},
        "TaskTemplate": given(template),
        "Mode": _mode(options),
        "UpdateConfig": roll_config(options, "update", {}),
        "RollbackConfig": roll_config(options, "rollback", {}),
        "EndpointSpec": _endpoint(options),
    }
    _check_mode(options, spec)
    return {**given(spec), "Name": spec["Name"], "Mode": spec["Mode"]}


def _container(image: str, command: Sequence[str], options: Options, environment: Mapping[str, str]) -> dict[str, Any]:
    return given(
        {
            "Image": image,
            "Labels": {**parse_labels(options["container_label"]), **access_labels(options)},
            "Command": split_command(options["entrypoint"]) if options["entrypoint"] is not None else [],
            "Args": list(command),
            "Hostname": options["hostname"],
            "Env": parse_environment(options["env"], environment),
            "Dir": options["workdir"],
            "User": options["user"],
            "Secrets": list(options["secret"]),
            "Configs": list(options["config"]),
            "Mounts": [parse_mount(text) for text in options["mount"]],
            "StopSignal": options["stop_signal"],
            "Healthcheck": healthcheck(None, options),
            **container_members(options),
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
    reservations = {
        "NanoCPUs": options["reserve_cpu"],
        "MemoryBytes": options["reserve_memory"],
        "GenericResources": [parse_generic_resource(text) for text in options["generic_resource"]],
    }
    return {**given({"Limits": given(limits), "Reservations": given(reservations)}), **swap_members(options)}


def _placement(options: Options) -> dict[str, Any]:
    return given(
        {
            "Constraints": list(options["constraint"]),
            "Preferences": [parse_preference(text) for text in options["placement_pref"]],
            "MaxReplicas": options["replicas_max_per_node"],
        }
    )


def _mode(options: Options) -> dict[str, Any]:
    replicas, at_once = options["replicas"], options["max_concurrent"]
    match options["mode"]:
        case "global":
            return {"Global": {}}
        case "global-job":
            return {"GlobalJob": {}}
        case "replicated-job":
            return {"ReplicatedJob": given({}, MaxConcurrent=replicas if at_once is None else at_once, TotalCompletions=replicas)}
    return {"Replicated": given({}, Replicas=replicas)}


def _check_mode(options: Options, spec: Mapping[str, Any]) -> None:
    """Refuse what does not go together, before the daemon does."""
    mode = options["mode"]
    if mode in ("global", "global-job"):
        for name in ("replicas", "replicas_max_per_node"):
            if options[name] is not None:
                flag = name.replace("_", "-")
                raise click.UsageError(f"--{flag} does not go with --mode {mode}, which has one task on each node")
    if options["max_concurrent"] is not None and mode != "replicated-job":
        raise click.UsageError("--max-concurrent only goes with --mode replicated-job")
    if mode in _JOBS and (spec["UpdateConfig"] or spec["RollbackConfig"]):
        raise click.UsageError("update and rollback configuration is not supported for jobs")
    if mode in _JOBS and options["restart_condition"] == "any":
        raise click.UsageError("a job ends when its tasks complete: --restart-condition any does not go with it")
    if options["schedule"] and mode not in _JOBS:
        raise click.UsageError("--schedule goes with a job: add --mode replicated-job or --mode global-job")
    if not options["schedule"] and any(label in spec["Labels"] for label in SCHEDULE_LABELS[1:]):
        raise click.UsageError("--schedule is missing: the other --schedule options say how it is followed")


def _endpoint(options: Options) -> dict[str, Any]:
    return given({"Mode": options["endpoint_mode"], "Ports": parse_published(options["publish"])})
