"""From the options of `pyswarm run` and `create` to the body of `POST /containers/create`. Raises click.BadParameter."""

import ipaddress
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from pyswarm_cli.key_values import parse_environment, parse_labels
from pyswarm_cli.service.mounts import parse_mount
from pyswarm_cli.units import parse_bytes

_RESTART = re.compile(r"(no|always|unless-stopped|on-failure)(?::(\d+))?")
_PORT = re.compile(r"(\d+)(?:-(\d+))?")
_HIGHEST_PORT = 65535
_PROTOCOLS = ("tcp", "udp", "sctp")


def container_body(image: str, command: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the API is asked for; empty members are left out."""
    exposed, bindings = _ports(given["publish"], given["expose"])
    config = {
        "Image": image,
        "Cmd": list(command),
        "Entrypoint": None if given["entrypoint"] is None else shlex.split(given["entrypoint"]) or [""],
        "Env": parse_environment([*_lines_of(given["env_file"]), *given["env"]], os.environ),
        "Labels": parse_labels(given["label"]),
        "WorkingDir": given["workdir"],
        "User": given["user"],
        "Hostname": given["hostname"],
        "OpenStdin": given["interactive"],
        "StdinOnce": given["interactive"] and not given.get("detach", False),
        "AttachStdin": given["interactive"] and not given.get("detach", False),
        "Tty": given["tty"],
        "ExposedPorts": exposed,
        "Volumes": {each: {} for each in given["volume"] if ":" not in each},
        "StopSignal": given["stop_signal"],
        "StopTimeout": given["stop_timeout"],
        "Healthcheck": _healthcheck(given),
    }
    host_config = {**_reach(given, bindings), **_limits(given)}
    return {**filled(config), "HostConfig": filled(host_config), **_endpoint(given)}


def _endpoint(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of the place on the network, if anything is."""
    asked = filled({"Aliases": list(given["network_alias"]), "IPAMConfig": filled({"IPv4Address": given["ip"]})})
    return {"NetworkingConfig": {"EndpointsConfig": {given["network"] or "bridge": asked}}} if asked else {}


def _reach(given: Mapping[str, Any], bindings: dict[str, Any]) -> dict[str, Any]:
    return {
        "AutoRemove": given["rm"],
        "RestartPolicy": restart_policy(given["restart"]),
        "NetworkMode": given["network"],
        "PortBindings": bindings,
        "PublishAllPorts": given["publish_all"],
        "ExtraHosts": list(given["add_host"]),
        "Dns": list(given["dns"]),
        "DnsSearch": list(given["dns_search"]),
        "DnsOptions": list(given["dns_option"]),
        "Binds": [_bind(each) for each in given["volume"] if ":" in each],
        "Mounts": [parse_mount(each) for each in given["mount"]],
        "Tmpfs": {path: options for path, _, options in (each.partition(":") for each in given["tmpfs"])},
        "Devices": [_device(each) for each in given["device"] if each.startswith("/")],
        "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [each]} for each in given["device"] if not each.startswith("/")],
        "LogConfig": filled({"Type": given["log_driver"], "Config": parse_labels(given["log_opt"])}),
    }


def _limits(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Memory": given["memory"],
        "MemorySwap": memory_and_swap(given["memory_swap"]),
        "MemoryReservation": given["memory_reservation"],
        "MemorySwappiness": given["memory_swappiness"],
        "NanoCpus": given["cpus"],
        "CpuShares": given["cpu_shares"],
        "CpuQuota": given["cpu_quota"],
        "CpuPeriod": given["cpu_period"],
        "CpusetCpus": given["cpuset_cpus"],
        "CpusetMems": given["cpuset_mems"],
        "BlkioWeight": given["blkio_weight"],
        "BlkioDeviceReadBps": [_device_limit(each) for each in given["device_read_bps"]],
        "BlkioDeviceWriteBps": [_device_limit(each) for each in given["device_write_bps"]],
        "BlkioDeviceReadIOps": [_device_limit(each) for each in given["device_read_iops"]],
        "BlkioDeviceWriteIOps": [_device_limit(each) for each in given["device_write_iops"]],
        "DeviceCgroupRules": list(given["device_cgroup_rule"]),
        "PidsLimit": given["pids_limit"],
        "ShmSize": given["shm_size"],
        "Ulimits": [_ulimit(each) for each in given["ulimit"]],
        "Sysctls": parse_labels(given["sysctl"]),
        "CapAdd": list(given["cap_add"]),
        "CapDrop": list(given["cap_drop"]),
        "SecurityOpt": [_security_option(each) for each in given["security_opt"]],
        "Privileged": given["privileged"],
        "ReadonlyRootfs": given["read_only"],
        "OomScoreAdj": given["oom_score_adj"],
        "GroupAdd": list(given["group_add"]),
        "Init": given["init"],
    }


def filled(members: dict[str, Any]) -> dict[str, Any]:
    """Return the members that say anything; a number does even when it is 0."""
    return {name: value for name, value in members.items() if value not in (None, "", [], {}, False) or type(value) is int}


def _lines_of(paths: Iterable[str]) -> list[str]:
    lines = (line.strip() for path in paths for line in Path(path).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def restart_policy(text: str) -> dict[str, Any]:
    """Return the body's form of `--restart`. Raises click.BadParameter."""
    match = _RESTART.fullmatch(text)
    if match is None or (match[2] and match[1] != "on-failure"):
        raise click.BadParameter(f"--restart {text!r} is none of no, on-failure[:N], always, unless-stopped")
    return {"Name": match[1], "MaximumRetryCount": int(match[2] or 0)}


def _bind(text: str) -> str:
    """Return the bind with its source as a whole path, when that is one of this machine."""
    source, colon, rest = text.partition(":")
    return f"{os.path.abspath(source)}{colon}{rest}" if colon and source.startswith((".", "~")) else text


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    access = parts.pop() if len(parts) > 1 and re.fullmatch("[rwm]+", parts[-1]) else "rwm"
    if len(parts) > 2:
        raise click.BadParameter(f"--device {text!r} is not PATH[:PATH][:rwm]")
    return {"PathOnHost": parts[0], "PathInContainer": parts[-1], "CgroupPermissions": access}


def _device_limit(text: str) -> dict[str, Any]:
    path, _, amount = text.rpartition(":")
    try:
        return {"Path": path, "Rate": parse_bytes(amount)}
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not PATH:AMOUNT, such as /dev/sda:1mb: {error}") from None


def _ulimit(text: str) -> dict[str, Any]:
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise click.BadParameter(f"--ulimit {text!r} is not NAME=SOFT[:HARD], such as nofile=1024:2048") from None


def memory_and_swap(text: str | None) -> int | None:
    """Return `--memory-swap` in bytes; -1 for any, None when it is not given. Raises click.BadParameter."""
    if text is None or text == "-1":
        return None if text is None else -1
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(f"--memory-swap: {error}") from None


def _security_option(text: str) -> str:
    """Return the option with the content of a seccomp profile in place of its file's name, as the API wants it."""
    name, _, value = text.partition("=")
    if name != "seccomp" or value in ("unconfined", "builtin"):
        return text
    try:
        return f"seccomp={json.dumps(json.loads(Path(value).read_text()))}"
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"--security-opt: opening seccomp profile ({value}) failed: {error}") from None


def _healthcheck(given: Mapping[str, Any]) -> dict[str, Any]:
    if given["no_healthcheck"]:
        return {"Test": ["NONE"]}
    members = {
        "Test": ["CMD-SHELL", given["health_cmd"]] if given["health_cmd"] else None,
        "Interval": given["health_interval"],
        "Timeout": given["health_timeout"],
        "Retries": given["health_retries"],
        "StartPeriod": given["health_start_period"],
        "StartInterval": given["health_start_interval"],
    }
    return filled(members)


def _ports(published: Iterable[str], exposed: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (ExposedPorts, PortBindings) of `[IP:][PORT:]PORT[/PROTO]` with ranges."""
    ports: dict[str, Any] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in exposed:
        numbers, protocol = _numbers_and_protocol(text, text)
        ports.update({f"{number}/{protocol}": {} for number in numbers})
    for text in published:
        address, host, container = _split_published(text)
        inside, protocol = _numbers_and_protocol(container, text)
        outside = [str(number) for number in _range(host, text)] if host else [""] * len(inside)
        if len(inside) == 1 and len(outside) > 1:
            outside = [host]  # the daemon takes a free one of these
        if len(inside) != len(outside):
            raise click.BadParameter(f"--publish {text!r}: the ranges have different lengths")
        for number, outer in zip(inside, outside, strict=True):
            ports[f"{number}/{protocol}"] = {}
            bindings.setdefault(f"{number}/{protocol}", []).append({"HostIp": address, "HostPort": outer})
    return ports, bindings


def _split_published(text: str) -> tuple[str, str, str]:
    """Return (address, host's port or range, container's port or range with protocol)."""
    address, rest = "", text
    if text.startswith("["):
        address, _, rest = text[1:].partition("]:")
    parts = rest.rsplit(":", 2)
    container = parts.pop()
    host = parts.pop() if parts else ""
    address = address or (parts.pop() if parts else "")
    try:
        return str(ipaddress.ip_address(address)) if address else "", host, container
    except ValueError:
        raise click.BadParameter(f"--publish {text!r}: {address!r} is no IP address") from None


def _numbers_and_protocol(text: str, whole: str) -> tuple[list[int], str]:
    numbers, _, protocol = text.partition("/")
    if (protocol or "tcp") not in _PROTOCOLS:
        raise click.BadParameter(f"{whole!r}: the protocol is one of {', '.join(_PROTOCOLS)}")
    return _range(numbers, whole), protocol or "tcp"


def _range(text: str, whole: str) -> list[int]:
    match = _PORT.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last <= _HIGHEST_PORT:
        raise click.BadParameter(f"{whole!r}: {text!r} is no port, or range of ports")
    return list(range(first, last + 1))
