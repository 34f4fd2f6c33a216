"""Resource limits and security options of a body as the runtime takes them; pure.

Source: Moby `daemon/daemon_unix.go` (`verifyPlatformContainerResources`), `container/container_unix.go` (`UpdateContainer`).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from pyswarm_agent.local_containers.create_body import DeviceLimitBody, HostConfigBody, Resources
from pyswarm_agent.runtime.records import BlockLimitConfig, BlockLimitKind, ContainerConfig
from pyswarm_common.errors import Conflict, InvalidArgument

LEAST_MEMORY_BYTES = 6 * 1024 * 1024
CPU_PERIODS_US = (1_000, 1_000_000)
LEAST_CPU_QUOTA_US = 1_000
BLOCK_WEIGHTS = (10, 1_000)
_DEVICE_RULE = re.compile(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}")


class CpuLimits(NamedTuple):
    """A limit in 10⁻⁹ CPUs, or as quota and period; 0 for none."""

    nano_cpus: int = 0
    quota_us: int = 0
    period_us: int = 0


class Security(NamedTuple):
    """What `--security-opt` says."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""


def security_of(options: Iterable[str]) -> Security:
    """Return the options' meaning; SELinux labels mean nothing here. Raises InvalidArgument."""
    found = Security()
    for option in options:
        separator = "=" if "=" in option else ":"
        name, _, value = option.partition(separator)
        match name:
            case "no-new-privileges":
                if value not in ("", "true", "false"):
                    raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
                found = found._replace(no_new_privileges=value != "false")
            case "seccomp":
                # The CLI sends "builtin" for the engine's own profile, and the text of a file.
                found = found._replace(seccomp="" if value == "builtin" else value)
            case "apparmor":
                found = found._replace(apparmor=value)
            case "label" | "systempaths":
                continue
            case _:
                raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
    return found


def swap_of(memory_bytes: int, memory_and_swap_bytes: int) -> int | None:
    """Return the swap beside the memory limit from Docker's sum of both; -1 unlimited, None the default. Raises InvalidArgument."""
    if memory_bytes < 0 or 0 < memory_bytes < LEAST_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory_and_swap_bytes == 0:
        return None
    if memory_bytes == 0:
        if memory_and_swap_bytes > 0:
            raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
        return None
    if memory_and_swap_bytes == -1:
        return -1
    if memory_and_swap_bytes < memory_bytes:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    return memory_and_swap_bytes - memory_bytes


def cpus_of(resources: Resources) -> CpuLimits:
    """Return the limit of `NanoCpus`, or of quota and period. Raises InvalidArgument."""
    for name, value in (("Period", resources.cpu_period), ("Quota", resources.cpu_quota)):
        if resources.nano_cpus and value:
            raise InvalidArgument(f"Conflicting options: Nano CPUs and CPU {name} cannot both be set")
    if resources.nano_cpus < 0:
        raise InvalidArgument("Nano CPUs cannot be negative")
    low, high = CPU_PERIODS_US
    if resources.cpu_period and not low <= resources.cpu_period <= high:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < resources.cpu_quota < LEAST_CPU_QUOTA_US:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if resources.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({resources.cpu_shares}): value must be a positive integer")
    return CpuLimits(resources.nano_cpus, max(0, resources.cpu_quota), resources.cpu_period)


def block_weight_of(resources: Resources) -> int:
    """Return the share of busy block devices, 0 for the default. Raises InvalidArgument."""
    low, high = BLOCK_WEIGHTS
    if resources.blkio_weight and not low <= resources.blkio_weight <= high:
        raise InvalidArgument(f"Range of blkio weight is from {low} to {high}")
    return resources.blkio_weight


def block_limits_of(host: HostConfigBody) -> tuple[BlockLimitConfig, ...]:
    """Return the limits of block devices. Raises InvalidArgument."""
    found = []
    asked: tuple[tuple[BlockLimitKind, list[DeviceLimitBody] | None], ...] = (
        ("read_bps", host.blkio_device_read_bps),
        ("write_bps", host.blkio_device_write_bps),
        ("read_iops", host.blkio_device_read_iops),
        ("write_iops", host.blkio_device_write_iops),
        ("weight", host.blkio_weight_device),
    )
    for kind, limits in asked:
        for limit in limits or ():
            value = limit.weight if kind == "weight" else limit.rate
            low, high = BLOCK_WEIGHTS if kind == "weight" else (1, 2**63 - 1)
            if not low <= value <= high:
                raise InvalidArgument(f"invalid limit of {limit.path}: {value}: it is {low} to {high}")
            found.append(BlockLimitConfig(path=limit.path, kind=kind, value=value))
    return tuple(found)


def device_rules_of(host: HostConfigBody) -> tuple[str, ...]:
    """Return the further rules of devices. Raises InvalidArgument."""
    for rule in host.device_cgroup_rules or ():
        if not _DEVICE_RULE.fullmatch(rule):
            raise InvalidArgument(f"invalid device cgroup rule format: '{rule}'")
    return tuple(host.device_cgroup_rules or ())


def with_resources(config: ContainerConfig, changed: Resources) -> ContainerConfig:
    """Return the configuration with those limits that an update names (0 leaves them). Raises InvalidArgument, Conflict."""
    cpu = _changed_cpu(config, cpus_of(changed))
    return msgspec.structs.replace(
        config,
        memory_bytes=changed.memory or config.memory_bytes,
        swap_bytes=_changed_swap(config, changed),
        memory_reservation_bytes=changed.memory_reservation or config.memory_reservation_bytes,
        memory_swappiness=config.memory_swappiness if changed.memory_swappiness in (None, -1) else changed.memory_swappiness,
        nano_cpus=cpu.nano_cpus,
        cpu_quota_us=cpu.quota_us,
        cpu_period_us=cpu.period_us,
        cpu_shares=changed.cpu_shares or config.cpu_shares,
        cpuset_cpus=changed.cpuset_cpus or config.cpuset_cpus,
        cpuset_mems=changed.cpuset_mems or config.cpuset_mems,
        block_weight=block_weight_of(changed) or config.block_weight,
        pids_limit=config.pids_limit if not changed.pids_limit else max(0, changed.pids_limit),
    )


def _changed_swap(config: ContainerConfig, changed: Resources) -> int | None:
    memory_bytes = changed.memory or config.memory_bytes
    asked = swap_of(memory_bytes, changed.memory_swap)
    if changed.memory_swap or not changed.memory or config.swap_bytes in (None, -1):
        return asked if changed.memory_swap else config.swap_bytes
    # The sum of both was chosen, and stays.
    left_bytes = config.memory_bytes + (config.swap_bytes or 0) - memory_bytes
    if left_bytes < 0:
        raise Conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
    return left_bytes


def _changed_cpu(config: ContainerConfig, changed: CpuLimits) -> CpuLimits:
    if changed.nano_cpus and (config.cpu_quota_us or config.cpu_period_us):
        raise Conflict("Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has already been set")
    if (changed.quota_us or changed.period_us) and config.nano_cpus:
        raise Conflict("Conflicting options: CPU Period/Quota cannot be updated as NanoCPUs has already been set")
    return CpuLimits(
        changed.nano_cpus or config.nano_cpus,
        changed.quota_us or config.cpu_quota_us,
        changed.period_us or config.cpu_period_us,
    )
