"""Typed views of what users ask of a container (see `specs.py`)."""

from typing import Any

import msgspec

from pyswarm_common.spec_base import Spec


class BindOptions(Spec, frozen=True, kw_only=True):
    """Of a bind mount; "" as propagation means `rprivate`."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class Driver(Spec, frozen=True, kw_only=True):
    """A driver and its options: of volumes and of logs."""

    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Spec, frozen=True, kw_only=True):
    """Of a volume mount: how a volume that does not exist yet is made, and which folder of it is mounted."""

    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: Driver | None = None
    subpath: str = ""


class TmpfsOptions(Spec, frozen=True, kw_only=True):
    """Of a tmpfs mount: `size_bytes` 0 for no limit, `mode` 0 for 1777, further options as [name] or [name, value]."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class Mount(Spec, frozen=True, kw_only=True):
    """A bind, volume or tmpfs mount."""

    type: str = "volume"
    source: str = ""
    target: str = ""
    read_only: bool = False
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class FileTarget(Spec, frozen=True, kw_only=True):
    """Where a secret or config appears in a container: `mode` as a number (292 is 0444); user and group as numbers in text."""

    name: str = ""
    uid: str = msgspec.field(name="UID", default="0")
    gid: str = msgspec.field(name="GID", default="0")
    mode: int = 0o444


class SecretReference(Spec, frozen=True, kw_only=True):
    """A secret that a service's containers get as a file, below /run/secrets unless the name is a path."""

    file: FileTarget | None = None
    secret_id: str = msgspec.field(name="SecretID", default="")
    secret_name: str = ""


class ConfigReference(Spec, frozen=True, kw_only=True):
    """A config that a service's containers get as a file, below /, and `runtime` as their credential spec."""

    file: FileTarget | None = None
    runtime: dict[str, Any] | None = None
    config_id: str = msgspec.field(name="ConfigID", default="")
    config_name: str = ""


class HealthConfig(Spec, frozen=True, kw_only=True):
    """How a container's health is checked; 0 and "" mean the image's, or the default.

    `test`: [] for the image's, ["NONE"], ["CMD", argument, …] or ["CMD-SHELL", text]. Durations in nanoseconds.
    """

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Ulimit(Spec, frozen=True, kw_only=True):
    """A resource limit of a container's processes, such as `nofile`; -1 is unlimited."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class SeccompOptions(Spec, frozen=True, kw_only=True):
    """`mode` is default, unconfined or custom; `profile`: base64 of the JSON of a custom one."""

    mode: str = "default"
    profile: str = ""


class AppArmorOptions(Spec, frozen=True, kw_only=True):
    """`mode` is default or disabled."""

    mode: str = "default"


class Privileges(Spec, frozen=True, kw_only=True):
    """What confines a container's processes besides capabilities."""

    seccomp: SeccompOptions | None = None
    app_armor: AppArmorOptions | None = None
    no_new_privileges: bool = False


class DNSConfig(Spec, frozen=True, kw_only=True):
    """What a container's resolver is told."""

    nameservers: list[str] | None = None
    search: list[str] | None = None
    options: list[str] | None = None


class PullOptions(Spec, frozen=True, kw_only=True):
    """How a task's image is fetched: `registry_auth` is what the client sent as `X-Registry-Auth`."""

    registry_auth: str = ""


class ContainerSpec(Spec, frozen=True, kw_only=True):
    """The container of a task."""

    image: str = ""
    labels: dict[str, str] | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    hostname: str = ""
    env: list[str] | None = None
    dir: str = ""
    user: str = ""
    groups: list[str] | None = None
    tty: bool = msgspec.field(name="TTY", default=False)
    open_stdin: bool = False
    read_only: bool = False
    stop_signal: str = ""
    stop_grace_period: int | None = None
    mounts: list[Mount] | None = None
    hosts: list[str] | None = None
    dns_config: DNSConfig | None = msgspec.field(name="DNSConfig", default=None)
    init: bool | None = None
    capability_add: list[str] | None = None
    capability_drop: list[str] | None = None
    pull_options: PullOptions | None = None
    privileges: Privileges | None = None
    healthcheck: HealthConfig | None = None
    secrets: list[SecretReference] | None = None
    configs: list[ConfigReference] | None = None
    sysctls: dict[str, str] | None = None
    ulimits: list[Ulimit] | None = None
    oom_score_adj: int = 0
