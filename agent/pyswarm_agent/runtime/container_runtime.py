"""`ContainerRuntime`: the containers of one node, by crun (or runc) under conmon.

It keeps a record of each container in memory and on disk, and one watching task for each that runs. What blocks runs in
threads: the start of a container (at most four at once; more bring nothing) in `launch`, its end in `ending`. It decides
nothing about restarts: that is the orchestrator's.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from pyswarm_agent.runtime.capabilities import DEFAULT_CAPABILITIES, container_capabilities
from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_agent.runtime.ending import as_exited, clean_run, read_exit, recover
from pyswarm_agent.runtime.file_watch import FileWatcher
from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.host import WANTED_OPEN_FILES, Host, inspect_host
from pyswarm_agent.runtime.interface import ContainerStartFailed, no_such_container
from pyswarm_agent.runtime.launch import Launched, launch
from pyswarm_agent.runtime.log_reader import read_log
from pyswarm_agent.runtime.oci_spec import build_oci_spec
from pyswarm_agent.runtime.paths import ContainerPaths, SavedContainer
from pyswarm_agent.runtime.process_user import ProcessUser
from pyswarm_agent.runtime.processes import send_signal, wait_process_end
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord, ExitStatus
from pyswarm_agent.runtime.seccomp_compile import SeccompCache
from pyswarm_agent.runtime.seccomp_profile import oci_seccomp, profile_rules
from pyswarm_agent.runtime.signals import signal_number
from pyswarm_agent.runtime.threads import in_new_thread
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Conflict, InvalidArgument, PyswarmError, Unavailable
from pyswarm_common.wire import LogLine, LogRequest

PARALLEL_STARTS = 4
KILL_LIMIT_S = 10.0
"""How long a container may take to die of SIGKILL."""

T = TypeVar("T")
_log = structlog.get_logger()


class ContainerRuntime:
    """Implements `Runtime`. `instance_tag` keeps the cgroups of several daemons on one machine apart."""

    def __init__(
        self, *, data_dir: Path, runtime_dir: Path, instance_tag: str, cgroup_parent: str = "pyswarm", clock: Clock
    ) -> None:
        self._data_dir = data_dir
        self._runtime_dir = runtime_dir
        self._cgroup_path = f"/{cgroup_parent}-{instance_tag}"
        self._clock = clock
        self._containers: dict[str, ContainerHandle] = {}
        self._operations: set[asyncio.Task[Any]] = set()
        self._starts = asyncio.Semaphore(PARALLEL_STARTS)
        self._watcher = FileWatcher()
        self._told: set[str] = set()

    async def start(self) -> None:
        """Find the containers of an earlier daemon again; must come first.

        Raises PyswarmError when this host cannot run containers, OSError.
        """
        self.host: Host = inspect_host()
        self.cgroups = Cgroups(self.host.layout, self._cgroup_path)
        self._seccomp = SeccompCache(self._runtime_dir / "seccomp", self.host.machine)
        found = await asyncio.to_thread(self._prepare)
        for paths, saved in found:
            container = self._containers[saved.record.config.id] = ContainerHandle(paths, saved)
            if saved.record.state == "running":
                self._watch(container)

    def _prepare(self) -> list[tuple[ContainerPaths, SavedContainer]]:
        # Writable layers hold set-uid files that the host's other users must not reach.
        (self._data_dir / "containers").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.cgroups.ensure_monitor()
        self._limits_swap = self.cgroups.supports_swap_limit()
        if self.host.is_crun:
            self._seccomp.program_base64(DEFAULT_CAPABILITIES & self.host.capabilities)
        if self.host.open_files_limit < WANTED_OPEN_FILES:
            self._tell_once(f"containers can open {self.host.open_files_limit} files, the most that this host allows")
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
        self._watcher.close()
        await asyncio.to_thread(self.cgroups.remove_parent_if_empty)

    async def create(self, config: ContainerConfig) -> ContainerRecord:
        """Write down a container; one that exists already is returned as it is. Raises InvalidArgument, OSError."""
        container = self._containers.get(config.id)
        if container is None:
            self._check(config)
            record = ContainerRecord(config=config, created_at_ns=self._clock.now_ns())
            paths = ContainerPaths(self._data_dir, self._runtime_dir, config.id)
            container = self._containers[config.id] = ContainerHandle(paths, SavedContainer(record=record))
            await self._owned(self._write_new(container))
        async with container.lock:
            return container.record

    async def _write_new(self, container: ContainerHandle) -> None:
        async with container.lock:
            try:
                await asyncio.to_thread(_write_new, container)
            except OSError:
                self._forget(container)
                raise

    def _check(self, config: ContainerConfig) -> None:
        signal_number(config.stop_signal)
        container_capabilities(config.cap_add, config.cap_drop, self.host.capabilities)
        if not config.args:
            raise InvalidArgument("no command specified")
        if not config.layer_paths:
            raise InvalidArgument(f"the image {config.image} has no layers")
        for mount in config.mounts:
            if mount.type == "bind" and not Path(mount.source).exists():
                raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {mount.source}')

    async def start_container(self, container_id: str) -> ContainerRecord:
        """Return once the container's process runs; at once when it already does or has ended. Raises ContainerStartFailed."""
        return await self._owned(self._start(self.handle(container_id)))

    async def _start(self, container: ContainerHandle) -> ContainerRecord:
        async with container.lock:
            if container.is_removed:
                raise no_such_container(container.id)
            if container.record.state != "created":
                return container.record
            async with self._starts:
                launched = await self._launch(container)
            record = msgspec.structs.replace(
                container.record, state="running", pid=launched.process.pid, started_at_ns=self._clock.now_ns()
            )
            saved = SavedContainer(record=record, boot=self.host.boot, process=launched.process, monitor=launched.monitor)
            container.saved = saved
            container.paths.save(saved)
            self._watch(container)
            return record

    async def _launch(self, container: ContainerHandle) -> Launched:
        config = container.record.config
        write_spec = functools.partial(self._write_spec, container)
        work = functools.partial(launch, config, container.paths, self.host, self.cgroups, write_spec)
        try:
            return await in_new_thread(work, f"start {config.id[:12]}")
        except BaseException as error:
            await asyncio.to_thread(clean_run, config.id, container.paths, self.cgroups)
            if isinstance(error, OSError):
                raise ContainerStartFailed(f"cannot start the container: {error}") from error
            raise

    def _write_spec(self, container: ContainerHandle, user: ProcessUser, netns_path: str | None) -> bytes:
        config = container.record.config
        held, missing = container_capabilities(config.cap_add, config.cap_drop, self.host.capabilities)
        for name in sorted(missing):
            self._tell_once(f"this host cannot give containers {name}")
        machine, is_crun = self.host.machine, self.host.is_crun
        spec = build_oci_spec(
            config,
            host=self.host,
            user=user,
            capabilities=held,
            bundle=container.paths.bundle,
            netns_path=netns_path,
            cgroup_path=self.cgroups.path_of(config.id),
            seccomp_program=self._seccomp.program_base64(held) if is_crun else None,
            seccomp_rules=None if is_crun else oci_seccomp(profile_rules(held, machine), machine),
            limits_swap=self._limits_swap,
        )
        return msgspec.json.encode(spec)

    async def stop(self, container_id: str, *, grace_s: float | None = None) -> ExitStatus:
        """Send the stop signal, after the grace period SIGKILL, and return how it ended."""
        container = self.handle(container_id)
        async with container.lock:
            if container.record.state == "created":
                self._end(container, ExitStatus(finished_at_ns=self._clock.now_ns()))
        config, process = container.record.config, container.saved.process
        if container.record.state == "running" and process is not None:
            send_signal(process, signal_number(config.stop_signal))
            if not await self._ends_within(container, config.stop_grace_period_s if grace_s is None else grace_s):
                await self._kill(container)
        return await self.wait(container_id)

    async def _kill(self, container: ContainerHandle) -> None:
        """Kill the first process, and so by its PID namespace all; then what should have reported it."""
        for process in (container.saved.process, container.saved.monitor):
            if process is not None and container.record.state == "running":
                send_signal(process, signal_number("SIGKILL"))
                if await self._ends_within(container, KILL_LIMIT_S):
                    return
        if not container.ended.is_set():
            raise PyswarmError(f"container {container.id[:12]} does not die of SIGKILL")

    async def _ends_within(self, container: ContainerHandle, seconds: float) -> bool:
        if container.ended.is_set():
            return True
        loop = asyncio.get_running_loop()
        ended, late = loop.create_task(container.ended.wait()), loop.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait((ended, late), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            late.cancel()
        return container.ended.is_set()

    async def kill(self, container_id: str, signal: str) -> None:
        """Send a signal to the first process. Raises Conflict when it does not run, InvalidArgument for no signal."""
        container, number = self.handle(container_id), signal_number(signal)
        if container.saved.process is None or not send_signal(container.saved.process, number):
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
            if container.record.state == "running":
                await self._kill(container)
            if container.watching is not None:
                await asyncio.wait([container.watching])
            await asyncio.to_thread(clean_run, container.id, container.paths, self.cgroups)
            await asyncio.to_thread(container.paths.remove_all)
            self._forget(container)

    def _forget(self, container: ContainerHandle) -> None:
        container.is_removed = True
        self._containers.pop(container.id, None)
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
        container = self.handle(container_id)
        return read_log(container.paths.log, request, self._watcher, container.ended)

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
        self._end(container, status)
        try:
            await asyncio.to_thread(clean_run, container.id, container.paths, self.cgroups)
        except OSError as error:
            _log.warning("container.not_cleaned", container=container.id, error=str(error))

    def _end(self, container: ContainerHandle, status: ExitStatus) -> None:
        container.saved = as_exited(container.saved, status)
        try:
            container.paths.save(container.saved)
        finally:
            container.ended.set()

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

    def _tell_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning("runtime.limited", what=what)


def _write_new(container: ContainerHandle) -> None:
    container.paths.make_home(container.record.config.layer_paths)
    container.paths.save(container.saved)
