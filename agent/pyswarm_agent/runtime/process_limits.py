"""The limits of a container's processes (ulimits, the kernel's choice whom to kill), clipped to what this host can give. Pure."""

from typing import NamedTuple

from pyswarm_agent.runtime.host import Host
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.container_settings import check_ulimit

UNLIMITED = 2**64 - 1
"""RLIM_INFINITY."""


class ProcessLimit(NamedTuple):
    """A pair of limits as setrlimit(2) takes them."""

    soft: int
    hard: int


def process_limits(config: ContainerConfig, host: Host) -> tuple[dict[str, ProcessLimit], tuple[str, ...]]:
    """Return the limits by name (`nofile`), and what could not be given as asked, in words. Raises InvalidArgument."""
    limits = {"nofile": ProcessLimit(host.open_files_limit, host.open_files_limit)}
    if host.processes_limit >= 0:  # unlimited is what the process inherits anyway
        limits["nproc"] = ProcessLimit(host.processes_limit, host.processes_limit)
    clipped = []
    for ulimit in config.ulimits:
        check_ulimit(ulimit.name, ulimit.soft, ulimit.hard)
        wanted = ProcessLimit(_number(ulimit.soft), _number(ulimit.hard))
        most = _number(host.hard_limits.get(ulimit.name, -1))
        limits[ulimit.name] = ProcessLimit(min(wanted.soft, most), min(wanted.hard, most))
        if wanted.hard > most:
            clipped.append(f"containers' limit {ulimit.name} is at most {most} on this host")
    return limits, tuple(clipped)


def oom_score(config: ContainerConfig, host: Host) -> int:
    """Return how willingly the kernel kills the container, -1000 to 1000."""
    return max(config.oom_score_adj, host.lowest_oom_score)


def _number(limit: int) -> int:
    return UNLIMITED if limit < 0 else limit
