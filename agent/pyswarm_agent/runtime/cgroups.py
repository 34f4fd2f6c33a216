"""Control groups of the containers, on version 1, version 2, and machines that have both.

crun makes a container's cgroup, `/<parent>/<container id>` in every hierarchy; here are the rest: the one that the monitors live in
(`/<parent>/conmon`, so that neither the daemon's memory limit nor stopping its systemd unit reaches them), counting out-of-memory
kills, killing what is left, and removal. Paths count from the root that this process sees, which in a cgroup namespace is its own.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MONITOR = "conmon"
_MONITOR_CONTROLLERS = frozenset({"memory", "pids", "name=systemd"})
_BUSY_LIMIT_S = 2.0


class Hierarchy(NamedTuple):
    """One mounted tree. Version 2 trees list no controllers here."""

    path: Path
    version: int
    controllers: frozenset[str] = frozenset()


class Freezer(NamedTuple):
    """The file that freezes a cgroup, and what is written to it to freeze and to thaw."""

    file: Path
    frozen: str
    thawed: str


class CgroupLayout(NamedTuple):
    """The machine's trees; `is_unified` when version 2 governs the containers."""

    hierarchies: tuple[Hierarchy, ...]

    @property
    def is_unified(self) -> bool:
        """Whether there is version 2 alone."""
        return all(hierarchy.version == 2 for hierarchy in self.hierarchies)

    @property
    def beside(self) -> Path | None:
        """The version 2 tree of a machine whose containers are governed by version 1."""
        return None if self.is_unified else next((h.path for h in self.hierarchies if h.version == 2), None)

    def holding(self, controller: str) -> Path | None:
        """Return the tree where containers find a controller."""
        for hierarchy in self.hierarchies:
            if self.is_unified or controller in hierarchy.controllers:
                return hierarchy.path
        return None


def parse_layout(mountinfo: str) -> CgroupLayout:
    """Return the layout that /proc/self/mountinfo shows; of several mounts of one tree the first below /sys/fs/cgroup counts."""
    seen: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mountpoint = left.split(" ")[4]
        filesystem, _, options = right.split(" ", 2)
        if filesystem not in ("cgroup", "cgroup2") or not f"{mountpoint}/".startswith("/sys/fs/cgroup/"):
            continue
        if filesystem == "cgroup2":
            seen.setdefault("", Hierarchy(Path(mountpoint), 2))
        else:
            controllers = frozenset(options.split(",")) - {"rw", "ro", "xattr", "clone_children", "noprefix"}
            controllers = frozenset(c for c in controllers if not c.startswith("release_agent="))
            seen.setdefault(",".join(sorted(controllers)), Hierarchy(Path(mountpoint), 1, controllers))
    return CgroupLayout(tuple(seen.values()))


