"""`HostConfig` as `inspect` shows it: all members that Docker has, with the values of this container; pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyswarm_agent.local_containers.restart_policy import RestartPolicy
from pyswarm_agent.runtime.records import ContainerConfig

DEFAULT_SHM_BYTES = 64 * 1024 * 1024
MASKED_PATHS = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
]
READ_ONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_ABSENT = (
    "Binds VolumesFrom CapAdd CapDrop Dns DnsOptions DnsSearch ExtraHosts GroupAdd Links SecurityOpt BlkioWeightDevice "
    "BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps Devices DeviceCgroupRules DeviceRequests "
    "MemorySwappiness PidsLimit"
)
_ZERO = (
    "OomScoreAdj CpuShares Memory NanoCpus BlkioWeight CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime KernelMemory "
    "KernelMemoryTCP MemoryReservation MemorySwap CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth"
)
_EMPTY = "ContainerIDFile VolumeDriver Cgroup PidMode UTSMode UsernsMode CgroupParent CpusetCpus CpusetMems"
_FALSE = "AutoRemove Privileged PublishAllPorts ReadonlyRootfs OomKillDisable"
_CHANGEABLE_TEXT = (
    "Memory MemoryReservation MemorySwap NanoCpus CpuShares CpuPeriod CpuQuota CpusetCpus CpusetMems BlkioWeight PidsLimit"
)
_CHANGEABLE = frozenset(_CHANGEABLE_TEXT.split())
"""What an update may have changed: the container knows best."""
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(_ABSENT.split()),
    **dict.fromkeys(_ZERO.split(), 0),
    **dict.fromkeys(_EMPTY.split(), ""),
    **dict.fromkeys(_FALSE.split(), False),
    "NetworkMode": "default",
    "CgroupnsMode": "private",
    "IpcMode": "private",
    "Runtime": "crun",
    "Isolation": "",
    "ConsoleSize": [0, 0],
    "PortBindings": {},
    "Ulimits": [],
}


def render_host_config(config: ContainerConfig, posted: Mapping[str, Any], policy: RestartPolicy) -> dict[str, Any]:
    """Return the host configuration: what was posted over what the container really has."""
    swap_bytes = config.memory_bytes if config.swap_bytes is None else config.swap_bytes
    real: dict[str, Any] = {
        "LogConfig": {"Type": config.log.driver, "Config": config.log.options},
        "CapAdd": list(config.cap_add) or None,
        "CapDrop": list(config.cap_drop) or None,
        "Privileged": config.is_privileged,
        "ReadonlyRootfs": config.read_only,
        "ShmSize": config.shm_size_bytes or DEFAULT_SHM_BYTES,
        "OomScoreAdj": config.oom_score_adj,
        "Init": config.init,
        "Memory": config.memory_bytes,
        "MemoryReservation": config.memory_reservation_bytes,
        "MemorySwap": -1 if swap_bytes == -1 else config.memory_bytes + swap_bytes,
        "NanoCpus": config.nano_cpus,
        "CpuShares": config.cpu_shares,
        "CpuPeriod": config.cpu_period_us,
        "CpuQuota": config.cpu_quota_us,
        "CpusetCpus": config.cpuset_cpus,
        "CpusetMems": config.cpuset_mems,
        "BlkioWeight": config.block_weight,
        "PidsLimit": config.pids_limit or None,
        "Ulimits": [{"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in config.ulimits],
        "MaskedPaths": _paths(config, config.masked_paths, MASKED_PATHS),
        "ReadonlyPaths": _paths(config, config.readonly_paths, READ_ONLY_PATHS),
    }
    if config.sysctls:
        real["Sysctls"] = config.sysctls
    given = {key: value for key, value in posted.items() if (value or key not in real) and key not in _CHANGEABLE}
    restart = {"RestartPolicy": {"Name": policy.name, "MaximumRetryCount": policy.maximum_retries}}
    return {**_DEFAULTS, **real, **given, "LogConfig": real["LogConfig"], **restart}


def _paths(config: ContainerConfig, asked: Sequence[str] | None, default: list[str]) -> list[str] | None:
    return None if config.is_privileged else default if asked is None else list(asked)
