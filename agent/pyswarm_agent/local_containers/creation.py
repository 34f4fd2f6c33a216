"""From a create body and an image to a container: Docker's merge rules; pure.

Source: Moby `daemon/commit.go` (`merge`), `daemon/create.go`, `runconfig`, `opts`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pyswarm_agent.container_config import DEFAULT_PATH, SHORT_ID_LENGTH, merge_env
from pyswarm_agent.health.merging import merge_healthcheck
from pyswarm_agent.images import Image
from pyswarm_agent.local_containers.create_body import CreateBody, EndpointBody, HostConfigBody
from pyswarm_agent.local_containers.endpoints import check_endpoint, joined_of
from pyswarm_agent.local_containers.limits import (
    block_limits_of,
    block_weight_of,
    cpus_of,
    device_rules_of,
    security_of,
    swap_of,
)
from pyswarm_agent.local_containers.ports import port_requests
from pyswarm_agent.local_containers.records import BRIDGE, CONTAINER_PREFIX, HOST, NONE, Joined, LocalContainer
from pyswarm_agent.local_containers.refusals import refuse_what_is_not_offered
from pyswarm_agent.local_containers.restart_policy import parse_policy
from pyswarm_agent.runtime.records import (
    DEFAULT_STOP_GRACE_PERIOD_S,
    DEFAULT_STOP_SIGNAL,
    ContainerConfig,
    DeviceConfig,
    HealthcheckConfig,
    LogConfig,
    UlimitConfig,
)
from pyswarm_common.container_settings import check_sysctl, check_ulimit
from pyswarm_common.container_spec import DNSConfig, HealthConfig
from pyswarm_common.engine_api.member_names import with_canonical_names
from pyswarm_common.engine_api.responses import without_nulls
from pyswarm_common.errors import InvalidArgument, Unimplemented
from pyswarm_common.host_access import check_cdi_name
from pyswarm_common.log_drivers import check_log_driver
from pyswarm_common.specs import SECOND_NS

DEFAULT_NETWORK_MODES = ("", "default", BRIDGE)
MAXIMUM_HOSTNAME_LENGTH = 64
FOREVER_S = 1e9


class Creation(NamedTuple):
    """What becomes of a body; `config` still without mounts of volumes, layers and network."""

    container: LocalContainer
    config: ContainerConfig


def decode_body(posted: Mapping[str, Any]) -> CreateBody:
    """Return the typed body; names of members in any case. Raises InvalidArgument."""
    try:
        return msgspec.convert(with_canonical_names(without_nulls(dict(posted)), CreateBody), CreateBody, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error


def build(body: CreateBody, posted: Mapping[str, Any], image: Image, *, container_id: str, name: str, hostname: str) -> Creation:
    """Return container and configuration. `hostname` is the node's. Raises InvalidArgument, Unimplemented."""
    host = body.host_config
    refuse_what_is_not_offered(body, posted)
    mode = network_mode(body)
    entrypoint, cmd = merged_command(body, image)
    if not entrypoint + cmd:
        raise InvalidArgument("No command specified")
    own_hostname = body.hostname or (hostname if mode == HOST else container_id[:SHORT_ID_LENGTH])
    if len(own_hostname) > MAXIMUM_HOSTNAME_LENGTH:
        raise InvalidArgument(f"invalid hostname: {own_hostname}: it has more than {MAXIMUM_HOSTNAME_LENGTH} characters")
    env = merge_env([DEFAULT_PATH], image.config.env, body.env or [])
    labels = {**image.config.labels, **(body.labels or {})}
    exposed = {**{key: {} for key in image.config.exposed_ports}, **(body.exposed_ports or {})}
    config = _with_host_config(
        ContainerConfig(
            id=container_id,
            name=name,
            image=body.image,
            image_id=image.id,
            labels=labels,
            args=(*entrypoint, *cmd),
            env=merge_env([f"HOSTNAME={own_hostname}", *(["TERM=xterm"] if body.tty else [])], env),
            cwd=_absolute(body.working_dir or image.config.working_dir or "/"),
            user=body.user or image.config.user,
            hostname=own_hostname,
            tty=body.tty,
            open_stdin=body.open_stdin,
            stdin_once=body.stdin_once,
            stop_signal=body.stop_signal or image.config.stop_signal or DEFAULT_STOP_SIGNAL,
            stop_grace_period_s=DEFAULT_STOP_GRACE_PERIOD_S if body.stop_timeout is None else _seconds(body.stop_timeout),
            healthcheck=_healthcheck(body.healthcheck, image),
            keeps_layer=True,
        ),
        host,
    )
    policy = parse_policy(*((p.name, p.maximum_retry_count) if (p := host.restart_policy) else ("", 0)))
    if host.auto_remove and policy.name != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    requests = port_requests(host.port_bindings or {}, exposed, publishes_all=host.publish_all_ports)
    joins = _joined(body, mode)
    first = joins[0] if joins else Joined(network=mode)
    container = LocalContainer(
        id=container_id,
        name=name,
        config=_shown_config(posted, config, env, entrypoint, cmd, image, exposed),
        host_config={k: v for k, v in dict(posted.get("HostConfig") or {}).items() if v is not None},
        network_mode=mode,
        aliases=first.aliases,
        address=first.address,
        joined=joins if len(joins) > 1 or first.mac or first.priority else None,
        port_requests=requests if mode not in (HOST, NONE) else (),
        extra_hosts=tuple(map(_extra_host, host.extra_hosts or ())),
        dns=DNSConfig(nameservers=host.dns, search=host.dns_search, options=host.dns_options),
        restart_policy=policy,
        auto_remove=host.auto_remove,
    )
    return Creation(container, config)


