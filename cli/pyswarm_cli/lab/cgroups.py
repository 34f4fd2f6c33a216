"""A lab's cgroups: one subtree per host in every hierarchy of the machine, be it cgroup v1, v2 or both.

The subtrees hang at the top of each hierarchy as `pyswarm-lab-LAB/HOST`. A host enters its own and then takes a cgroup
namespace, so that inside it the subtree is the root. On v2 a group with controllers for its children may hold no process
itself, so the host's own processes live in `HOST/init`.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

V2_LEAF = "init"
_GROUP_PREFIX = "pyswarm-lab-"
_REMOVAL_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy; `options` are the mount options that ask for it again (a v1 controller list)."""

    mount_point: Path
    kind: str
    options: str

    @property
    def is_v2(self) -> bool:
        """Whether this is the unified hierarchy."""
        return self.kind == "cgroup2"


def parse_hierarchies(mountinfo: str) -> list[Hierarchy]:
    """Return the cgroup hierarchies in the text of /proc/self/mountinfo, each once."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        mount_point, (kind, _, super_options) = head.split()[4], tail.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("", Hierarchy(Path(mount_point), kind, ""))
        elif kind == "cgroup":
            wanted = [
                o for o in super_options.split(",") if o not in {"rw", "ro", "xattr", "seclabel", "noprefix", "clone_children"}
            ]
            options = ",".join(o for o in wanted if not o.startswith("release_agent="))
            found.setdefault(options, Hierarchy(Path(mount_point), kind, options))
    return list(found.values())


def hierarchies() -> list[Hierarchy]:
    """Return the machine's cgroup hierarchies."""
    return parse_hierarchies(Path("/proc/self/mountinfo").read_text())


def lab_group(lab: str) -> str:
    """Return the name of the group that holds a lab's hosts."""
    return _GROUP_PREFIX + lab


def create_group(lab: str, host: str) -> list[Path]:
    """Create a host's group in every hierarchy; return their directories."""
    directories = []
    for hierarchy in hierarchies():
        lab_directory = hierarchy.mount_point / lab_group(lab)
        directory = lab_directory / host
        for path in (lab_directory, directory):
            path.mkdir(exist_ok=True)
            _inherit_cpuset(path)
        if hierarchy.is_v2 and (hierarchy.mount_point / "cgroup.controllers").read_text().strip():
            for path in (hierarchy.mount_point, lab_directory):
                pass_controllers_on(path)
        directories.append(directory)
    return directories


def enter_group(directory: str) -> None:
    """Move the calling process into one of a host's directories."""
    Path(directory, "cgroup.procs").write_text("0")


def make_leaf(directory: str) -> None:
    """On v2, move the calling process, alone in its host's group, one level down and pass the controllers on to the group."""
    top = Path(directory)
    if (top / "cgroup.controllers").exists():
        (top / V2_LEAF).mkdir()
        enter_group(str(top / V2_LEAF))
        pass_controllers_on(top)


def pass_controllers_on(path: Path) -> None:
    """On v2, let the children of a group have every controller that it has."""
    for controller in (path / "cgroup.controllers").read_text().split():
        # A controller that the machine does not let go of is missing in the hosts, as it is missing on other machines.
        with contextlib.suppress(OSError):
            (path / "cgroup.subtree_control").write_text(f"+{controller}")


def group_entrances(lab: str, host: str) -> list[Path]:
    """Return the existing directories that a process must enter to belong to the host."""
    directories = [h.mount_point / lab_group(lab) / host for h in hierarchies()]
    return [d / V2_LEAF if (d / V2_LEAF).is_dir() else d for d in directories if d.is_dir()]


def lab_processes(lab: str, host: str = "") -> set[int]:
    """Return the pids in a lab's groups, or in one host's."""
    pids: set[int] = set()
    for hierarchy in hierarchies():
        for procs in (hierarchy.mount_point / lab_group(lab) / host).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(int(line) for line in procs.read_text().split())
    return pids


def lab_directories(lab: str) -> list[Path]:
    """Return the cgroup directories of a lab that exist."""
    return [path for h in hierarchies() if (path := h.mount_point / lab_group(lab)).is_dir()]


def remove_group(lab: str, host: str = "") -> None:
    """Kill what is left in a lab's groups (or one host's) and remove them; raises `OSError` if they stay busy for 5 s."""
    for hierarchy in hierarchies():
        top = hierarchy.mount_point / lab_group(lab) / host
        deadline_s = time.monotonic() + _REMOVAL_PATIENCE_S
        while top.is_dir():
            try:
                _remove_tree(top)
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                for pid in lab_processes(lab, host):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)


def _remove_tree(top: Path) -> None:
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


def _inherit_cpuset(path: Path) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        own = path / name
        if own.exists() and not (path / "cgroup.controllers").exists() and not own.read_text().strip():
            own.write_text((path.parent / name).read_text())
