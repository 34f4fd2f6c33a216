"""Containers as Docker's list and inspect show them; pure."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pyswarm_agent.api.container_networks import networks_of
from pyswarm_agent.api.host_config_rendering import render_host_config
from pyswarm_agent.health.rendering import health_suffix, render_health, render_healthcheck
from pyswarm_agent.health.rules import Health
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.local_containers.mounts import rendered_mounts
from pyswarm_agent.local_containers.ports import listed_ports, published_ports, rendered_ports
from pyswarm_agent.local_containers.records import BRIDGE, CONTAINER_PREFIX
from pyswarm_agent.local_containers.restart_policy import RestartPolicy
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord
from pyswarm_common.engine_api.responses import ZERO_TIME, rfc3339

_SECOND_NS = 1_000_000_000
_UNITS = ((86400 * 365, "year"), (86400 * 30, "month"), (86400 * 7, "week"), (86400, "day"), (3600, "hour"), (60, "minute"))


def render_container(
    container: ContainerRecord, now_ns: int, health: Health | None = None, held: Held | None = None
) -> dict[str, Any]:
    """Return a container as the list shows it; `held` when it is a local one."""
    config = container.config
    return {
        "Id": config.id,
        "Names": [f"/{config.name}"],
        "Image": config.image,
        "ImageID": config.image_id,
        "Command": " ".join(_quote(arg) for arg in config.args),
        "Created": container.created_at_ns // _SECOND_NS,
        "Ports": listed_ports(_exposed(held), published_ports(container, held)),
        "Labels": config.labels,
        "State": state_of(container, held),
        "Status": _status(container, now_ns, health, held),
        "HostConfig": {"NetworkMode": _network_mode(held)},
        "NetworkSettings": {"Networks": networks_of(container, held)},
        "Mounts": rendered_mounts(config.mounts),
    }


def render_details(
    container: ContainerRecord, health: Health | None = None, held: Held | None = None, graph: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a container as inspect shows it. `graph`: the folders of its root filesystem, and its log, by Docker's names."""
    config, graph = container.config, graph or {}
    bundle = graph.get("Bundle", "")
    return {
        "Id": config.id,
        "Created": rfc3339(container.created_at_ns),
        "Path": config.args[0] if config.args else "",
        "Args": list(config.args[1:]),
        "State": _render_state(container, held) | ({"Health": render_health(health)} if health is not None else {}),
        "Image": config.image_id,
        "ResolvConfPath": f"{bundle}/resolv.conf" if bundle else "",
        "HostnamePath": f"{bundle}/hostname" if bundle else "",
        "HostsPath": f"{bundle}/hosts" if bundle else "",
        "LogPath": graph.get("LogPath", ""),
        "Name": f"/{config.name}",
        "RestartCount": held.container.restarts.count if held is not None else 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": config.apparmor,
        "ExecIDs": None,
        "HostConfig": _host_config(config, held),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {key: graph[key] for key in ("LowerDir", "MergedDir", "UpperDir", "WorkDir") if key in graph} or None,
        },
        "Mounts": rendered_mounts(config.mounts),
        "Config": _render_config(config, held),
        "NetworkSettings": _network_settings(container, held),
    }


def state_of(container: ContainerRecord, held: Held | None) -> str:
    """Return the state in Docker's words."""
    if held is not None and held.is_removed:
        return "removing"
    return "restarting" if held is not None and held.is_restarting else container.state


def _host_config(config: ContainerConfig, held: Held | None) -> dict[str, Any]:
    if held is None:
        return render_host_config(config, {}, RestartPolicy())
    shown = render_host_config(config, held.container.host_config, held.container.restart_policy)
    return shown | {"NetworkMode": _network_mode(held), "AutoRemove": held.container.auto_remove}


def _render_config(config: ContainerConfig, held: Held | None) -> dict[str, Any]:
    check = render_healthcheck(config.healthcheck)
    shown = {
        "Hostname": config.hostname,
        "Domainname": "",
        "User": config.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": list(config.env),
        "Cmd": list(config.args),
        "Image": config.image,
        "Volumes": None,
        "WorkingDir": config.cwd,
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": config.labels,
        "StopSignal": config.stop_signal,
    }
    if check is not None:
        shown["Healthcheck"] = check
    return shown | (held.container.config if held is not None else {})


def _render_state(container: ContainerRecord, held: Held | None) -> dict[str, Any]:
    ended, state = container.exit, state_of(container, held)
    error, exit_code = (ended.error, ended.exit_code) if ended is not None else ("", 0)
    if held is not None and held.container.start_error and not container.is_live:
        error, exit_code = held.container.start_error, held.container.start_exit_code
    return {
        "Status": state,
        "Running": container.is_live or state == "restarting",
        "Paused": state == "paused",
        "Restarting": state == "restarting",
        "OOMKilled": ended.oom_killed if ended else False,
        "Dead": False,
        "Pid": container.pid,
        "ExitCode": exit_code,
        "Error": error,
        "StartedAt": rfc3339(container.started_at_ns),
        "FinishedAt": rfc3339(container.finished_at_ns) if container.finished_at_ns else ZERO_TIME,
    }


def _network_settings(container: ContainerRecord, held: Held | None) -> dict[str, Any]:
    networks = networks_of(container, held)
    main = networks.get(BRIDGE, {})
    is_live = container.is_live and held is not None and held.place is not None
    ports = published_ports(container, held)
    return {
        "Bridge": "",
        "SandboxID": _digest("sandbox", container) if is_live else "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": rendered_ports(_exposed(held), ports) if is_live or held is None else {},
        "SandboxKey": container.config.netns_path or "" if is_live else "",
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": main.get("EndpointID", ""),
        "Gateway": main.get("Gateway", ""),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": main.get("IPAddress", ""),
        "IPPrefixLen": main.get("IPPrefixLen", 0),
        "IPv6Gateway": "",
        "MacAddress": main.get("MacAddress", ""),
        "Networks": networks,
    }


def _digest(what: str, container: ContainerRecord) -> str:
    return hashlib.sha256(f"{what} {container.config.id} {container.started_at_ns}".encode()).hexdigest()


def _network_mode(held: Held | None) -> str:
    if held is None:
        return "default"
    mode = held.container.network_mode
    return (
        mode
        if mode.startswith(CONTAINER_PREFIX) or mode != BRIDGE
        else str(held.container.host_config.get("NetworkMode") or "default")
    )


def _exposed(held: Held | None) -> list[str]:
    return list(held.container.config.get("ExposedPorts") or {}) if held is not None else []


def _status(container: ContainerRecord, now_ns: int, health: Health | None, held: Held | None) -> str:
    state, ended = state_of(container, held), container.exit
    if state == "restarting":
        exit_code, finished_at_ns = (ended.exit_code, ended.finished_at_ns) if ended else (0, now_ns)
        return f"Restarting ({exit_code}) {_duration(now_ns - finished_at_ns)} ago"
    if container.is_live:
        paused = " (Paused)" if state == "paused" else ""
        return f"Up {_duration(now_ns - container.started_at_ns)}{paused or health_suffix(health)}"
    if ended is not None:
        return f"Exited ({ended.exit_code}) {_duration(now_ns - ended.finished_at_ns)} ago"
    return "Created"


def _duration(duration_ns: int) -> str:
    seconds = max(0, duration_ns // _SECOND_NS)
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    if seconds >= 3600:
        return "About an hour"
    if seconds >= 60:
        return "About a minute"
    return "Less than a second" if seconds < 1 else "1 second" if seconds == 1 else f"{seconds} seconds"


def _quote(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument
