"""What `service inspect --pretty` says of a service. Pure."""

import shlex
from collections.abc import Mapping
from typing import Any

from pyswarm_cli.content.references import described_references
from pyswarm_cli.service.modes import job_iteration, service_mode
from pyswarm_cli.service.ports import port_lines
from pyswarm_cli.service.rules import generic_resource_text
from pyswarm_cli.service.runs import moment, run_row, schedule_text
from pyswarm_cli.units import format_binary_bytes, format_duration_ns

_LATEST_RUNS = 5


def describe_service(
    found: Mapping[str, Any], networks: Mapping[str, str], runs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the members to print; `networks`: their names by id; `runs`: of a scheduled job, as the API tells them."""
    spec, endpoint = found["Spec"], found.get("Endpoint") or {}
    template = spec["TaskTemplate"]
    vips = {networks.get(v["NetworkID"], v["NetworkID"]): v["Addr"] for v in endpoint.get("VirtualIPs") or ()}
    return {
        "ID": found["ID"],
        "Name": spec["Name"],
        "Labels": spec.get("Labels"),
        "Service Mode": service_mode(spec),
        **_counts(spec.get("Mode") or {}),
        "Job": _job(found.get("JobStatus") or {}),
        "Schedule": _schedule(runs),
        "Created": found["CreatedAt"],
        "Updated": found["UpdatedAt"],
        "Update Status": _update_status(found.get("UpdateStatus") or {}),
        "Placement": _placement(template.get("Placement") or {}),
        "Update Config": _roll_config(spec.get("UpdateConfig") or {}),
        "Rollback Config": _roll_config(spec.get("RollbackConfig") or {}),
        "Restart Policy": _restart_policy(template.get("RestartPolicy") or {}),
        "Container": _container(template.get("ContainerSpec") or {}),
        "Resources": _resources(template.get("Resources") or {}),
        "Networks": " ".join(networks.get(each["Target"], each["Target"]) for each in template.get("Networks") or ()),
        "Endpoint Mode": (spec.get("EndpointSpec") or {}).get("Mode"),
        "Virtual IPs": vips,
        "Ports": port_lines(endpoint.get("Ports") or ()),
    }


def _counts(mode: Mapping[str, Any]) -> dict[str, str]:
    if "ReplicatedJob" in mode:
        job = mode["ReplicatedJob"] or {}
        return {"Max Concurrent": str(job.get("MaxConcurrent", 1)), "Total Completions": str(job.get("TotalCompletions", 1))}
    return {"Replicas": str((mode["Replicated"] or {}).get("Replicas", 1))} if "Replicated" in mode else {}


def _job(status: Mapping[str, Any]) -> dict[str, Any]:
    if not status:
        return {}
    last = status.get("LastExecution") or ""
    return {"Iteration": str(job_iteration(status)), "Last execution": moment(last) if not last.startswith("0001") else None}


def _schedule(runs: Mapping[str, Any] | None) -> dict[str, Any]:
    if runs is None:
        return {}
    rows = [run_row(run) for run in reversed(runs["Runs"][-_LATEST_RUNS:])]
    latest = [f"{row['Due']} {row['Outcome']}{' after ' if row['Took'] else ''}{row['Took']}" for row in rows]
    return {"Rule": schedule_text(runs).partition("; ")[0], "Next run": moment(runs["NextDue"]), "Latest runs": latest}


def _update_status(status: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "State": status.get("State"),
        "Started": moment(status.get("StartedAt") or ""),
        "Completed": moment(status.get("CompletedAt") or ""),
        "Message": status.get("Message"),
    }


def _roll_config(config: Mapping[str, Any]) -> dict[str, Any]:
    if not config:
        return {}
    parallelism = config.get("Parallelism", 0)
    return {
        "Parallelism": str(parallelism) if parallelism else "all at once",
        "Delay": format_duration_ns(config["Delay"]) if config.get("Delay") else None,
        "On failure": config.get("FailureAction"),
        "Monitoring period": format_duration_ns(config["Monitor"]) if config.get("Monitor") is not None else None,
        "Max failure ratio": f"{config.get('MaxFailureRatio') or 0:g}",
        "Order": config.get("Order"),
    }


def _container(container: Mapping[str, Any]) -> dict[str, Any]:
    grace_ns = container.get("StopGracePeriod")
    mounts = [f"{m.get('Type', 'volume')} {m.get('Source', '')} on {m['Target']}" for m in container.get("Mounts") or ()]
    return {
        "Image": container.get("Image"),
        "Entrypoint": shlex.join(container.get("Command") or ()),
        "Args": shlex.join(container.get("Args") or ()),
        "Env": container.get("Env"),
        "User": container.get("User"),
        "Dir": container.get("Dir"),
        "Labels": container.get("Labels"),
        "Mounts": mounts,
        "Healthcheck": _healthcheck(container.get("Healthcheck") or {}),
        "Secrets": described_references(container, "secret"),
        "Configs": described_references(container, "config"),
        "Groups": container.get("Groups"),
        "Init": "Yes" if container.get("Init") else None,
        "Read only": "Yes" if container.get("ReadOnly") else None,
        "Capabilities added": container.get("CapabilityAdd"),
        "Capabilities dropped": container.get("CapabilityDrop"),
        "Security": _security(container.get("Privileges") or {}),
        "Sysctls": container.get("Sysctls"),
        "Ulimits": [f"{each['Name']}={each.get('Soft', 0)}:{each.get('Hard', 0)}" for each in container.get("Ulimits") or ()],
        "OOM score": container.get("OomScoreAdj") or None,
        "Hosts": container.get("Hosts"),
        "DNS": {name: values for name, values in (container.get("DNSConfig") or {}).items() if values},
        "Stop grace period": None if grace_ns is None else format_duration_ns(grace_ns),
    }


def _healthcheck(check: Mapping[str, Any]) -> dict[str, Any]:
    kind, *rest = check.get("Test") or [""]
    durations = {"Interval": "Interval", "Timeout": "Timeout", "Start period": "StartPeriod", "Start interval": "StartInterval"}
    test = {"NONE": "none", "CMD": shlex.join(rest), "CMD-SHELL": " ".join(rest)}.get(kind, shlex.join(check.get("Test") or ()))
    return {
        "Test": test,
        **{title: format_duration_ns(check[name]) if check.get(name) else None for title, name in durations.items()},
        "Retries": str(check["Retries"]) if check.get("Retries") else None,
    }


def _security(privileges: Mapping[str, Any]) -> list[str]:
    seccomp, apparmor = privileges.get("Seccomp") or {}, privileges.get("AppArmor") or {}
    found = ["no new privileges"] if privileges.get("NoNewPrivileges") else []
    if seccomp.get("Mode", "default") not in ("", "default"):
        found.append(f"seccomp {seccomp['Mode']}")
    return [*found, "without AppArmor"] if apparmor.get("Mode") == "disabled" else found


def _placement(placement: Mapping[str, Any]) -> dict[str, Any]:
    preferences = placement.get("Preferences") or ()
    return {
        "Constraints": placement.get("Constraints"),
        "Preferences": [f"spread={each['Spread']['SpreadDescriptor']}" for each in preferences if each.get("Spread")],
        "Max replicas per node": placement.get("MaxReplicas") or None,
    }


def _restart_policy(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Condition": policy.get("Condition"),
        "Delay": format_duration_ns(policy["Delay"]) if "Delay" in policy else None,
        "Max attempts": policy.get("MaxAttempts") or None,
    }


def _resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    described = {}
    for kind in ("Reservations", "Limits"):
        amounts = resources.get(kind) or {}
        described[kind] = {
            "CPU": f"{amounts['NanoCPUs'] / 1e9:g}" if amounts.get("NanoCPUs") else None,
            "Memory": format_binary_bytes(amounts["MemoryBytes"]) if amounts.get("MemoryBytes") else None,
            "PIDs": amounts.get("Pids") or None,
            "Generic": [generic_resource_text(each) for each in amounts.get("GenericResources") or ()],
        }
    return described
