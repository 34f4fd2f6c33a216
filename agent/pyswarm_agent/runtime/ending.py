"""What is to be done when a container has ended, and what a daemon finds when it starts. Blocking."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_agent.runtime.paths import ContainerPaths, SavedContainer, saved_ids
from pyswarm_agent.runtime.records import ExitStatus
from pyswarm_common.failpoints import failpoint

EXIT_CODE_KILLED = 137
FILES_REMOVED = "the container's files in {} were removed while it ran; how it ended is unknown"
EXIT_CODE_NODE_RESTARTED = 255
NODE_RESTARTED = "the node was restarted"
MONITOR_KILLED = "the container's monitor (conmon) was killed, so the container was killed too; its own exit code is unknown"


def read_exit(saved: SavedContainer, paths: ContainerPaths, cgroups: Cgroups, boot: str, now_ns: int) -> ExitStatus:
    """Return how a container ended whose monitor has ended. Without an exit code, what is left of the container is killed."""
    oom_kills = cgroups.oom_kills(saved.record.config.id)
    with contextlib.suppress(OSError, ValueError):
        exit_code = int(paths.exit_file.read_text())
        finished_at_ns = paths.exit_file.stat().st_mtime_ns
        return ExitStatus(exit_code=exit_code, oom_killed=bool(oom_kills and exit_code), finished_at_ns=finished_at_ns)
    if saved.boot != boot:
        return ExitStatus(exit_code=EXIT_CODE_NODE_RESTARTED, error=NODE_RESTARTED, finished_at_ns=now_ns)
    cgroups.kill(saved.record.config.id)
    reason = MONITOR_KILLED if paths.exit_dir.is_dir() else FILES_REMOVED.format(paths.bundle)
    return ExitStatus(exit_code=EXIT_CODE_KILLED, error=reason, oom_killed=bool(oom_kills), finished_at_ns=now_ns)


def clean_run(container_id: str, paths: ContainerPaths, cgroups: Cgroups) -> None:
    """Remove what a run has left: processes, monitor, cgroup, bundle; the log and the writable layer stay. Raises OSError."""
    failpoint("container/ended")
    kill_monitors(cgroups, lambda command: container_id in command)
    cgroups.kill(container_id)
    cgroups.remove(container_id)
    paths.remove_run()


def kill_monitors(cgroups: Cgroups, is_stray: Callable[[str], bool]) -> None:
    """Kill those processes in the monitors' cgroup (conmon, and crun while it makes a container) whose command line is stray."""

    def stray() -> list[int]:
        return [pid for pid in cgroups.monitors() if is_stray(_command_line(pid))]

    cgroups.kill_processes(stray, "monitors of containers do not die")


def recover(data_dir: Path, runtime_dir: Path, cgroups: Cgroups, boot: str) -> list[tuple[ContainerPaths, SavedContainer]]:
    """Return all containers that were written down, after removing what was half made. Raises OSError.

    Those that were live are returned untouched, whether their processes live or not.
    """
    saved_by_id = {name: ContainerPaths(data_dir, runtime_dir, name).load() for name in saved_ids(data_dir, runtime_dir)}
    running = {name for name, saved in saved_by_id.items() if saved and saved.record.is_live}
    alive = {name for name in running if (saved := saved_by_id[name]) and saved.boot == boot}
    kill_monitors(cgroups, lambda command: bool(command) and not any(name in command for name in alive))
    for name in cgroups.names() - alive:
        cgroups.kill(name)
        cgroups.remove(name)
    found = []
    for name, saved in saved_by_id.items():
        paths = ContainerPaths(data_dir, runtime_dir, name)
        if saved is None:
            paths.remove_all()
            continue
        if name not in running:
            paths.remove_run()
        found.append((paths, saved))
    return found


def as_exited(saved: SavedContainer, status: ExitStatus) -> SavedContainer:
    """Return the container as ended."""
    record = msgspec.structs.replace(saved.record, state="exited", pid=0, exit=status)
    return msgspec.structs.replace(saved, record=record, process=None, monitor=None)


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
