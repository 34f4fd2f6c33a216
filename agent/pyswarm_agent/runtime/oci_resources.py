"""The resources of an OCI bundle: limits of memory, CPU and processes, and which devices may be used. Pure.

The OCI runtime translates to what the machine has: of version 2 cgroups memory.max, memory.swap.max, memory.low, cpu.max,
cpu.weight, cpuset.cpus, cpuset.mems and pids.max. Swappiness has no such member, so it is left out there. (Block
devices: `block_io`; containers that run: `live_limits`.)
"""

from collections.abc import Sequence
from typing import Any

from pyswarm_agent.runtime.device_nodes import DeviceNode
from pyswarm_agent.runtime.records import ContainerConfig

Json = dict[str, Any]

CPU_PERIOD_US = 100_000
MINIMUM_CPU_QUOTA_US = 1_000

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


def resources(config: ContainerConfig, devices: Sequence[DeviceNode], *, limits_swap: bool, is_unified: bool) -> Json:
    """Return `linux.resources`. `limits_swap`: whether the kernel can limit swap; `is_unified`: whether cgroups are version 2."""
    found: Json = {"devices": device_rules(devices, config.device_rules, allows_all=config.is_privileged)}
    memory = _memory(config, limits_swap=limits_swap, is_unified=is_unified)
    cpu = _cpu(config)
    if memory:
        found["memory"] = memory
    if cpu:
        found["cpu"] = cpu
    if config.pids_limit > 0:
        found["pids"] = {"limit": config.pids_limit}
    return found


def device_rules(devices: Sequence[DeviceNode], further: Sequence[str] = (), *, allows_all: bool) -> list[Json]:
    """Return the rules of the devices cgroup: Docker's, these devices, and further rules (`c 10:* rwm`); or everything."""
    if allows_all:
        return [{"allow": True, "type": "a", "access": "rwm"}]
    added = [(device.kind, device.major, device.minor, device.access) for device in devices]
    return [{"allow": False, "access": "rwm"}, *map(_device_rule, (*_DEVICE_RULES, *added, *map(_parsed_rule, further)))]


def oci_device(device: DeviceNode) -> Json:
    """Return a device as `linux.devices` has it."""
    numbers = {"type": device.kind, "major": device.major, "minor": device.minor}
    return {"path": device.path, **numbers, "fileMode": device.mode, "uid": device.uid, "gid": device.gid}


def _memory(config: ContainerConfig, *, limits_swap: bool, is_unified: bool) -> Json:
    memory: Json = {}
    limit = config.memory_bytes
    if limit:
        memory["limit"] = limit
        if limits_swap:
            # The OCI's `swap` is memory and swap together.
            swap = limit if config.swap_bytes is None else config.swap_bytes
            memory["swap"] = -1 if swap < 0 else limit + swap
    if config.memory_reservation_bytes:
        memory["reservation"] = min(config.memory_reservation_bytes, limit) if limit else config.memory_reservation_bytes
    if config.memory_swappiness is not None and not is_unified:
        memory["swappiness"] = config.memory_swappiness
    return memory


def _cpu(config: ContainerConfig) -> Json:
    cpu: Json = {}
    if config.nano_cpus:
        quota_us = max(MINIMUM_CPU_QUOTA_US, config.nano_cpus * CPU_PERIOD_US // 1_000_000_000)
        cpu |= {"quota": quota_us, "period": CPU_PERIOD_US}
    elif config.cpu_quota_us or config.cpu_period_us:
        quota = {"quota": config.cpu_quota_us} if config.cpu_quota_us else {}
        cpu |= quota | {"period": config.cpu_period_us or CPU_PERIOD_US}
    if config.cpu_shares:
        cpu["shares"] = config.cpu_shares
    if config.cpuset_cpus:
        cpu["cpus"] = config.cpuset_cpus
    if config.cpuset_mems:
        cpu["mems"] = config.cpuset_mems
    return cpu


def _parsed_rule(text: str) -> tuple[str, int | None, int | None, str]:
    kind, numbers, access = text.split(" ")
    major, minor = (None if number == "*" else int(number) for number in numbers.split(":"))
    return kind, major, minor, access


def _device_rule(rule: tuple[str, int | None, int | None, str]) -> Json:
    kind, major, minor, access = rule
    numbers = {name: number for name, number in (("major", major), ("minor", minor)) if number is not None}
    return {"allow": True, "type": kind, "access": access, **numbers}
