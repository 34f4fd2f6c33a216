"""A further process in a container, from its start to its end."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import struct
import termios
from collections.abc import AsyncIterator, Callable, Iterable

from pyswarm_agent.runtime.access.descriptors import InputDescriptor, OutputDescriptors, on_readable
from pyswarm_agent.runtime.access.exec_start import StartedProcess
from pyswarm_agent.runtime.access.interface import STDERR, STDOUT, TerminalSize, no_terminal
from pyswarm_agent.runtime.access.process_tree import ProcessPlace, living_members, place_of
from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_agent.runtime.processes import identify

EXIT_CODE_KILLED = 137
OUTPUT_GRACE_S = 2.0
"""How long the output of a process that has ended is waited for, when processes that it has left behind hold it open."""
_STOP_ROUNDS = 100
_WINDOW_SIZE = struct.Struct("HHHH")


class ContainerExecution:
    """Implements `Execution`. Must be made in the event loop; `on_end` is called once it has ended."""

    def __init__(
        self, started: StartedProcess, container_id: str, cgroups: Cgroups, on_end: Callable[["ContainerExecution"], None]
    ) -> None:
        self._started = started
        self._container_id = container_id
        self._cgroups = cgroups
        self._on_end = on_end
        self._place = place_of(started.pid) if started.identity is not None else None
        self._ended = asyncio.Event()
        self._exit_code = EXIT_CODE_KILLED
        self._terminal = started.terminal
        by_stream = {started.stdout: STDOUT, started.stderr: STDERR, started.terminal: STDOUT}
        self._output = OutputDescriptors({fd: stream for fd, stream in by_stream.items() if fd is not None})
        # The terminal's descriptor serves both ways, each with an owner of its own.
        self._input = InputDescriptor(os.dup(started.terminal) if started.terminal is not None else started.stdin)
        on_readable(os.pidfd_open(started.runtime.pid), self._see_end)

    @property
    def pid(self) -> int:
        """Its process id as the host sees it."""
        return self._started.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.is_set()

    def output(self, grace_s: float = OUTPUT_GRACE_S) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (STDOUT or STDERR, bytes) until it has closed its streams or ended."""
        return self._output.read(grace_s)

    async def write(self, data: bytes) -> None:
        """Send to its standard input, waiting while it reads too slowly; what it no longer takes is dropped."""
        await self._input.write(data)

    async def close_input(self) -> None:
        """Close its standard input; a terminal stays as it is."""
        if self._terminal is None:
            self._input.close()

    async def resize(self, size: TerminalSize) -> None:
        """Tell its terminal's size. Raises Conflict when it has none."""
        if self._terminal is None:
            raise no_terminal("process")
        with contextlib.suppress(OSError):  # it has just ended
            set_window_size(self._terminal, size)

    async def close(self) -> None:
        """Let go of the streams; the process goes on, its input closed and its output read by nobody."""
        if self._terminal is None:
            self._input.close()
        if self.is_running:
            self._output.discard()
        else:
            self._close_streams()

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        await self._ended.wait()
        return self._exit_code

    async def kill(self) -> None:
        """Kill it with all that it has started, if it still runs."""
        if self.is_running:
            await asyncio.to_thread(self._kill)
            await self._ended.wait()

    def _kill(self) -> None:
        kill_members(self._started.pid, self._place, self._container_id, self._cgroups)
        self._started.runtime.kill()

    def end(self) -> None:
        """Close everything; for the daemon's end, after `kill`."""
        self._close_streams()

    def _see_end(self) -> None:
        code = self._started.runtime.wait()  # it has ended: this only collects its exit code
        self._exit_code = code if code >= 0 else EXIT_CODE_KILLED
        shutil.rmtree(self._started.folder, ignore_errors=True)
        self._ended.set()
        self._output.process_ended()
        self._input.close()
        self._on_end(self)

    def _close_streams(self) -> None:
        self._terminal = None
        self._input.close()
        self._output.close()


def kill_members(pid: int, place: ProcessPlace | None, container_id: str, cgroups: Cgroups) -> None:
    """Kill a process of a container with its session and its descendants. Frozen ones die when they thaw. Blocking."""
    if place is None:
        return

    def remaining() -> Iterable[int]:
        return living_members(pid, place.session, cgroups.processes(container_id))

    _stop(remaining)
    with contextlib.suppress(TimeoutError):
        cgroups.kill_processes(lambda: [each for each in remaining() if identify(each) is not None], "")


def _stop(remaining: Callable[[], Iterable[int]]) -> None:
    """Stop processes, so that none starts another, or leaves its session, between being found and being killed."""
    stopped: set[int] = set()
    for _ in range(_STOP_ROUNDS):
        found = set(remaining()) - stopped
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= found


def set_window_size(terminal: int, size: TerminalSize) -> None:
    """Set a terminal's size. Raises OSError."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, _WINDOW_SIZE.pack(size.rows, size.columns, 0, 0))
