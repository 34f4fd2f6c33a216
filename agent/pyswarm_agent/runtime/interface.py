"""What the agent asks of a container runtime: the real one (`ContainerRuntime`) and the one in memory (`FakeContainerRuntime`)
keep the same promises, and one contract test holds both to them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord, ExitStatus
from pyswarm_common.errors import NotFound, PyswarmError
from pyswarm_common.wire import LogLine, LogPart, LogRequest


class ContainerStartFailed(PyswarmError):
    """The container's process could not be started. `exit_code` as a shell has it: 127 not found, 126 not executable, else 128."""

    def __init__(self, message: str, exit_code: int = 128) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ContainerFolders(NamedTuple):
    """Where a container's files lie.

    Its log; while it runs, its bundle and where its root is mounted (in a namespace of its own); from its first start on its
    writable layer (overlayfs's upper and work folders); the folder of the links `0`, `1` … to the image's layers, top-most first.
    """

    log: Path
    bundle: Path
    root: Path
    upper: Path
    work: Path
    layers: Path


ContainerObserver: TypeAlias = Callable[[str, ContainerRecord, Mapping[str, str]], None]
"""Is told what happens to a container: the action in the words of Docker's events (`start`, `die`), and what it adds."""


def unobserved(action: str, record: ContainerRecord, attributes: Mapping[str, str]) -> None:
    """Take what nobody wants to know."""


def no_such_container(container_id: str) -> NotFound:
    """Return the error for an unknown id, in Docker's words."""
    return NotFound(f"No such container: {container_id}")


class Runtime(Protocol):
    """Runs containers on this node. Every method that names an unknown container raises NotFound, except `get` and `remove`."""

    on_event: ContainerObserver
    """Told of `create`, `start`, `kill`, `oom`, `die`, `stop`, `pause`, `unpause`, `rename` and `destroy` as they happen."""

    async def start(self) -> None:
        """Find the containers of an earlier daemon again; must come first."""
        ...

    async def close(self) -> None:
        """Let go of everything; the containers go on. Those who wait get Unavailable."""
        ...

    async def create(self, config: ContainerConfig) -> ContainerRecord:
        """Write down a container; one that exists already is returned as it is."""
        ...

    async def start_container(self, container_id: str, files: Sequence[PrivateFile] = ()) -> ContainerRecord:
        """Return once the container's process runs; at once when it already does. Raises ContainerStartFailed.

        One that has ended is started again if its configuration keeps its layer, else it is returned as it is.
        The container gets `files`, of which nothing is kept.
        """
        ...

    async def configure(self, config: ContainerConfig) -> ContainerRecord:
        """Replace the configuration of the container with this id: its name and limits at once, all else at its next start.

        Raises InvalidArgument, Conflict and Unimplemented for limits that the host does not take; then nothing has changed.
        """
        ...

    def folders(self, container_id: str) -> ContainerFolders | None:
        """Return where the container's files lie; None where there are none."""
        ...

    def warnings_about(self, config: ContainerConfig) -> list[str]:
        """Return which of its limits this host cannot keep, in Docker's words."""
        ...

    async def stop(self, container_id: str, *, grace_s: float | None = None) -> ExitStatus:
        """Send the stop signal, after the grace period (the config's unless given) SIGKILL, and return how it ended.

        A container that never ran just counts as ended, with exit code 0.
        """
        ...

    async def kill(self, container_id: str, signal: str) -> None:
        """Send a signal (`SIGHUP`, `hup` or `1`) to the first process. Raises Conflict when it does not run, InvalidArgument."""
        ...

    async def remove(self, container_id: str) -> None:
        """Kill the container and remove every trace of it; fine if there is none."""
        ...

    async def wait(self, container_id: str) -> ExitStatus:
        """Return how the container ended, as soon as it has.

        Raises Unavailable when the runtime is closed meanwhile, NotFound when the container is removed before it ended.
        """
        ...

    def get(self, container_id: str) -> ContainerRecord | None:
        """Return the container as it is now, or None."""
        ...

    def list(self) -> list[ContainerRecord]:
        """Return all containers, oldest first."""
        ...

    def logs(self, container_id: str, request: LogRequest) -> AsyncIterator[LogLine]:
        """Return the asked lines in order of time; with `follow`, the iterator ends when the container has ended."""
        ...

    def log_parts(self, container_id: str, request: LogRequest) -> AsyncGenerator[LogPart, None]:
        """Return the same in parts, each with the position after it, from which another request can go on.

        Reading raises Unimplemented when the container's log driver keeps nothing that can be read.
        """
        ...
