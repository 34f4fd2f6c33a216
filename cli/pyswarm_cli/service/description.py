"""What `service inspect --pretty` says of a service. Pure."""

import shlex
from collections.abc import Mapping
from typing import Any

from pyswarm_cli.service.listing import port_text, service_mode
from pyswarm_cli.units import format_binary_bytes, format_duration_ns


def describe_service(found: Mapping[str, Any], networks: Mapping[str, str]) -> dict[str, Any]:
    """Return the members to print; `networks` gives the names of networks by id."""
    spec, endpoint = found["Spec"], found.get("Endpoint") or {}
    template = spec["TaskTemplate"]
    replicated = (spec.get("Mode") or {}).get("Replicated")
    vips = {networks.get(v["NetworkID"], v["NetworkID"]): v["Addr"] for v in endpoint.get("VirtualIPs") or ()}
    status = found.get("UpdateStatus") or {}
    return {
        "ID": found["ID"],
        "Name": spec["Name"],
        "Labels": spec.get("Labels"),
        "Service Mode": service_mode(spec),
        "Replicas": None if replicated is None else str(replicated.get("Replicas", 1)),
        "Created": found["CreatedAt"],
        "Updated": found["UpdatedAt"],
        "Update Status": {"State": status.get("State"), "Message": status.get("Message")},
        "Placement": _placement(template.get("Placement") or {}),
        "Restart Policy": _restart_policy(template.get("RestartPolicy") or {}),
        "Container": _container(template.get("ContainerSpec") or {}),
        "Resources": _resources(template.get("Resources") or {}),
        "Networks": [networks.get(each["Target"], each["Target"]) for each in template.get("Networks") or ()],
        "Endpoint Mode": (spec.get("EndpointSpec") or {}).get("Mode"),
        "Virtual IPs": vips,
        "Ports": [port_text(port) for port in endpoint.get("Ports") or ()],
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
        "Capabilities added": container.get("CapabilityAdd"),
        "Capabilities dropped": container.get("CapabilityDrop"),
        "Stop grace period": None if grace_ns is None else format_duration_ns(grace_ns),
    }


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
        }
    return described
