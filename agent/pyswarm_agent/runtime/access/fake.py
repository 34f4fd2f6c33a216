"""Reaching into the containers of `FakeContainerRuntime`, in memory: processes behave as their `FakeProcess` says."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

from pyswarm_agent.runtime.access.interface import (
    STDOUT,
    ContainerRoot,
    ExecConfig,
    Figures,
    Finished,
    TerminalSize,
    already_paused,
    no_terminal,
    not_paused,
    require_attachable,
    require_live,
    require_running,
)
from pyswarm_agent.runtime.fake import FakeContainerRuntime
from pyswarm_agent.runtime.interface import ContainerStartFailed, no_such_container
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.errors import PyswarmError, Unimplemented
from pyswarm_common.objects import Record


class FakeProcess(Record, frozen=True, kw_only=True):
    """What a process does: it writes `output`, copies its input to its output if it `echoes` until that is closed, and ends."""

    output: tuple[tuple[int, bytes], ...] = ()
    echoes: bool = False
    runs_s: float | None = 0.0
    """How long it runs besides; None: until it is killed."""
    exit_code: int = 0
    start_error: str = ""
    start_error_code: int = 127


class FakeStreams:
    """Implements `ProcessStreams`; what is sent to the process is in `received`, and `say` lets it write."""

    def __init__(self, *, takes_input: bool, tty: bool) -> None:
        self._takes_input = takes_input
        self._tty = tty
        self._chunks: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self.received = bytearray()
        self.input_closed = asyncio.Event()
        self.sizes: list[TerminalSize] = []
        self.is_echoing = False
        if not takes_input:
            self.input_closed.set()

    def say(self, stream: int, data: bytes) -> None:
        """Test control: let the process write."""
        self._chunks.put_nowait((STDOUT if self._tty else stream, data))

    def end_output(self) -> None:
        """Test control: let the process close its streams."""
        self._chunks.put_nowait(None)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield what the process writes."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk

    async def write(self, data: bytes) -> None:
        """Keep what is sent, and echo it if it does that."""
        if self._takes_input and not self.input_closed.is_set():
            self.received += data
            if self.is_echoing:
                self.say(STDOUT, data)

    async def close_input(self) -> None:
        """Note that the input is closed."""
        if not self._tty:
            self.input_closed.set()

    async def resize(self, size: TerminalSize) -> None:
        """Note the size. Raises Conflict when there is no terminal."""
        if not self._tty:
            raise no_terminal("process")
        self.sizes.append(size)

    async def close(self) -> None:
        """Let go."""
        await self.close_input()


class FakeExecution(FakeStreams):
    """Implements `Execution`."""

    def __init__(self, pid: int, config: ExecConfig, process: FakeProcess, container_ended: asyncio.Future[None]) -> None:
        super().__init__(takes_input=config.takes_input, tty=config.tty)
        self.config = config
        self._pid = pid
        self.is_echoing = process.echoes
        self._exit_code = asyncio.get_running_loop().create_future()
        for stream, data in process.output:
            self.say(stream, data)
        self._running = asyncio.get_running_loop().create_task(self._live(process, container_ended))

    @property
    def pid(self) -> int:
        """A number that no other has."""
        return self._pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._exit_code.done()

    async def wait(self) -> int:
        """Return its exit code."""
        exit_code: int = await asyncio.shield(self._exit_code)
        return exit_code

    async def kill(self) -> None:
        """End it."""
        self._end(137)

    async def _live(self, process: FakeProcess, container_ended: asyncio.Future[None]) -> None:
        living = asyncio.ensure_future(self._work(process))
        try:
            await asyncio.wait((living, container_ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            living.cancel()
            container_ended.cancel()
        self._end(process.exit_code if living.done() and not living.cancelled() else 137)

    async def _work(self, process: FakeProcess) -> None:
        if process.echoes:
            await self.input_closed.wait()
        if process.runs_s is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(process.runs_s)

    def _end(self, exit_code: int) -> None:
        if not self._exit_code.done():
            self._exit_code.set_result(exit_code)
            self.end_output()
        self._running.cancel()


class FakeContainerAccess:
    """Implements `Access`. `process_of` scripts what is executed; `executed` holds every process's config in order."""

    def __init__(
        self,
        runtime: FakeContainerRuntime,
        process_of: Callable[[str, ExecConfig], FakeProcess] = lambda container_id, config: FakeProcess(),
    ) -> None:
        self._runtime = runtime
        self.process_of = process_of
        self.executed: list[tuple[str, ExecConfig]] = []
        self.attached: dict[str, list[FakeStreams]] = {}
        """The streams of each container's first process, as they were attached to."""
        self.figures_of: dict[str, Figures] = {}
        self._executions: dict[str, list[FakeExecution]] = {}
        self._pids = itertools.count(1 << 22)

    async def start(self) -> None:
        """Nothing is left of earlier ones."""

    async def close(self) -> None:
        """End all processes that were started here."""
        for executions in self._executions.values():
            for execution in executions:
                await execution.kill()

    async def execute(self, container_id: str, config: ExecConfig, size: TerminalSize | None = None) -> FakeExecution:
        """Start what `process_of` says. Raises ContainerStartFailed when it says so."""
        require_running(self._need(container_id), "exec")
        self.executed.append((container_id, config))
        process = self.process_of(container_id, config)
        if process.start_error:
            raise ContainerStartFailed(process.start_error, process.start_error_code)
        ended = asyncio.ensure_future(self._wait_container(container_id))
        execution = FakeExecution(next(self._pids), config, process, ended)
        if size is not None and config.tty:
            await execution.resize(size)
        self._executions.setdefault(container_id, []).append(execution)
        return execution

    async def _wait_container(self, container_id: str) -> None:
        with contextlib.suppress(PyswarmError):
            await self._runtime.wait(container_id)

    async def run(self, container_id: str, config: ExecConfig, *, timeout_s: float, output_limit_bytes: int = 4096) -> Finished:
        """Let a process run to its end. Raises TimeoutError."""
        output = bytearray()
        execution = await self.execute(container_id, config)
        try:
            async with asyncio.timeout(timeout_s):
                async for _, data in execution.output():
                    output += data[: output_limit_bytes - len(output)]
                return Finished(await execution.wait(), bytes(output))
        finally:
            await execution.kill()

    async def attach(self, container_id: str, *, takes_input: bool) -> FakeStreams:
        """Return streams that the test speaks on."""
        record = require_attachable(self._need(container_id))
        streams = FakeStreams(takes_input=takes_input and record.config.open_stdin, tty=record.config.tty)
        self.attached.setdefault(container_id, []).append(streams)
        return streams

    async def resize(self, container_id: str, size: TerminalSize) -> None:
        """Note the size on all that are attached."""
        if not require_live(self._need(container_id)).config.tty:
            raise no_terminal("container")
        for streams in self.attached.get(container_id, []):
            await streams.resize(size)

    async def pause(self, container_id: str) -> None:
        """Note it as paused."""
        if require_live(self._need(container_id)).state == "paused":
            raise already_paused(container_id)
        self._runtime.mark_paused(container_id, True)

    async def unpause(self, container_id: str) -> None:
        """Note it as running."""
        if require_live(self._need(container_id)).state != "paused":
            raise not_paused(container_id)
        self._runtime.mark_paused(container_id, False)

    async def pids(self, container_id: str) -> list[int]:
        """Return the first process, and those executed that run."""
        record = require_live(self._need(container_id))
        running = (execution.pid for execution in self._executions.get(container_id, []) if execution.is_running)
        return sorted([record.pid, *running])

    @contextlib.asynccontextmanager
    async def root(self, container_id: str) -> AsyncIterator[ContainerRoot]:
        """Raise Unimplemented: these containers have no files."""
        self._need(container_id)
        raise Unimplemented("containers in memory have no files")
        yield

    async def figures(self, container_id: str) -> Figures:
        """Return what `figures_of` has for it."""
        require_live(self._need(container_id))
        return self.figures_of.get(container_id, Figures())

    def _need(self, container_id: str) -> ContainerRecord:
        record = self._runtime.get(container_id)
        if record is None:
            raise no_such_container(container_id)
        return record
