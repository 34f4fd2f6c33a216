"""What one may do with a container that runs, besides starting and ending it.

The real one (`ContainerAccess`) and the one in memory (`FakeContainerAccess`) keep the same promises; one contract test holds
both to them. Every method raises NotFound for an unknown container and Conflict for one that does not run, but for `attach`.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.errors import Conflict
from pyswarm_common.objects import Record

STDIN, STDOUT, STDERR = 0, 1, 2


class ExecConfig(Record, frozen=True, kw_only=True):
    """A further process in a container. Empty members are the container's own: its variables (`env` is added), user, folder."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    cwd: str = ""
    tty: bool = False
    takes_input: bool = False
    """Whether it has a standard input; else it reads /dev/null."""
    is_privileged: bool = False


class TerminalSize(NamedTuple):
    """Of a terminal, in characters."""

    rows: int
    columns: int


class Finished(NamedTuple):
    """How a process ended that ran to its end: the beginning of what it wrote (both streams as they came), and its exit code."""

    exit_code: int
    output: bytes


class Figures(Record, frozen=True, kw_only=True):
    """What a container uses, as the members of Docker's statistics have it. `at_ns`: since the epoch."""

    at_ns: int = 0
    cpu: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    blkio: dict[str, Any] = {}
    pids: dict[str, Any] = {}
    networks: dict[str, Any] = {}
    """By interface; empty in the host's network."""


class ContainerRoot(NamedTuple):
    """A container's root as `container_files.root.enter_root` takes it, and the descriptors that go with it."""

    description: dict[str, Any]
    descriptors: tuple[int, ...] = ()


class ProcessStreams(Protocol):
    """The streams of a process. With a terminal all output is STDOUT."""

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (STDOUT or STDERR, bytes) until the process has closed its streams."""
        ...

    async def write(self, data: bytes) -> None:
        """Send to its standard input, waiting while it reads too slowly; what it no longer takes is dropped."""
        ...

    async def close_input(self) -> None:
        """Close its standard input."""
        ...

    async def resize(self, size: TerminalSize) -> None:
        """Tell its terminal's size. Raises Conflict when it has none."""
        ...

    async def close(self) -> None:
        """Let go of the streams; the process goes on."""
        ...


class Execution(ProcessStreams, Protocol):
    """A process that was started in a container."""

    @property
    def pid(self) -> int:
        """Its process id as the host sees it."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        ...

    async def wait(self) -> int:
        """Return its exit code once it has ended (137 when the container ended it)."""
        ...

    async def kill(self) -> None:
        """Kill it with all that it has started, if it still runs."""
        ...


class Access(Protocol):
    """Reaches into this node's running containers. Processes that were started here end with the daemon at the latest."""

    async def start(self) -> None:
        """Find paused containers again and end what an earlier daemon has left in containers; comes after the runtime's start."""
        ...

    async def close(self) -> None:
        """End all processes that were started here, and let go of all streams."""
        ...

    async def execute(self, container_id: str, config: ExecConfig, size: TerminalSize | None = None) -> Execution:
        """Start a process in the container. Raises ContainerStartFailed (126, 127) when it cannot be started."""
        ...

    async def run(self, container_id: str, config: ExecConfig, *, timeout_s: float, output_limit_bytes: int = 4096) -> Finished:
        """Run a process to its end; kill it and raise TimeoutError when that takes longer than `timeout_s`."""
        ...

    async def attach(self, container_id: str, *, takes_input: bool) -> ProcessStreams:
        """Return the streams of the container's first process. From now on: what was written before is in its log.

        Of a container that is yet to start, or that can be started again: from its next start on, beginning with the first byte.
        Input goes to the process only if the container has one (`open_stdin`).
        """
        ...

    async def resize(self, container_id: str, size: TerminalSize) -> None:
        """Tell the terminal of the container's first process its size."""
        ...

    async def pause(self, container_id: str) -> None:
        """Freeze all its processes. Raises Conflict when it is paused already."""
        ...

    async def unpause(self, container_id: str) -> None:
        """Let them go on. Raises Conflict when it is not paused."""
        ...

    async def pids(self, container_id: str) -> list[int]:
        """Return the ids of its processes as the host sees them, sorted."""
        ...

    def root(self, container_id: str) -> AbstractAsyncContextManager[ContainerRoot]:
        """Hold a container's root, of one that does not run too: that cannot be started meanwhile."""
        ...

    async def figures(self, container_id: str) -> Figures:
        """Return what the container uses now."""
        ...


def require_live(record: ContainerRecord) -> ContainerRecord:
    """Return the record of a container whose processes are there, paused or not. Raises Conflict in Docker's words."""
    if not record.is_live:
        raise Conflict(f"Container {record.config.id} is not running")
    return record


def require_running(record: ContainerRecord, purpose: str) -> ContainerRecord:
    """Return the record of a container that runs and is not paused. `purpose`: `exec`, `attach`. Raises Conflict."""
    if record.state == "paused":
        raise Conflict(f"Container {record.config.id} is paused, unpause the container before {purpose}")
    return require_live(record)


def require_attachable(record: ContainerRecord) -> ContainerRecord:
    """Return the record of a container that runs or may yet start. Raises Conflict."""
    if record.state == "created" or (record.state == "exited" and record.config.keeps_layer):
        return record
    return require_running(record, "attach")


def already_paused(container_id: str) -> Conflict:
    """Return the error for pausing twice."""
    return Conflict(f"Container {container_id} is already paused")


def not_paused(container_id: str) -> Conflict:
    """Return the error for going on without having been paused."""
    return Conflict(f"Container {container_id} is not paused")


def no_terminal(noun: str) -> Conflict:
    """Return the error for giving a size to what has no terminal. `noun`: `container`, `process`."""
    return Conflict(f"cannot resize: the {noun} has no terminal")
