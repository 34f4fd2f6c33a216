"""What this host can give to containers, found out once when the daemon starts."""

import os
import platform
import resource
import shutil
from pathlib import Path
from typing import NamedTuple

from pyswarm_agent.runtime.capabilities import capabilities_of_mask
from pyswarm_agent.runtime.cgroups import CgroupLayout, parse_layout
from pyswarm_agent.runtime.processes import boot_identity
from pyswarm_common.errors import PyswarmError

WANTED_OPEN_FILES = 1048576
"""What Docker gives its containers."""


class Host(NamedTuple):
    """Facts about the host, and the programs that run containers here."""

    machine: str
    boot: str
    capabilities: frozenset[str]
    open_files_limit: int
    processes_limit: int
    oom_score_adjustment: int
    """The lowest that we may give to a container, at least 0."""
    layout: CgroupLayout
    oci_runtime: Path
    conmon: Path

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
    if not layout.hierarchies:
        raise PyswarmError("no cgroups are mounted at /sys/fs/cgroup")
    return Host(
        machine=platform.machine(),
        boot=boot_identity(),
        capabilities=_own_capabilities(),
        open_files_limit=_clip(resource.RLIMIT_NOFILE, WANTED_OPEN_FILES),
        processes_limit=_clip(resource.RLIMIT_NPROC, resource.RLIM_INFINITY),
        oom_score_adjustment=max(0, int(Path("/proc/self/oom_score_adj").read_text())),
        layout=layout,
        oci_runtime=_program("crun", "runc"),
        conmon=_program("conmon"),
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


def _program(*names: str) -> Path:
    search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/usr/libexec/podman"
    for name in names:
        found = shutil.which(name, path=search)
        if found:
            return Path(found)
    raise PyswarmError(f"{' or '.join(names)} is missing (Debian: apt-get install {names[0]})")