class Cgroups:
    """The cgroups below one parent."""

    def __init__(self, layout: CgroupLayout, parent: str) -> None:
        self.layout = layout
        self.parent = parent
        """The path in each hierarchy, with a leading slash."""

    def path_of(self, name: str) -> str:
        """Return the path as an OCI bundle's `cgroupsPath` has it."""
        return f"{self.parent}/{name}"

    def ensure_monitor(self) -> None:
        """Make the monitors' cgroup. Raises OSError."""
        if self.layout.is_unified:
            for hierarchy in self.layout.hierarchies:
                enable_controllers(hierarchy.path)
        for path in self._monitor_paths():
            path.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def monitor_entrance(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that moves a process, with all that it will start, into the monitors' cgroup. Raises OSError.

        It goes on working where the hierarchies are not to be seen any more.
        """
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context((path / "cgroup.procs").open("w")) for path in self._monitor_paths()]

            def move(pid: int) -> None:
                for file in files:
                    file.write(str(pid))
                    file.flush()

            yield move

    def names(self) -> set[str]:
        """Return the names of all cgroups below the parent, without the monitors'."""
        found: set[str] = set()
        for hierarchy in self.layout.hierarchies:
            with contextlib.suppress(FileNotFoundError):
                found.update(entry.name for entry in os.scandir(self._parent_in(hierarchy)) if entry.is_dir())
        return found - {MONITOR}

    def monitors(self) -> set[int]:
        """Return the monitors' processes, and what they run to make containers.

        Not asked is a version 2 tree beside version 1: crun does not see it, so there the containers are where their monitors are.
        """
        found: set[int] = set()
        for hierarchy in self.layout.hierarchies:
            if hierarchy.path != self.layout.beside:
                with contextlib.suppress(OSError):
                    text = (self._parent_in(hierarchy) / MONITOR / "cgroup.procs").read_text()
                    found.update(int(pid) for pid in text.split())
        return found - {0}

    def processes(self, name: str) -> set[int]:
        """Return the processes in a cgroup and in those below it."""
        found: set[int] = set()
        for directory in self._directories(name):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in (directory / "cgroup.procs").read_text().split())
        return found - {0}

    def oom_kills(self, name: str) -> int:
        """Return how many processes of a cgroup the kernel has killed for want of memory."""
        tree = self.layout.holding("memory")
        if tree is None:
            return 0
        file = tree / self.path_of(name)[1:] / ("memory.events" if self.layout.is_unified else "memory.oom_control")
        with contextlib.suppress(OSError):
            counts = dict(line.split(" ", 1) for line in file.read_text().splitlines())
            return int(counts.get("oom_kill", "0"))
        return 0

    def freezer(self, name: str) -> Freezer | None:
        """Return what freezes a cgroup, None if this host has no such thing."""
        tree = self.layout.holding("freezer")
        if tree is None:
            return None
        folder = tree / self.path_of(name)[1:]
        if self.layout.is_unified:
            return Freezer(folder / "cgroup.freeze", "1", "0")
        return Freezer(folder / "freezer.state", "FROZEN", "THAWED")

    def thaw(self, name: str) -> None:
        """Let the processes of a cgroup go on; fine if it is gone or was not frozen. Raises OSError."""
        freezer = self.freezer(name)
        if freezer is not None:
            with contextlib.suppress(FileNotFoundError):
                freezer.file.write_text(freezer.thawed)

    def kill(self, name: str) -> None:
        """Kill every process of a cgroup and wait until they are gone. Raises TimeoutError when they would not go."""
        with contextlib.suppress(OSError):  # the frozen do not die
            self.thaw(name)
        self.kill_processes(lambda: self.processes(name), f"the processes of cgroup {self.path_of(name)} do not die")

    def kill_processes(self, remaining: Callable[[], Iterable[int]], complaint: str) -> None:
        """Kill what `remaining` returns until it returns nothing. Raises TimeoutError with the complaint."""
        deadline = time.monotonic() + _BUSY_LIMIT_S
        while pids := remaining():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{complaint}: {sorted(pids)}")
            # The kernel tells nobody when a version 1 cgroup becomes empty.
            time.sleep(0.001)

    def remove(self, name: str) -> None:
        """Remove a cgroup with those below it from all hierarchies; its processes must be dead. Raises OSError."""
        for directory in self._directories(name):
            _remove_directory(directory)

    def remove_parent_if_empty(self) -> None:
        """Remove the monitors' cgroup and the parent, wherever nothing is left in them."""
        if not self.names():
            # Without containers, a monitor that is still there has failed to create one, and is about to end.
            for path in self._monitor_paths():
                with contextlib.suppress(OSError):
                    _remove_directory(path)
        for hierarchy in self.layout.hierarchies:
            parent = self._parent_in(hierarchy)
            for directory in (parent / MONITOR, parent):
                with contextlib.suppress(OSError):
                    directory.rmdir()

    def supports_swap_limit(self) -> bool:
        """Whether the kernel can limit swap for a cgroup."""
        tree = self.layout.holding("memory")
        if tree is None:
            return False
        if not self.layout.is_unified:
            return (tree / "memory.memsw.limit_in_bytes").exists()
        return any(tree.glob("*/memory.swap.max"))

    def block_weight_file(self) -> str | None:
        """Return the file of the kernel's that has a cgroup's share of busy block devices, None where there is none."""
        tree = self.layout.holding("io" if self.layout.is_unified else "blkio")
        names = ("io.bfq.weight", "io.weight") if self.layout.is_unified else ("blkio.weight",)
        return next((name for name in names if tree is not None and any(tree.glob(f"*/{name}"))), None)

    def available(self, file: str) -> str:
        """Return what containers may get of `cpuset.cpus` or `cpuset.mems`, as `0-3,7`; "" if the host does not say."""
        tree = self.layout.holding("cpuset")
        if tree is not None:
            with contextlib.suppress(OSError):
                return (tree / (f"{file}.effective" if self.layout.is_unified else file)).read_text().strip()
        return ""

    def _directories(self, name: str) -> Iterator[Path]:
        for hierarchy in self.layout.hierarchies:
            top = self._parent_in(hierarchy) / name
            for directory, _, _ in os.walk(top, topdown=False):
                yield Path(directory)

    def _monitor_paths(self) -> Iterator[Path]:
        for hierarchy in self.layout.hierarchies:
            if hierarchy.version == 2 or hierarchy.controllers & _MONITOR_CONTROLLERS:
                yield self._parent_in(hierarchy) / MONITOR

    def _parent_in(self, hierarchy: Hierarchy) -> Path:
        return hierarchy.path / self.parent[1:]


def enable_controllers(root: Path) -> None:
    """Let the children of a version 2 tree's root have the controllers that containers need. Raises OSError.

    The root that a cgroup namespace shows is not the kernel's own: it may not have both controllers for its children and processes
    of its own. There the processes move to a child, `init`.
    """
    available = set((root / "cgroup.controllers").read_text().split())
    enabled = set((root / "cgroup.subtree_control").read_text().split())
    missing = available & {"cpu", "cpuset", "io", "memory", "pids", "hugetlb"} - enabled
    if not missing:
        return
    request = " ".join(f"+{controller}" for controller in sorted(missing))
    try:
        (root / "cgroup.subtree_control").write_text(request)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        init = root / "init"
        init.mkdir(exist_ok=True)
        for pid in (root / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (init / "cgroup.procs").write_text(pid)
        (root / "cgroup.subtree_control").write_text(request)


def _remove_directory(directory: Path) -> None:
    deadline = time.monotonic() + _BUSY_LIMIT_S
    while True:
        try:
            return directory.rmdir()
        except FileNotFoundError:
            return None
        except OSError as error:
            # For a moment after its last process has died, a cgroup may still be busy.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.001)
