"""`ContainerAccess`: reaching into the containers that `ContainerRuntime` runs.

A process that is started here lives as long as it likes in its container, but not longer than the daemon that holds its
streams: a daemon that stops ends it, one that is killed leaves it with closed streams (a terminal hangs up), and the next
one ends what is still there.
"""

import asyncio
import contextlib
import functools
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from pyswarm_agent.runtime import kernel_calls
from pyswarm_agent.runtime.access.attachment import Attachment, connect_monitor, resize_first_process
from pyswarm_agent.runtime.access.exec_process import exec_process
from pyswarm_agent.runtime.access.exec_start import PID_FILE, StartedProcess, exec_folder, start_exec
from pyswarm_agent.runtime.access.execution import ContainerExecution, kill_members
from pyswarm_agent.runtime.access.figures import read_figures
from pyswarm_agent.runtime.access.interface import (
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
from pyswarm_agent.runtime.access.process_tree import place_of
from pyswarm_agent.runtime.access.roots import open_live_root, stopped_root
from pyswarm_agent.runtime.container_runtime import ContainerRuntime
from pyswarm_agent.runtime.freezer import freeze, is_frozen
from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.process_user import ProcessUser, resolve_user
from pyswarm_agent.runtime.processes import ProcessIdentity, identify
from pyswarm_agent.runtime.threads import in_new_thread
from pyswarm_common.errors import Conflict

PARALLEL_STARTS = 4
_ACCOUNT_FILE_LIMIT_BYTES = 4 * 1024 * 1024


class ContainerAccess:
    """Implements `Access` for the containers of a runtime that is started."""

    def __init__(self, runtime: ContainerRuntime) -> None:
        self._runtime = runtime
        self._executions: set[ContainerExecution] = set()
        self._attachments: set[Attachment] = set()
        self._starts = asyncio.Semaphore(PARALLEL_STARTS)

    async def start(self) -> None:
        """Find paused containers again and end the processes that an earlier daemon has left in containers."""
        live = [self._runtime.handle(record.config.id) for record in self._runtime.list() if record.is_live]
        for container in live:
            # Between the freezing and the writing down of it, the earlier daemon may have been killed.
            is_paused = await asyncio.to_thread(is_frozen, self._runtime.cgroups, container.id)
            if is_paused != (container.record.state == "paused"):
                self._runtime.mark_paused(container.id, is_paused)
        await asyncio.to_thread(self._end_left, live)

    async def close(self) -> None:
        """End all processes that were started here, and let go of all streams."""
        executions = list(self._executions)
        await asyncio.gather(*(execution.kill() for execution in executions))
        for execution in executions:
            execution.end()
        for attachment in list(self._attachments):
            attachment.end()

    async def execute(self, container_id: str, config: ExecConfig, size: TerminalSize | None = None) -> ContainerExecution:
        """Start a process in the container. Raises ContainerStartFailed (126, 127) when it cannot be started."""
        return await self._execute(container_id, config, size, merges_output=False)

    async def run(self, container_id: str, config: ExecConfig, *, timeout_s: float, output_limit_bytes: int = 4096) -> Finished:
        """Run a process to its end; kill it and raise TimeoutError when that takes longer than `timeout_s`."""
        output = bytearray()
        async with asyncio.timeout(timeout_s):
            execution = await self._execute(container_id, config, None, merges_output=True)
            try:
                async for _, data in execution.output(grace_s=0.0):
                    output += data[: output_limit_bytes - len(output)]
                return Finished(await execution.wait(), bytes(output))
            finally:
                await self._finish(execution)

    async def attach(self, container_id: str, *, takes_input: bool) -> Attachment:
        """Return the streams of the container's first process, from now or from its next start on. Raises Conflict."""
        container = self._runtime.handle(container_id)
        resize = functools.partial(self.resize, container_id)
        config, forget = container.record.config, self._attachments.discard
        attachment = Attachment(config, takes_input=takes_input, resize=resize, on_end=forget)
        async with container.lock:
            if require_attachable(container.record).is_live:
                attachment.connect(await asyncio.to_thread(_connect, container))
            else:
                loop = asyncio.get_running_loop()
                container.before_start.append(functools.partial(_connect_at_start, container, attachment, loop))
        self._attachments.add(attachment)
        return attachment

    async def resize(self, container_id: str, size: TerminalSize) -> None:
        """Tell the terminal of the container's first process its size."""
        container = self._runtime.handle(container_id)
        if not require_live(container.record).config.tty:
            raise no_terminal("container")
        with contextlib.suppress(OSError):  # it has just ended
            await asyncio.to_thread(resize_first_process, container.paths, size)

    async def pause(self, container_id: str) -> None:
        """Freeze all processes of the container. Raises Conflict when it is paused already, PyswarmError, OSError."""
        container = self._runtime.handle(container_id)
        async with container.lock:
            if require_live(container.record).state == "paused":
                raise already_paused(container_id)
            await asyncio.to_thread(freeze, self._runtime.cgroups, container_id)
            self._runtime.mark_paused(container_id, True)

    async def unpause(self, container_id: str) -> None:
        """Let them go on. Raises Conflict when the container is not paused, OSError."""
        container = self._runtime.handle(container_id)
        async with container.lock:
            if require_live(container.record).state != "paused":
                raise not_paused(container_id)
            await asyncio.to_thread(self._runtime.cgroups.thaw, container_id)
            self._runtime.mark_paused(container_id, False)

    async def pids(self, container_id: str) -> list[int]:
        """Return the ids of the container's processes as the host sees them, sorted."""
        require_live(self._runtime.handle(container_id).record)
        return sorted(await asyncio.to_thread(self._runtime.cgroups.processes, container_id))

    @contextlib.asynccontextmanager
    async def root(self, container_id: str) -> AsyncIterator[ContainerRoot]:
        """Hold a container's root, of one that does not run too: that cannot be started meanwhile. Raises Conflict, OSError."""
        container = self._runtime.handle(container_id)
        async with container.lock:
            if not container.record.is_live:
                await asyncio.to_thread(container.paths.make_writable_layer, keeps=True)
                yield stopped_root(container)
                return
            descriptor = open_live_root(container)
        try:
            yield ContainerRoot({"descriptor": descriptor}, (descriptor,))
        finally:
            os.close(descriptor)

    async def figures(self, container_id: str) -> Figures:
        """Return what the container uses now."""
        record = require_live(self._runtime.handle(container_id).record)
        return await asyncio.to_thread(read_figures, record, self._runtime.cgroups)

    async def _finish(self, execution: ContainerExecution) -> None:
        """Kill a process if it still runs, to the end even when the caller is cancelled, and close its streams."""
        try:
            if execution.is_running:
                await asyncio.shield(asyncio.ensure_future(execution.kill()))
        finally:
            execution.end()

    async def _execute(
        self, container_id: str, config: ExecConfig, size: TerminalSize | None, *, merges_output: bool
    ) -> ContainerExecution:
        container = self._runtime.handle(container_id)
        first = _first_process(container)
        started: list[StartedProcess] = []

        def work() -> None:
            process = self._describe(container, first, config, size)
            started.append(
                start_exec(
                    container_id,
                    process,
                    container.paths,
                    self._runtime.host,
                    takes_input=config.takes_input,
                    merges_output=merges_output,
                )
            )

        async with self._starts:
            try:
                await in_new_thread(work, f"exec {container_id[:12]}")
            except asyncio.CancelledError:
                for process in started:
                    await self._abandon(self._made(process, container_id))
                raise
        return self._made(started[0], container_id)

    def _made(self, started: StartedProcess, container_id: str) -> ContainerExecution:
        execution = ContainerExecution(started, container_id, self._runtime.cgroups, self._executions.discard)
        self._executions.add(execution)
        return execution

    async def _abandon(self, execution: ContainerExecution) -> None:
        await self._finish(execution)

    def _describe(
        self, container: ContainerHandle, first: ProcessIdentity, config: ExecConfig, size: TerminalSize | None
    ) -> dict[str, Any]:
        spec = msgspec.json.decode((container.paths.bundle / "config.json").read_bytes())["process"]
        asks_home = any(variable.startswith("HOME=") for variable in container.record.config.env)
        return exec_process(
            spec,
            config,
            _user_of(spec, config.user, first),
            sets_home=not asks_home,
            privileged_capabilities=self._runtime.host.capabilities,
            size=size,
        )

    def _end_left(self, containers: list[ContainerHandle]) -> None:
        for container in containers:
            folder = exec_folder(container.paths)
            with contextlib.suppress(FileNotFoundError):
                for left in list(folder.iterdir()):
                    self._end_one_left(container, left)

    def _end_one_left(self, container: ContainerHandle, left: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            pid = int((left / PID_FILE).read_text())
            if pid in self._runtime.cgroups.processes(container.id) - {container.record.pid}:
                kill_members(pid, place_of(pid), container.id, self._runtime.cgroups)
        shutil.rmtree(left, ignore_errors=True)


def _first_process(container: ContainerHandle) -> ProcessIdentity:
    """Return the first process of a container that runs. Raises Conflict."""
    require_running(container.record, "exec")
    assert container.saved.process is not None
    return container.saved.process


def _connect(container: ContainerHandle) -> socket.socket:
    try:
        return connect_monitor(container.paths)
    except OSError as error:
        raise Conflict(f"Container {container.id} is not running: {error}") from error


def _connect_at_start(container: ContainerHandle, attachment: Attachment, loop: asyncio.AbstractEventLoop) -> None:
    """Runs in the thread that starts the container."""
    if not attachment.is_closed:
        with contextlib.suppress(Conflict):
            loop.call_soon_threadsafe(attachment.connect, _connect(container))


def _user_of(spec: dict[str, Any], user: str, first: ProcessIdentity) -> ProcessUser:
    """Return whom to run as: the first process's user, or another that is looked up in the container's own files."""
    root = f"/proc/{first.pid}/root"
    try:
        texts = [kernel_calls.read_in_root(root, f"etc/{name}", _ACCOUNT_FILE_LIMIT_BYTES) for name in ("passwd", "group")]
    except OSError:
        texts = [None, None]
    if identify(first.pid) != first:
        raise Conflict("the container has just ended")
    passwd, group = ((text or b"").decode(errors="replace") for text in texts)
    if user:
        return resolve_user(user, (), passwd, group)
    own = spec["user"]
    extra = tuple(own.get("additionalGids", ()))
    return ProcessUser(own["uid"], own["gid"], extra, resolve_user(str(own["uid"]), (), passwd, group).home)
