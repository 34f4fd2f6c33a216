"""The OCI bundle's config.json for a container; pure.

The defaults are Docker's: its namespaces, its mounts, its masked and read-only paths, its device list. Source: Moby
`oci/defaults.go` and `daemon/oci_linux.go`. Mounts, resources and process limits have modules of their own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyswarm_agent.runtime.device_nodes import DeviceNode
from pyswarm_agent.runtime.host import Host
from pyswarm_agent.runtime.oci_mounts import INIT_TARGET, all_mounts, rootfs_propagation
from pyswarm_agent.runtime.oci_resources import oci_device, resources
from pyswarm_agent.runtime.process_limits import oom_score, process_limits
from pyswarm_agent.runtime.process_user import ProcessUser
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_agent.runtime.sysctls import namespaced_sysctls

Json = dict[str, Any]

SECCOMP_ANNOTATION = "run.oci.seccomp_bpf_data"

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


class Confinement(NamedTuple):
    """What holds the process back. Of the first two, `seccomp_program` (base64) goes to crun alone; both None: no filter."""

    capabilities: frozenset[str]
    seccomp_program: str | None = None
    seccomp_rules: Json | None = None
    apparmor_profile: str = ""


class Placement(NamedTuple):
    """Where the container lies. `netns_path`: where the bundle finds the network namespace, None for the host's."""

    bundle: Path
    netns_path: str | None
    cgroup_path: str
    shared_sources: Mapping[str, str] = {}
    """Where the bundle finds bind sources that have to propagate mounts to the host, by the source."""


def build_oci_spec(
    config: ContainerConfig,
    *,
    host: Host,
    user: ProcessUser,
    confinement: Confinement,
    placement: Placement,
    devices: Sequence[DeviceNode] = (),
    limits_swap: bool,
) -> Json:
    """Return the bundle's configuration. `devices`: those of the host that the container gets. Raises InvalidArgument."""
    netns_path = placement.netns_path
    linux: Json = {
        "cgroupsPath": placement.cgroup_path,
        "namespaces": _namespaces(netns_path),
        "resources": resources(config, devices, limits_swap=limits_swap, is_unified=host.layout.is_unified),
        "maskedPaths": _paths(config, config.masked_paths, MASKED_PATHS),
        "readonlyPaths": _paths(config, config.readonly_paths, READONLY_PATHS),
    }
    annotations = dict(config.annotations)
    if confinement.seccomp_program is not None:
        annotations[SECCOMP_ANNOTATION] = confinement.seccomp_program
    if confinement.seccomp_rules is not None:
        linux["seccomp"] = confinement.seccomp_rules
    if devices:
        linux["devices"] = [oci_device(device) for device in devices]
    sysctls = namespaced_sysctls(config.sysctls, has_network=netns_path is not None)
    if sysctls:
        linux["sysctl"] = sysctls
    propagation = rootfs_propagation(config.mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    return {
        "ociVersion": "1.0.2",
        "process": _process(config, host, user, confinement),
        "root": {"path": "rootfs", "readonly": config.read_only},
        "hostname": config.hostname,
        "mounts": all_mounts(config, placement.bundle, placement.shared_sources, deep_read_only=host.has_deep_read_only),
        "linux": linux,
        "annotations": annotations,
    }


def _process(config: ContainerConfig, host: Host, user: ProcessUser, confinement: Confinement) -> Json:
    held = sorted(confinement.capabilities)
    env = list(config.env)
    if not any(variable.startswith("HOME=") for variable in env):
        env.append(f"HOME={user.home}")
    process: Json = {
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": [user.gid, *user.additional_gids], "umask": 0o022},
        "args": [INIT_TARGET, "--", *config.args] if config.init else list(config.args),
        "env": env,
        "cwd": config.cwd,
        "capabilities": {"bounding": held, "permitted": held, "effective": held},
        "rlimits": [
            {"type": f"RLIMIT_{name.upper()}", "soft": limit.soft, "hard": limit.hard}
            for name, limit in process_limits(config, host)[0].items()
        ],
        "noNewPrivileges": config.no_new_privileges,
        "oomScoreAdj": oom_score(config, host),
    }
    if confinement.apparmor_profile:
        process["apparmorProfile"] = confinement.apparmor_profile
    return process


def _paths(config: ContainerConfig, asked: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    return [] if config.is_privileged else list(default if asked is None else asked)


def _namespaces(netns_path: str | None) -> list[Json]:
    private: list[Json] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    return private if netns_path is None else [*private, {"type": "network", "path": netns_path}]
