"""What is written down about a lab: `DIRECTORY/LAB/lab.json`, and beside it a folder per host.

DIRECTORY/LAB/lab.json                     this state, replaced atomically
DIRECTORY/LAB/share/                       seen by all hosts under the same path
DIRECTORY/LAB/HOST/var-lib-pyswarm/        the host's disk, kept over power cuts
DIRECTORY/LAB/HOST/etc/                    its hostname, hosts and resolv.conf
DIRECTORY/LAB/HOST/pyswarmd.log            what its daemon said, kept over power cuts
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pyswarm_common.errors import InvalidArgument, NotFound

DEFAULT_DIRECTORY = Path("/var/lib/pyswarm-lab")
SWITCH = "switch"
STATE_FILE = "lab.json"


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one with the same pid: with its start time in clock ticks since boot."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """Return the identity of a running process, None if it has ended (a zombie has ended)."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def is_running(self) -> bool:
        """Whether the very same process still runs."""
        return ProcessIdentity.of(self.pid) == self


class HostState(msgspec.Struct):
    """One host: powered on when its first process runs. `net_namespace` is the inode of its network namespace;
    `daemon_arguments` are added to the lab's daemon command.
    """

    name: str
    address: str
    init: ProcessIdentity | None = None
    net_namespace: int | None = None
    daemon: ProcessIdentity | None = None
    has_daemon: bool = False
    daemon_arguments: list[str] = []

    @property
    def is_on(self) -> bool:
        """Whether the host has power."""
        return self.init is not None and self.init.is_running


class LabState(msgspec.Struct):
    """A lab: its hosts by name (the switch among them), its subnet and what is cut; `cut_ways` are (sender, receiver)."""

    name: str
    subnet: str
    hosts: dict[str, HostState]
    daemon_command: list[str]
    cut_hosts: list[str] = []
    cut_pairs: list[tuple[str, str]] = []
    cut_ways: list[tuple[str, str]] = []


def labs_directory() -> Path:
    """Return the folder of all labs: $PYSWARM_LAB_DIR, or /var/lib/pyswarm-lab."""
    return Path(os.environ.get("PYSWARM_LAB_DIR") or DEFAULT_DIRECTORY).absolute()


def load_state(directory: Path) -> LabState:
    """Read the state of the lab in `directory`; `NotFound` when there is none, `InvalidArgument` when it cannot be read."""
    try:
        return msgspec.json.decode((directory / STATE_FILE).read_bytes(), type=LabState)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no lab named {directory.name!r} (see `pyswarm lab ls`)") from None
    except msgspec.MsgspecError as error:
        raise InvalidArgument(
            f"{directory / STATE_FILE} is damaged ({error}); `pyswarm lab down --name {directory.name}`"
        ) from None


def save_state(directory: Path, state: LabState) -> None:
    """Replace the lab's state on disk."""
    temporary = directory / (STATE_FILE + ".new")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
    temporary.rename(directory / STATE_FILE)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock on a lab's folder (or on the folder of all labs) against other processes and threads."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
