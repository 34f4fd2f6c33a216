"""The OCI bundle's config.json for a container; pure.

The defaults are Docker's: its namespaces, its mounts, its masked and read-only paths, its device list. Source: Moby
`oci/defaults.go` and `daemon/oci_linux.go`. Files that the runtime makes for the container (`hosts`, …) lie in the
bundle's folder.
"""

from pathlib import Path
from typing import Any

from pyswarm_agent.runtime.host import Host
from pyswarm_agent.runtime.process_user import ProcessUser
from pyswarm_agent.runtime.records import ContainerConfig, MountConfig

Json = dict[str, Any]

SHM_SIZE_BYTES = 64 * 1024 * 1024
CPU_PERIOD_US = 100_000
MINIMUM_CPU_QUOTA_US = 1_000
SECCOMP_ANNOTATION = "run.oci.seccomp_bpf_data"
INIT_TARGET = "/sbin/docker-init"
INIT_SOURCE = "/usr/bin/tini-static"

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_DEVICE_RULES: tuple[tuple[str, int | None, int | None, str], ...] = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),  # null
    ("c", 1, 5, "rwm"),  # zero
    ("c", 1, 7, "rwm"),  # full
    ("c", 1, 8, "rwm"),  # random
    ("c", 1, 9, "rwm"),  # urandom
    ("c", 5, 0, "rwm"),  # tty
    ("c", 5, 1, "rwm"),  # console
    ("c", 5, 2, "rwm"),  # ptmx
    ("c", 136, None, "rwm"),  # pts/*
)


def build_oci_spec(
    config: ContainerConfig,
    *,
    host: Host,
    user: ProcessUser,
    capabilities: frozenset[str],
    bundle: Path,
    netns_path: str | None,
    cgroup_path: str,
    seccomp_program: str | None,
    seccomp_rules: Json | None,
    limits_swap: bool,
) -> Json:
    """Return the bundle's configuration.

    `seccomp_program` (base64) goes to crun, `seccomp_rules` to runc: exactly one is given. `netns_path`: where the bundle
    finds the network namespace, None for the host's.
    """
    linux: Json = {
        "cgroupsPath": cgroup_path,
        "namespaces": _namespaces(netns_path),
        "resources": _resources(config, limits_swap),
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
    }
    annotations = dict(config.annotations)
    if seccomp_program is not None:
        annotations[SECCOMP_ANNOTATION] = seccomp_program
    if seccomp_rules is not None:
        linux["seccomp"] = seccomp_rules
    if netns_path is not None:
        linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
    return {
        "ociVersion": "1.0.2",
        "process": _process(config, host, user, capabilities),
        "root": {"path": "rootfs", "readonly": config.read_only},
        "hostname": config.hostname,
        "mounts": [*_system_mounts(), *_file_mounts(config, bundle), *map(_user_mount, config.mounts)],
        "linux": linux,
        "annotations": annotations,
    }


def _process(config: ContainerConfig, host: Host, user: ProcessUser, capabilities: frozenset[str]) -> Json:
    held = sorted(capabilities)
    env = list(config.env)
    if not any(variable.startswith("HOME=") for variable in env):
        env.append(f"HOME={user.home}")
    return {
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": [user.gid, *user.additional_gids], "umask": 0o022},
        "args": [INIT_TARGET, "--", *config.args] if config.init else list(config.args),
        "env": env,
        "cwd": config.cwd,
        "capabilities": {"bounding": held, "permitted": held, "effective": held},
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": host.open_files_limit, "hard": host.open_files_limit},
            *_processes_limit(host),
        ],
        "noNewPrivileges": False,
        "oomScoreAdj": host.oom_score_adjustment,
    }


def _processes_limit(host: Host) -> list[Json]:
    # Unlimited is what the process inherits anyway, and the schema has no word for it.
    limit = host.processes_limit
    return [] if limit < 0 else [{"type": "RLIMIT_NPROC", "soft": limit, "hard": limit}]


def _namespaces(netns_path: str | None) -> list[Json]:
    private: list[Json] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    return private if netns_path is None else [*private, {"type": "network", "path": netns_path}]


def _resources(config: ContainerConfig, limits_swap: bool) -> Json:
    resources: Json = {"devices": [{"allow": False, "access": "rwm"}, *map(_device_rule, _DEVICE_RULES)]}
    if config.memory_bytes:
        resources["memory"] = {"limit": config.memory_bytes}
        if limits_swap:
            resources["memory"]["swap"] = 2 * config.memory_bytes
    if config.nano_cpus:
        quota_us = max(MINIMUM_CPU_QUOTA_US, config.nano_cpus * CPU_PERIOD_US // 1_000_000_000)
        resources["cpu"] = {"quota": quota_us, "period": CPU_PERIOD_US}
    if config.pids_limit > 0:
        resources["pids"] = {"limit": config.pids_limit}
    return resources


def _device_rule(rule: tuple[str, int | None, int | None, str]) -> Json:
    kind, major, minor, access = rule
    numbers = {name: number for name, number in (("major", major), ("minor", minor)) if number is not None}
    return {"allow": True, "type": kind, "access": access, **numbers}


def _system_mounts() -> list[Json]:
    guarded = ["nosuid", "noexec", "nodev"]
    return [
        _mount("proc", "proc", "/proc", guarded),
        _mount("tmpfs", "tmpfs", "/dev", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("devpts", "devpts", "/dev/pts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _mount("sysfs", "sysfs", "/sys", [*guarded, "ro"]),
        _mount("cgroup", "cgroup", "/sys/fs/cgroup", [*guarded, "ro"]),
        _mount("mqueue", "mqueue", "/dev/mqueue", guarded),
        _mount("tmpfs", "shm", "/dev/shm", [*guarded, "mode=1777", f"size={SHM_SIZE_BYTES}"]),
    ]


def _file_mounts(config: ContainerConfig, bundle: Path) -> list[Json]:
    access = "ro" if config.read_only else "rw"
    present = {"resolv.conf": config.resolv_conf, "hosts": config.hosts, "hostname": config.hostname}
    mounts = [
        _mount("bind", str(bundle / name), f"/etc/{name}", ["bind", "rprivate", access]) for name, text in present.items() if text
    ]
    if config.init:
        mounts.append(_mount("bind", INIT_SOURCE, INIT_TARGET, ["bind", "ro"]))
    return mounts


def _user_mount(mount: MountConfig) -> Json:
    access = "ro" if mount.read_only else "rw"
    if mount.type == "tmpfs":
        return _mount("tmpfs", "tmpfs", mount.target, ["nosuid", "noexec", "nodev", access, *mount.options])
    return _mount("bind", mount.source, mount.target, ["rbind", "rprivate", access, *mount.options])


def _mount(kind: str, source: str, target: str, options: list[str]) -> Json:
    return {"type": kind, "source": source, "destination": target, "options": options}
