"""`ContainerRuntime`: the containers of one node, by crun (or runc) under conmon.

It keeps a record of each container in memory and on disk, and one watching task for each that runs. What blocks runs in
threads: the start of a container (at most four at once; more bring nothing) in `launch`, its end in `ending`. It decides
nothing about restarts: that is the orchestrator's.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from pyswarm_agent.runtime.bind_sources import BindSources
from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_agent.runtime.container_logs import ContainerLogs
from pyswarm_agent.runtime.ending import as_exited, clean_run, read_exit, recover
from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.host import Host, inspect_host
from pyswarm_agent.runtime.interface import (
    ContainerFolders,
    ContainerObserver,
    ContainerStartFailed,
    no_such_container,
    unobserved,
)
from pyswarm_agent.runtime.launch import Launched, launch
from pyswarm_agent.runtime.live_limits import apply_limits
from pyswarm_agent.runtime.log_arguments import with_log_default
from pyswarm_agent.runtime.paths import ContainerPaths, SavedContainer
from pyswarm_agent.runtime.private_files import PrivateFile, with_private_mounts
from pyswarm_agent.runtime.processes import ProcessIdentity, send_signal, wait_process_end
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord, ExitStatus, LogConfig
from pyswarm_agent.runtime.signals import signal_number
from pyswarm_agent.runtime.spec_maker import SpecMaker
from pyswarm_agent.runtime.threads import in_new_thread
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Conflict, PyswarmError, Unavailable
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import LogLine, LogPart, LogRequest

PARALLEL_STARTS = 4
SIGKILL = 9
KILL_LIMIT_S = 10.0
"""How long a container may take to die of SIGKILL."""

T = TypeVar("T")
_log = structlog.get_logger()


class ContainerRuntime:
    """Implements `Runtime`. `instance_tag` keeps the cgroups of several daemons on one machine apart.

    `log_default`: what becomes of the output of containers that do not say it.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        runtime_dir: Path,
        instance_tag: str,
        cgroup_parent: str = "pyswarm",
        clock: Clock,
        log_default: LogConfig = LogConfig(),
    ) -> None:
        self._data_dir = data_dir
        self._runtime_dir = runtime_dir
        self._cgroup_path = f"/{cgroup_parent}-{instance_tag}"
        self._clock = clock
        self._log_default = log_default
        self._containers: dict[str, ContainerHandle] = {}
        self._operations: set[asyncio.Task[Any]] = set()
        self._starts = asyncio.Semaphore(PARALLEL_STARTS)
        self._bind_sources = BindSources()
        self._logs = ContainerLogs(lambda: list(self._containers.values()), clock)
        self.on_event: ContainerObserver = unobserved

    async def start(self) -> None:
        """Find the containers of an earlier daemon again; must come first.

        Raises PyswarmError when this host cannot run containers, OSError.
        """
        self.host: Host = inspect_host()
        self.cgroups = Cgroups(self.host.layout, self._cgroup_path)
        self._specs = SpecMaker(self.host, self.cgroups, self._runtime_dir / "seccomp")
        found = await asyncio.to_thread(self._prepare)
        for paths, saved in found:
            container = self._containers[saved.record.config.id] = ContainerHandle(paths, saved)
            if saved.record.is_live:
                self._watch(container)
        self._logs.start()

    def _prepare(self) -> list[tuple[ContainerPaths, SavedContainer]]:
        # Writable layers hold set-uid files that the host's other users must not reach.
        (self._data_dir / "containers").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.cgroups.ensure_monitor()
        self._specs.prepare()
        return recover(self._data_dir, self._runtime_dir, self.cgroups, self.host.boot)

    async def close(self) -> None:
        """Let go of everything; the containers go on. Those who wait get Unavailable."""
        if self._operations:
            await asyncio.wait(self._operations)
        watching = [container.watching for container in self._containers.values() if container.watching]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        for container in self._containers.values():
            container.ended.set()
        await self._logs.close()
        await asyncio.to_thread(self.cgroups.remove_parent_if_empty)

    async def create(self, config: ContainerConfig) -> ContainerRecord:
        """Write down a container; one that exists already is returned as it is. Raises InvalidArgument, Unavailable, OSError."""
        container = self._containers.get(config.id)
        if container is None:
            config = with_log_default(config, self._log_default)
            await self._check(config)
            container = self._containers.get(config.id)
        if container is None:
            record = ContainerRecord(config=config, created_at_ns=self._clock.now_ns())
            paths = ContainerPaths(self._data_dir, self._runtime_dir, config.id)
            container = self._containers[config.id] = ContainerHandle(paths, SavedContainer(record=record))
            await self._owned(self._write_new(container))
        async with container.lock:
            return container.record

    async def _check(self, config: ContainerConfig) -> None:
        """Raise InvalidArgument when the container cannot be run on this host, Unavailable when its binds do not answer."""
        self._specs.check(config)
        await self._bind_sources.check(config.mounts)

    async def _write_new(self, container: ContainerHandle) -> None:
        async with container.lock:
            try:
                await asyncio.to_thread(_write_new, container)
            except OSError:
                self._forget(container)
                raise
        self.on_event("create", container.record, {})

    async def configure(self, config: ContainerConfig) -> ContainerRecord:
        """Replace the configuration of the container with this id: its name and limits at once, all else at its next start.

        Raises InvalidArgument, Conflict and Unimplemented for limits that the host does not take, OSError.
        """
        return await self._owned(self._configure(self.handle(config.id), config))

    async def _configure(self, container: ContainerHandle, config: ContainerConfig) -> ContainerRecord:
        async with container.lock:
            if container.is_removed:
                raise no_such_container(container.id)
            old_name = container.record.config.name
            if config == container.record.config:
                return container.record
            if container.record.is_live and (writes := self._specs.limit_writes(container.record.config, config)):
                await asyncio.to_thread(apply_limits, self.cgroups, container.id, writes)
            if config.keeps_layer:
                await asyncio.to_thread(container.paths.save_lasting, config, container.record.created_at_ns)
            record = msgspec.structs.replace(container.record, config=config)
            saved = msgspec.structs.replace(container.saved, record=record)
            container.paths.save(saved)
            container.saved = saved
        if config.name != old_name:
            self.on_event("rename", record, {"oldName": f"/{old_name}"})
        return record

    async def start_container(self, container_id: str, files: Sequence[PrivateFile] = ()) -> ContainerRecord:
        """Return once the container's process runs; at once when it already does, or has ended and does not keep its layer.

        Raises ContainerStartFailed.
        """
        return await self._owned(self._start(self.handle(container_id), files))

    async def _start(self, container: ContainerHandle, files: Sequence[PrivateFile]) -> ContainerRecord:
        async with container.lock:
            if container.is_removed:
                raise no_such_container(container.id)
            if container.record.is_live or (container.record.state == "exited" and not container.record.config.keeps_layer):
                return container.record
            if container.watching is not None:
                await asyncio.wait([container.watching])  # it cleans up after the run before
            await self._check(container.record.config)
            async with self._starts:
                launched = await self._launch(container, files)
            record = msgspec.structs.replace(
                container.record,
                state="running",
                pid=launched.process.pid,
                started_at_ns=self._clock.now_ns(),
                exit=None,
                ended_before_ns=container.record.finished_at_ns,
            )
            saved = SavedContainer(record=record, boot=self.host.boot, process=launched.process, monitor=launched.monitor)
            container.saved = saved
            container.ended.clear()
            self._watch(container)
            try:
                container.paths.save(saved)
            except OSError as error:
                await self._kill(container)
                raise ContainerStartFailed(f"cannot write the container down: {error}") from error
        self.on_event("start", record, {})
        return record

    async def _launch(self, container: ContainerHandle, files: Sequence[PrivateFile]) -> Launched:
        config = container.record.config
        mounted = with_private_mounts(config, files, container.paths.private_files)
        write_spec = functools.partial(self._specs.make, mounted, container.paths)
        before_start = container.call_before_start
        work = functools.partial(launch, config, container.paths, self.host, self.cgroups, write_spec, files, before_start)
        try:
            return await in_new_thread(work, f"start {config.id[:12]}")
        except BaseException as error:
            await asyncio.to_thread(clean_run, config.id, container.paths, self.cgroups)
            if isinstance(error, OSError):
                raise ContainerStartFailed(f"cannot start the container: {error}") from error
            raise

    async def stop(self, container_id: str, *, grace_s: float | None = None) -> ExitStatus:
        """Send the stop signal, after the grace period SIGKILL, and return how it ended."""
        container = self.handle(container_id)
        async with container.lock:
            if container.record.state == "created":
                self._end(container, ExitStatus(finished_at_ns=self._clock.now_ns()))
        config, process = container.record.config, container.saved.process
        if not container.record.is_live or process is None:
            return await self.wait(container_id)
        async with container.lock:
            self._signal(container, process, signal_number(config.stop_signal))
        if not await self._ends_within(container, config.stop_grace_period_s if grace_s is None else grace_s):
            await self._kill(container)
        status = await self.wait(container_id)
        self.on_event("stop", container.record, {})
        return status

    async def _kill(self, container: ContainerHandle) -> None:
        """Kill the first process, and so by its PID namespace all; then what should have reported it."""
        for process in (container.saved.process, container.saved.monitor):
            if process is not None and container.record.is_live:
                self._signal(container, process, SIGKILL)
                if await self._ends_within(container, KILL_LIMIT_S):
                    return
        if not container.ended.is_set():
            raise PyswarmError(f"container {container.id[:12]} does not die of SIGKILL")

    def _signal(self, container: ContainerHandle, process: ProcessIdentity, number: int) -> bool:
        """Send a signal; False if the process has ended."""
        is_sent = send_signal(process, number)
        if is_sent:
            self.on_event("kill", container.record, {"signal": str(number)})
        if container.record.state == "paused":  # it could not see the signal
            self.cgroups.thaw(container.id)
            self.mark_paused(container.id, False)
        return is_sent

    async def _ends_within(self, container: ContainerHandle, seconds: float) -> bool:
        if container.ended.is_set():
            return True
        await wait_first(container.ended.wait(), self._clock.sleep(seconds))
        return container.ended.is_set()

    async def kill(self, container_id: str, signal: str) -> None:
        """Send a signal to the first process. Raises Conflict when it does not run, InvalidArgument for no signal."""
        container, number = self.handle(container_id), signal_number(signal)
        async with container.lock:
            if container.saved.process is None or not self._signal(container, container.saved.process, number):
                raise Conflict(f"cannot kill container: {container_id}: container {container_id} is not running")

    async def remove(self, container_id: str) -> None:
        """Kill the container and remove every trace of it; fine if there is none. Raises OSError, PyswarmError; then try again."""
        container = self._containers.get(container_id)
        if container is not None:
            await self._owned(self._remove(container))

    async def _remove(self, container: ContainerHandle) -> None:
        async with container.lock:
            if container.is_removed:
                return
            if container.record.is_live:
                await self._kill(container)
            if container.watching is not None:
                await asyncio.wait([container.watching])
            await asyncio.to_thread(clean_run, container.id, container.paths, self.cgroups)
            await self._logs.release(container.id)
            await asyncio.to_thread(container.paths.remove_all)
            self._forget(container)
        self.on_event("destroy", container.record, {})

    def _forget(self, container: ContainerHandle) -> None:
        container.is_removed = True
        self._containers.pop(container.id, None)
        self._logs.forget(container.id)
        container.ended.set()

    async def wait(self, container_id: str) -> ExitStatus:
        """Return how the container ended, as soon as it has.

        Raises Unavailable when the runtime is closed meanwhile, NotFound when the container is removed before it ended.
        """
        container = self.handle(container_id)
        await container.ended.wait()
        if container.record.exit is not None:
            return container.record.exit
        raise no_such_container(container_id) if container.is_removed else Unavailable("the container runtime is closed")

    def folders(self, container_id: str) -> ContainerFolders | None:
        """Return where the container's files lie."""
        return self.handle(container_id).paths.folders

    def warnings_about(self, config: ContainerConfig) -> list[str]:
        """Return which of its limits this host cannot keep."""
        return self._specs.warnings_about(config)

    def get(self, container_id: str) -> ContainerRecord | None:
        """Return the container as it is now, or None."""
        container = self._containers.get(container_id)
        return None if container is None else container.record

    def list(self) -> list[ContainerRecord]:
        """Return all containers, oldest first."""
        records = (container.record for container in self._containers.values())
        return sorted(records, key=lambda record: (record.created_at_ns, record.config.id))

    def logs(self, container_id: str, request: LogRequest) -> AsyncIterator[LogLine]:
        """Return the asked lines; with `follow`, the iterator ends when the container has ended."""
        return self._logs.lines(self.handle(container_id), request)

    def log_parts(self, container_id: str, request: LogRequest) -> AsyncGenerator[LogPart, None]:
        """Return the asked lines in parts, each with the position after it; else as `logs`."""
        return self._logs.parts(self.handle(container_id), request)

    def _watch(self, container: ContainerHandle) -> None:
        container.watching = asyncio.get_running_loop().create_task(self._see_end(container), name=f"watch {container.id[:12]}")

    async def _see_end(self, container: ContainerHandle) -> None:
        saved, boot = container.saved, self.host.boot
        if saved.monitor is not None and saved.boot == boot:
            await wait_process_end(saved.monitor)
        now_ns = self._clock.now_ns()
        try:
            status = await asyncio.to_thread(read_exit, saved, container.paths, self.cgroups, boot, now_ns)
        except TimeoutError as error:
            status = ExitStatus(exit_code=137, error=str(error), finished_at_ns=now_ns)
        try:
            self._end(container, status)
            # Only now: until the end is written down, the exit code lies in what is cleaned up here.
            await asyncio.to_thread(clean_run, container.id, container.paths, self.cgroups)
        except OSError as error:
            _log.warning("container.not_cleaned", container=container.id, error=str(error))

    def _end(self, container: ContainerHandle, status: ExitStatus) -> None:
        was_live = container.record.is_live
        container.saved = as_exited(container.saved, status)
        try:
            container.paths.save(container.saved)
        finally:
            if was_live:
                if status.oom_killed:
                    self.on_event("oom", container.record, {})
                self.on_event("die", container.record, {"exitCode": str(status.exit_code)})
            container.ended.set()

    def mark_paused(self, container_id: str, is_paused: bool) -> None:
        """Write down that a container was frozen, or goes on. Raises NotFound, OSError."""
        container = self.handle(container_id)
        if container.record.is_live:
            record = msgspec.structs.replace(container.record, state="paused" if is_paused else "running")
            container.saved = msgspec.structs.replace(container.saved, record=record)
            self.on_event("pause" if is_paused else "unpause", record, {})
            container.paths.save(container.saved)

    def handle(self, container_id: str) -> ContainerHandle:
        """Return the container itself, for who reaches into it. Raises NotFound."""
        container = self._containers.get(container_id)
        if container is None:
            raise no_such_container(container_id)
        return container

    async def _owned(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry something out to its end, even when the caller is cancelled: `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)
        return await asyncio.shield(task)


def _write_new(container: ContainerHandle) -> None:
    config = container.record.config
    container.paths.make_home(config.layer_paths)
    if config.keeps_layer:
        container.paths.save_lasting(config, container.record.created_at_ns)
    container.paths.save(container.saved)