def network_mode(body: CreateBody) -> str:
    """Return `bridge`, `host`, `none`, `container:…` or a network that somebody made. Raises InvalidArgument."""
    asked = body.host_config.network_mode
    joined = [name for name in body.networking_config.endpoints_config or {} if name not in DEFAULT_NETWORK_MODES]
    if asked in DEFAULT_NETWORK_MODES and joined:
        asked = joined[0]
    mode = BRIDGE if asked in DEFAULT_NETWORK_MODES else asked
    if mode in (BRIDGE, HOST, NONE):
        return mode
    if mode.startswith(CONTAINER_PREFIX) and mode != CONTAINER_PREFIX:
        if body.hostname:
            raise InvalidArgument("conflicting options: hostname and the network mode")
        if body.host_config.port_bindings or body.host_config.publish_all_ports:
            raise InvalidArgument("conflicting options: port publishing and the container type network mode")
    return mode


def _joined(body: CreateBody, mode: str) -> tuple[Joined, ...]:
    """The networks that it joins, that of its mode first."""
    asked = (body.networking_config.endpoints_config or {}).items()
    endpoints = {mode if name in DEFAULT_NETWORK_MODES and mode == BRIDGE else name: one or EndpointBody() for name, one in asked}
    for name, endpoint in endpoints.items():
        check_endpoint(name, endpoint)
    others = [name for name in endpoints if name not in (mode, "", "default")]
    if mode in (HOST, NONE) or mode.startswith(CONTAINER_PREFIX):
        if others:
            raise InvalidArgument(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                if mode == NONE
                else "container sharing network namespace with another container or host cannot be connected to any other network"
            )
        return ()
    first = endpoints.get(mode, EndpointBody())
    if body.mac_address and not first.mac_address:
        first = msgspec.structs.replace(first, mac_address=body.mac_address)
        check_endpoint(mode, first)
    return tuple(joined_of(name, one) for name, one in {mode: first, **{name: endpoints[name] for name in others}}.items())


