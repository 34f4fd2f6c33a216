"""Reads what the kernel counts for a container. Blocking: a dozen small files."""

import contextlib
import functools
import os
import time
from pathlib import Path

from pyswarm_agent.runtime.access import cgroup_figures as figures
from pyswarm_agent.runtime.access.interface import Figures
from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_agent.runtime.records import ContainerRecord


def read_figures(record: ContainerRecord, cgroups: Cgroups) -> Figures:
    """Return the figures of a container that runs; those of one that has just ended are zero."""
    read = functools.partial(_reader, cgroups, record.config.id)
    host_cpu = figures.host_cpu_figures(_text(Path("/proc/stat")))
    if cgroups.layout.is_unified:
        cpu = figures.cpu_figures_v2(read("cpu"))
        memory = figures.memory_figures_v2(read("memory"), _host_memory_bytes())
        blkio = figures.blkio_figures_v2(read("io"))
    else:
        cpu = figures.cpu_figures_v1(read("cpuacct"), read("cpu"))
        memory = figures.memory_figures_v1(read("memory"), _host_memory_bytes())
        blkio = figures.blkio_figures_v1(read("blkio"))
    has_network = record.config.netns_path is not None
    return Figures(
        at_ns=time.time_ns(),
        cpu={**cpu, **host_cpu},
        memory=memory,
        blkio=blkio,
        pids=figures.pids_figures(read("pids")),
        networks=figures.network_figures(_text(Path(f"/proc/{record.pid}/net/dev"))) if has_network else {},
    )


def _reader(cgroups: Cgroups, name: str, controller: str) -> figures.ReadFile:
    tree = cgroups.layout.holding(controller)
    folder = tree / cgroups.path_of(name)[1:] if tree is not None else None
    return lambda file: _text(folder / file) if folder is not None else ""


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def _host_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
