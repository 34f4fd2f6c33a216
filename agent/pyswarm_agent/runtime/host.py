"""What this host can give to containers, found out once when the daemon starts."""

import os
import platform
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pyswarm_agent.runtime import kernel_calls
from pyswarm_agent.runtime.capabilities import capabilities_of_mask
from pyswarm_agent.runtime.cgroups import CgroupLayout, parse_layout
from pyswarm_agent.runtime.processes import boot_identity
from pyswarm_common.container_settings import ULIMITS
from pyswarm_common.errors import PyswarmError

WANTED_OPEN_FILES = 1048576
"""What Docker gives its containers."""
LOWEST_OOM_SCORE = -1000
_RESOURCES = {"locks": 10, **{name: getattr(resource, f"RLIMIT_{name.upper()}") for name in ULIMITS if name != "locks"}}
"""The numbers of resource limits; Python has no name for locks."""


class Host(NamedTuple):
    """Facts about the host, and the programs that run containers here."""

    machine: str
    boot: str
    capabilities: frozenset[str]
    open_files_limit: int
    processes_limit: int
    layout: CgroupLayout
    oci_runtime: Path
    conmon: Path
    lowest_oom_score: int = 0
    """The lowest oom_score_adj that we may give to a container."""
    hard_limits: Mapping[str, int] = {}
    """Resource limits (`nofile`) that a container's processes cannot exceed; those that are missing have no bound."""
    kernel_release: str = "5.12"
    has_deep_read_only: bool = True
    """Whether the kernel can make a whole tree of mounts read-only."""

    @property
    def oom_score_adjustment(self) -> int:
        """What a container gets that asks for none."""
        return max(0, self.lowest_oom_score)

    @property
    def is_crun(self) -> bool:
        """Whether the OCI runtime takes compiled seccomp programs. runc ignores them silently."""
        return self.oci_runtime.name == "crun"

    @property
    def hidden_hierarchy(self) -> Path | None:
        """A version 2 cgroup tree that crun must not see: beside version 1 it accepts only one without controllers."""
        beside = self.layout.beside
        if beside is None or not (beside / "cgroup.controllers").read_text().strip():
            return None
        return beside


def inspect_host() -> Host:
    """Return the facts about this host. Raises PyswarmError when a program is missing or there are no cgroups."""
    layout = parse_layout(Path("/proc/self/mountinfo").read_text())
    capabilities = _own_capabilities()
    is_free = "CAP_SYS_RESOURCE" in capabilities
    if not layout.hierarchies:
        raise PyswarmError("no cgroups are mounted at /sys/fs/cgroup")
    return Host(
        machine=platform.machine(),
        boot=boot_identity(),
        capabilities=capabilities,
        open_files_limit=_most_open_files(WANTED_OPEN_FILES) if is_free else _clip(resource.RLIMIT_NOFILE, WANTED_OPEN_FILES),
        processes_limit=resource.RLIM_INFINITY if is_free else _clip(resource.RLIMIT_NPROC, resource.RLIM_INFINITY),
        layout=layout,
        oci_runtime=_program("crun", "runc"),
        conmon=_program("conmon"),
        lowest_oom_score=LOWEST_OOM_SCORE if is_free else int(Path("/proc/self/oom_score_adj").read_text()),
        hard_limits=_hard_limits(is_free=is_free),
        kernel_release=platform.release(),
        has_deep_read_only=kernel_calls.has_mount_setattr(),
    )


def _own_capabilities() -> frozenset[str]:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return capabilities_of_mask(int(line.split()[1], 16))
    return frozenset()


def _clip(kind: int, wanted: int) -> int:
    """Return the wanted limit, or the hard limit where that is less and we may not raise it."""
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY:
        return wanted
    return hard if wanted == resource.RLIM_INFINITY else min(hard, wanted)


def _hard_limits(*, is_free: bool) -> dict[str, int]:
    """Whoever may raise limits is bound only by what the kernel has for all processes."""
    if is_free:
        return {"nofile": _most_open_files(resource.RLIM_INFINITY)}
    limits = {name: resource.getrlimit(number)[1] for name, number in _RESOURCES.items()}
    return {name: hard for name, hard in limits.items() if hard != resource.RLIM_INFINITY}


def _most_open_files(wanted: int) -> int:
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    return most if wanted == resource.RLIM_INFINITY else min(most, wanted)


def _program(*names: str) -> Path:
    search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/usr/libexec/podman"
    for name in names:
        found = shutil.which(name, path=search)
        if found:
            return Path(found)
    raise PyswarmError(f"{' or '.join(names)} is missing (Debian: apt-get install {names[0]})")
