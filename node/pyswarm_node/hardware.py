"""What this machine is and has, as its node description tells it."""

import os
import platform
import socket
from pathlib import Path

from pyswarm_common.objects import NodeDescription, NodePermissions, NodeResources
from pyswarm_common.specs import GenericResource

NANO_CPUS_PER_CPU = 1_000_000_000
_PROCESS_LIMITS = (Path("/proc/sys/kernel/pid_max"), Path("/proc/sys/kernel/threads-max"))


def describe_node(
    *,
    hostname: str,
    engine_version: str,
    data_path_address: str,
    generic_resources: tuple[GenericResource, ...] = (),
    permissions: NodePermissions = NodePermissions(),
) -> NodeDescription:
    """Return the node's description; resources are those of the whole machine, and what its operator declared."""
    return NodeDescription(
        hostname=hostname or socket.gethostname(),
        architecture=platform.machine(),
        os="linux",
        resources=describe_resources(generic_resources),
        engine_version=engine_version,
        data_path_address=data_path_address,
        permissions=permissions,
    )


def describe_resources(generic_resources: tuple[GenericResource, ...]) -> NodeResources:
    """Return what the machine has, and what its operator declared."""
    return NodeResources(
        nano_cpus=total_nano_cpus(),
        memory_bytes=total_memory_bytes(),
        pids=total_processes(),
        generic_resources=generic_resources,
    )


def total_processes() -> int:
    """Return how many processes the kernel allows; 0 when it does not say."""
    limits = [int(path.read_text()) for path in _PROCESS_LIMITS if path.exists()]
    return min(limits, default=0)


def total_nano_cpus() -> int:
    """Return the machine's CPUs in billionths."""
    return (os.cpu_count() or 1) * NANO_CPUS_PER_CPU


def total_memory_bytes() -> int:
    """Return the machine's memory as `/proc/meminfo` gives it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    return 0
