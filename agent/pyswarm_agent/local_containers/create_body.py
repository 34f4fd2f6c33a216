"""The body of `POST /containers/create`, as far as it is understood. Unknown members stay for `inspect` and mean nothing.

Source: Docker Engine API v1.41, `ContainerConfig`, `HostConfig`, `NetworkingConfig`.
"""

from typing import Any

import msgspec

from pyswarm_common.container_spec import HealthConfig, Mount, Ulimit
from pyswarm_common.spec_base import Spec


class LogConfigBody(Spec, frozen=True, kw_only=True):
    """Log driver and its options."""

    type: str = ""
    config: dict[str, str] | None = None


class RestartPolicyBody(Spec, frozen=True, kw_only=True):
    """When it is started again."""

    name: str = ""
    maximum_retry_count: int = 0


class PortBinding(Spec, frozen=True, kw_only=True):
    """A place on the host; `host_port` is a number, a range `8000-8010`, or "" for any."""

    host_ip: str = msgspec.field(name="HostIp", default="")
    host_port: str = ""


class DeviceMapping(Spec, frozen=True, kw_only=True):
    """A device of the host."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class DeviceRequestBody(Spec, frozen=True, kw_only=True):
    """Devices asked for by driver: only `cdi` with ids is known."""

    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = msgspec.field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = None


class DeviceLimitBody(Spec, frozen=True, kw_only=True):
    """A limit of one block device: a `rate`, or a `weight`."""

    path: str = ""
    rate: int = 0
    weight: int = 0


class Resources(Spec, frozen=True, kw_only=True):
    """What `POST /containers/{id}/update` can change."""

    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    blkio_weight: int = 0
    pids_limit: int | None = None
    restart_policy: RestartPolicyBody | None = None


class HostConfigBody(Resources, frozen=True, kw_only=True):
    """How it sits on its host."""

    binds: list[str] | None = None
    mounts: list[Mount] | None = None
    tmpfs: dict[str, str] | None = None
    log_config: LogConfigBody | None = None
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    publish_all_ports: bool = False
    auto_remove: bool = False
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    oom_score_adj: int = 0
    privileged: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    init: bool | None = None
    devices: list[DeviceMapping] | None = None
    device_requests: list[DeviceRequestBody] | None = None
    ulimits: list[Ulimit] | None = None
    blkio_weight_device: list[DeviceLimitBody] | None = None
    blkio_device_read_bps: list[DeviceLimitBody] | None = None
    blkio_device_write_bps: list[DeviceLimitBody] | None = None
    blkio_device_read_iops: list[DeviceLimitBody] | None = msgspec.field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[DeviceLimitBody] | None = msgspec.field(name="BlkioDeviceWriteIOps", default=None)
    device_cgroup_rules: list[str] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    pid_mode: str = ""
    ipc_mode: str = ""
    uts_mode: str = msgspec.field(name="UTSMode", default="")
    userns_mode: str = ""
    cgroup_parent: str = ""
    volumes_from: list[str] | None = None
    links: list[str] | None = None
    volume_driver: str = ""


class EndpointIPAMBody(Spec, frozen=True, kw_only=True):
    """The address that it asks for."""

    ipv4_address: str = msgspec.field(name="IPv4Address", default="")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")
    link_local_ips: list[str] | None = msgspec.field(name="LinkLocalIPs", default=None)


class EndpointBody(Spec, frozen=True, kw_only=True):
    """A network that it joins."""

    ipam_config: EndpointIPAMBody | None = msgspec.field(name="IPAMConfig", default=None)
    aliases: list[str] | None = None
    links: list[str] | None = None
    mac_address: str = ""
    gw_priority: int = 0
    driver_opts: dict[str, str] | None = None


class ConnectBody(Spec, frozen=True, kw_only=True):
    """The body of `POST /networks/{id}/connect` and `/disconnect`."""

    container: str = ""
    endpoint_config: EndpointBody | None = None
    force: bool = False


class NetworkingBody(Spec, frozen=True, kw_only=True):
    """The networks that it joins."""

    endpoints_config: dict[str, EndpointBody | None] | None = None


class CreateBody(Spec, frozen=True, kw_only=True):
    """All of it. `cmd` and `entrypoint` are a list or one word."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    entrypoint: list[str] | str | None = None
    image: str = ""
    labels: dict[str, str] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    exposed_ports: dict[str, Any] | None = None
    healthcheck: HealthConfig | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    mac_address: str = ""
    host_config: HostConfigBody = HostConfigBody()
    networking_config: NetworkingBody = NetworkingBody()
