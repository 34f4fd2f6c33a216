"""What one may do with a container that runs, besides starting and ending it.

The real one (`ContainerAccess`) and the one in memory (`FakeContainerAccess`) keep the same promises; one contract test holds
both to them. Every method raises NotFound for an unknown container and Conflict for one that does not run.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

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

    async def wait(self) -> int:
        """Return its exit code once it has ended (137 when the container ended it)."""
        ...

    async def kill(self) -> None:
        """Kill it, if it still runs."""
        ...


class Access(Protocol):
    """Reaches into this node's running containers."""

    async def execute(self, container_id: str, config: ExecConfig, size: TerminalSize | None = None) -> Execution:
        """Start a process in the container. Raises ContainerStartFailed (126, 127) when it cannot be started."""
        ...

    async def run(self, container_id: str, config: ExecConfig, *, timeout_s: float, output_limit_bytes: int = 4096) -> Finished:
        """Run a process to its end; kill it and raise TimeoutError when that takes longer than `timeout_s`."""
        ...

    async def attach(self, container_id: str, *, takes_input: bool) -> ProcessStreams:
        """Return the streams of the container's first process. From now on: what was written before is in its log."""
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