def merged_command(body: CreateBody, image: Image) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return entrypoint and command: an entrypoint of the body's hides the image's command too."""
    cmd = _words(body.cmd)
    if body.entrypoint is not None and _words(body.entrypoint):
        entrypoint = _words(body.entrypoint)
        return (() if entrypoint == ("",) else entrypoint), cmd
    return image.config.entrypoint, cmd or image.config.cmd


def _with_host_config(config: ContainerConfig, host: HostConfigBody) -> ContainerConfig:
    for name in host.sysctls or {}:
        check_sysctl(name)
    for limit in host.ulimits or []:
        check_ulimit(limit.name, limit.soft, limit.hard)
    log = LogConfig(driver=host.log_config.type, options=host.log_config.config or {}) if host.log_config else LogConfig()
    if log.driver:
        check_log_driver(log.driver, log.options)
    security = security_of(host.security_opt or [])
    cpu = cpus_of(host)
    return msgspec.structs.replace(
        config,
        groups=tuple(host.group_add or ()),
        read_only=host.readonly_rootfs,
        init=bool(host.init),
        cap_add=tuple(host.cap_add or ()),
        cap_drop=tuple(host.cap_drop or ()),
        memory_bytes=host.memory,
        memory_reservation_bytes=host.memory_reservation,
        memory_swappiness=None if host.memory_swappiness in (None, -1) else host.memory_swappiness,
        swap_bytes=swap_of(host.memory, host.memory_swap),
        nano_cpus=cpu.nano_cpus,
        cpu_quota_us=cpu.quota_us,
        cpu_period_us=cpu.period_us,
        cpuset_cpus=host.cpuset_cpus,
        cpuset_mems=host.cpuset_mems,
        block_weight=block_weight_of(host),
        block_limits=block_limits_of(host),
        device_rules=device_rules_of(host),
        masked_paths=None if host.masked_paths is None else tuple(host.masked_paths),
        readonly_paths=None if host.readonly_paths is None else tuple(host.readonly_paths),
        cpu_shares=host.cpu_shares,
        pids_limit=max(0, host.pids_limit or 0),
        shm_size_bytes=host.shm_size,
        sysctls=dict(host.sysctls or {}),
        ulimits=tuple(UlimitConfig(name=u.name, soft=u.soft, hard=u.hard) for u in host.ulimits or ()),
        oom_score_adj=host.oom_score_adj,
        no_new_privileges=security.no_new_privileges,
        seccomp=security.seccomp or ("unconfined" if host.privileged else ""),
        apparmor=security.apparmor or ("unconfined" if host.privileged else ""),
        is_privileged=host.privileged,
        devices=tuple(
            DeviceConfig(source=d.path_on_host, target=d.path_in_container or d.path_on_host, access=d.cgroup_permissions or "rwm")
            for d in host.devices or ()
        ),
        cdi_devices=_cdi_devices(host),
        log=log,
    )


def _healthcheck(asked: HealthConfig | None, image: Image) -> HealthcheckConfig:
    for name in ("interval", "timeout", "start_period", "start_interval"):
        if 0 < (getattr(asked, name) if asked else 0) < SECOND_NS // 1000:
            raise InvalidArgument(f"{name.replace('_', ' ').capitalize()} in Healthcheck cannot be less than 1ms")
    return merge_healthcheck(asked, image)


def _cdi_devices(host: HostConfigBody) -> tuple[str, ...]:
    found: list[str] = []
    for request in host.device_requests or []:
        if request.driver != "cdi" or not request.device_ids:
            raise Unimplemented("device requests name devices of the Container Device Interface: --device vendor.com/class=name")
        found += map(check_cdi_name, request.device_ids)
    return tuple(found)


def _shown_config(
    posted: Mapping[str, Any],
    config: ContainerConfig,
    env: Sequence[str],
    entrypoint: Sequence[str],
    cmd: Sequence[str],
    image: Image,
    exposed: Mapping[str, Any],
) -> dict[str, Any]:
    """Return `Config` as inspect shows it: what was posted, with what the image supplies."""
    kept = {key: value for key, value in posted.items() if key not in ("HostConfig", "NetworkingConfig") and value is not None}
    volumes = {**{key: {} for key in image.config.volumes}, **(posted.get("Volumes") or {})}
    shown = {
        **kept,
        "Hostname": config.hostname,
        "User": config.user,
        "Env": list(env),
        "Cmd": list(cmd) or None,
        "Entrypoint": list(entrypoint) or None,
        "WorkingDir": "" if config.cwd == "/" and not kept.get("WorkingDir") else config.cwd,
        "Labels": config.labels,
        "Volumes": volumes or None,
    }
    if exposed:
        shown["ExposedPorts"] = dict(exposed)
    return shown


def _words(value: list[str] | str | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _seconds(timeout: int) -> float:
    return float(timeout) if timeout >= 0 else FOREVER_S


def _extra_host(text: str) -> str:
    name, separator, address = text.partition(":")
    if not separator or not name or not address:
        raise InvalidArgument(f"bad format for add-host: {text!r}: it is NAME:ADDRESS")
    return text


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    return path
