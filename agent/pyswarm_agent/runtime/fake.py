"""A container runtime in memory, for tests of the agent: containers behave as their `FakeProgram` says."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from pyswarm_agent.runtime.interface import (
    ContainerFolders,
    ContainerObserver,
    ContainerStartFailed,
    no_such_container,
    unobserved,
)
from pyswarm_agent.runtime.limit_checks import Abilities, limit_warnings
from pyswarm_agent.runtime.log_arguments import with_log_default
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord, ExitStatus, LogConfig
from pyswarm_agent.runtime.signals import signal_number
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Conflict, InvalidArgument, Unavailable
from pyswarm_common.log_drivers import not_readable
from pyswarm_common.objects import Record
from pyswarm_common.wire import LogLine, LogPart, LogRequest


class FakeProgram(Record, frozen=True, kw_only=True):
    """What a container does: it writes `output` at its start, and ends by itself after `runs_s` (None: never) with `exit_code`."""

    output: tuple[tuple[int, bytes], ...] = ()
    """(stream, line with its newline), as `LogLine` has them."""
    runs_s: float | None = None
    exit_code: int = 0
    ignores_stop: bool = False
    start_error: str = ""


class _Container:
    def __init__(self, record: ContainerRecord, program: FakeProgram) -> None:
        self.record = record
        self.program = program
        self.lines: list[LogLine] = []
        self.ended = asyncio.Event()
        self.running: asyncio.Task[None] | None = None


class FakeContainerRuntime:
    """Implements `Runtime`. `program_of` scripts each container; by default all run until they are stopped."""

    def __init__(self, clock: Clock, program_of: Callable[[ContainerConfig], FakeProgram] = lambda _: FakeProgram()) -> None:
        self._clock = clock
        self._program_of = program_of
        self.before_each: Callable[[str, str], Awaitable[None]] = _nothing
        """Test control: awaited with `create`, `start`, `stop` or `remove` and the container's id, before that happens."""
        self.on_event: ContainerObserver = unobserved
        self.files: dict[str, tuple[PrivateFile, ...]] = {}
        """What containers were given when they were started, by id."""
        self._containers: dict[str, _Container] = {}
        self._pids = iter(range(1000, 1 << 22))

    async def start(self) -> None:
        """Take up the containers that ran when an earlier `close` let go of them."""
        for container in self._containers.values():
            if container.record.is_live:
                container.ended.clear()
                self._run(container)

    async def close(self) -> None:
        """Let go of everything; those who wait get Unavailable."""
        running = [container.running for container in self._containers.values() if container.running]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for container in self._containers.values():
            container.ended.set()

    async def create(self, config: ContainerConfig) -> ContainerRecord:
        """Note a container; one that exists already is returned as it is."""
        await self.before_each("create", config.id)
        signal_number(config.stop_signal)
        if not config.args:
            raise InvalidArgument("no command specified")
        if config.id not in self._containers:
            config = with_log_default(config, LogConfig())
            record = ContainerRecord(config=config, created_at_ns=self._clock.now_ns())
            self._containers[config.id] = _Container(record, self._program_of(config))
            self.on_event("create", record, {})
        return self._containers[config.id].record

    async def configure(self, config: ContainerConfig) -> ContainerRecord:
        """Replace the configuration of the container with this id."""
        container = self._need(config.id)
        old_name = container.record.config.name
        container.record = msgspec.structs.replace(container.record, config=config)
        container.program = self._program_of(config)
        if config.name != old_name:
            self.on_event("rename", container.record, {"oldName": f"/{old_name}"})
        return container.record

    def folders(self, container_id: str) -> ContainerFolders | None:
        """There are no files."""
        self._need(container_id)
        return None

    def warnings_about(self, config: ContainerConfig) -> list[str]:
        """Keep all limits but weights of block devices."""
        return limit_warnings(config, Abilities(limits_swap=True, has_swappiness=True, has_block_weights=False))

    async def start_container(self, container_id: str, files: Sequence[PrivateFile] = ()) -> ContainerRecord:
        """Let the program begin. Raises ContainerStartFailed when it says so."""
        await self.before_each("start", container_id)
        container = self._need(container_id)
        state, keeps_layer = container.record.state, container.record.config.keeps_layer
        if state == "created" or (state == "exited" and keeps_layer):
            if container.program.start_error:
                raise ContainerStartFailed(container.program.start_error, 127)
            now_ns = self._clock.now_ns()
            container.record = msgspec.structs.replace(
                container.record,
                state="running",
                pid=next(self._pids),
                started_at_ns=now_ns,
                exit=None,
                ended_before_ns=container.record.finished_at_ns,
            )
            container.ended = asyncio.Event()
            self.files[container_id] = tuple(files)
            container.lines += [LogLine(stream=s, at_ns=now_ns, line=line) for s, line in container.program.output]
            self._run(container)
            self.on_event("start", container.record, {})
        return container.record

    async def stop(self, container_id: str, *, grace_s: float | None = None) -> ExitStatus:
        """End the program: at once, or after the grace period if it ignores the stop signal."""
        await self.before_each("stop", container_id)
        container = self._need(container_id)
        config = container.record.config
        if container.record.state == "created":
            self._end(container, 0)
        elif container.record.is_live:
            number = signal_number(config.stop_signal)
            self.on_event("kill", container.record, {"signal": str(number)})
            if container.program.ignores_stop:
                await self._clock.sleep(config.stop_grace_period_s if grace_s is None else grace_s)
                self.on_event("kill", container.record, {"signal": "9"})
                self._end(container, 137)
            else:
                self._end(container, 128 + number)
            self.on_event("stop", container.record, {})
        return await self.wait(container_id)

    async def kill(self, container_id: str, signal: str) -> None:
        """End the program as if by the signal (unless it ignores all but SIGKILL). Raises Conflict when it does not run."""
        container, number = self._need(container_id), signal_number(signal)
        if not container.record.is_live:
            raise Conflict(f"cannot kill container: {container_id}: container {container_id} is not running")
        self.on_event("kill", container.record, {"signal": str(number)})
        if number == signal_number("SIGKILL") or not container.program.ignores_stop:
            self._end(container, 128 + number)

    async def remove(self, container_id: str) -> None:
        """Forget the container; fine if there is none."""
        await self.before_each("remove", container_id)
        container = self._containers.pop(container_id, None)
        self.files.pop(container_id, None)
        if container is not None:
            if container.record.is_live:
                self.on_event("kill", container.record, {"signal": "9"})
                self._end(container, 137)
            container.ended.set()
            self.on_event("destroy", container.record, {})

    async def wait(self, container_id: str) -> ExitStatus:
        """Return how the program ended, as soon as it has."""
        container = self._need(container_id)
        await container.ended.wait()
        if container.record.exit is not None:
            return container.record.exit
        raise (
            no_such_container(container_id)
            if container_id not in self._containers
            else Unavailable("the container runtime is closed")
        )

    def get(self, container_id: str) -> ContainerRecord | None:
        """Return the container as it is now, or None."""
        container = self._containers.get(container_id)
        return None if container is None else container.record

    def list(self) -> list[ContainerRecord]:
        """Return all containers, oldest first."""
        records = (container.record for container in self._containers.values())
        return sorted(records, key=lambda record: (record.created_at_ns, record.config.id))

    def logs(self, container_id: str, request: LogRequest) -> AsyncIterator[LogLine]:
        """Return what the program has written; with `follow`, the iterator ends when it has ended."""
        return self._logs(self._need(container_id), request)

    def log_parts(self, container_id: str, request: LogRequest) -> AsyncGenerator[LogPart, None]:
        """Return the same in parts; a position is the number of lines before it."""
        return self._log_parts(self._need(container_id), request)

    async def _logs(self, container: _Container, request: LogRequest) -> AsyncIterator[LogLine]:
        async for part in self._log_parts(container, request):
            for line in part.lines:
                yield line

    async def _log_parts(self, container: _Container, request: LogRequest) -> AsyncGenerator[LogPart, None]:
        if container.record.config.log.driver == "none":
            raise not_readable()
        seen = int(request.after or "0")
        asked = [line for line in container.lines[seen:] if (request.stdout if line.stream == 1 else request.stderr)]
        if request.tail >= 0 and not request.after:
            asked = asked[max(0, len(asked) - request.tail) :]
        lines = tuple(line for line in asked if request.since_ns <= line.at_ns <= (request.until_ns or line.at_ns))
        yield LogPart(lines=lines, position=str(len(container.lines)))
        if request.follow:
            await container.ended.wait()

    def mark_paused(self, container_id: str, is_paused: bool) -> None:
        """Note that a container was frozen, or goes on."""
        container = self._need(container_id)
        if container.record.is_live:
            container.record = msgspec.structs.replace(container.record, state="paused" if is_paused else "running")
            self.on_event("pause" if is_paused else "unpause", container.record, {})

    def end_container(self, container_id: str, exit_code: int, *, error: str = "", oom_killed: bool = False) -> None:
        """Test control: end a running container now."""
        self._end(self._need(container_id), exit_code, error=error, oom_killed=oom_killed)

    def _run(self, container: _Container) -> None:
        container.running = asyncio.get_running_loop().create_task(self._live(container))

    async def _live(self, container: _Container) -> None:
        this_run = container.ended
        if container.program.runs_s is None:
            await this_run.wait()
        else:
            await self._clock.sleep(container.program.runs_s)
            if container.ended is this_run:
                self._end(container, container.program.exit_code)

    def _end(self, container: _Container, exit_code: int, *, error: str = "", oom_killed: bool = False) -> None:
        if container.record.state == "exited":
            return
        was_live = container.record.is_live
        status = ExitStatus(exit_code=exit_code, error=error, oom_killed=oom_killed, finished_at_ns=self._clock.now_ns())
        container.record = msgspec.structs.replace(container.record, state="exited", pid=0, exit=status)
        if was_live:
            self.on_event("die", container.record, {"exitCode": str(exit_code)})
        container.ended.set()

    def _need(self, container_id: str) -> _Container:
        container = self._containers.get(container_id)
        if container is None:
            raise no_such_container(container_id)
        return container


async def _nothing(operation: str, container_id: str) -> None:
    """Let the operation happen."""
