"""What this machine is and has, as its node description tells it."""

import os
import platform
import socket
from pathlib import Path

from pyswarm_common.objects import NodeDescription, NodeResources

NANO_CPUS_PER_CPU = 1_000_000_000


def describe_node(*, hostname: str, engine_version: str, data_path_address: str) -> NodeDescription:
    """Return the node's description; resources are those of the whole machine."""
    return NodeDescription(
        hostname=hostname or socket.gethostname(),
        architecture=platform.machine(),
        os="linux",
        resources=NodeResources(nano_cpus=total_nano_cpus(), memory_bytes=total_memory_bytes()),
        engine_version=engine_version,
        data_path_address=data_path_address,
    )


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
