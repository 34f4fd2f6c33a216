"""Keeps the logs of a node's containers within their limits.

One timer for all: every second it looks how long each running container's file is (a `stat` each, in a thread), and has
`log_rotation` say what to do about those that are too long or unfinished. So a file may grow beyond its limit by what is written
within a second; for some seconds after a rotation, it looks every 0.2 s. Nobody waits for it: conmon writes whether it runs or not.
"""

import asyncio
import errno
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.log_files import LogFiles
from pyswarm_agent.runtime.log_rotation import (
    PATIENT_GLANCES,
    Compress,
    Link,
    MonitorGlance,
    Reopen,
    Step,
    is_certainly_not_told,
    plan_rotation,
)
from pyswarm_agent.runtime.log_steps import carry_out, compress, glance_at, look_at
from pyswarm_agent.runtime.threads import in_new_thread
from pyswarm_common.clock import Clock
from pyswarm_common.log_drivers import LogLimits, log_limits

PERIOD_S = 1.0
BUSY_PERIOD_S = 0.2
BUSY_S = 5.0
RETRY_S = 60.0
"""How long after a failed compression, as on a full disk, the next is tried."""

_log = structlog.get_logger()


class _Archive(NamedTuple):
    container_id: str
    number: int


class _Rotation(NamedTuple):
    """The change of one conmon from a file, the archive with this number, to the next."""

    container_id: str
    number: int
    monitor_pid: int


class LogKeeper:
    """Rotates, compresses and drops log files; `run` it for as long as the runtime runs."""

    def __init__(
        self,
        containers: Callable[[], Iterable[ContainerHandle]],
        clock: Clock,
        perform: Callable[[Step, LogFiles, Path], None] = carry_out,
    ) -> None:
        self._containers = containers
        self._perform = perform
        self._clock = clock
        self._settled: dict[str, bool] = {}
        """Logs whose files are in order, and whether their containers ran then: only a longer file or an end changes that."""
        self._begun: set[_Rotation] = set()
        self._sent: set[_Rotation] = set()
        self._glances: dict[_Rotation, list[MonitorGlance]] = {}
        self._uncompressed: dict[_Archive, LogFiles] = {}
        self._released: set[str] = set()
        self._compressing = ""
        self._stop = threading.Event()
        self._turn = asyncio.Lock()
        self._compressor_turn = asyncio.Lock()
        self._has_work = asyncio.Event()
        self._told: set[str] = set()

    async def run(self) -> None:
        """Tend all logs until cancelled."""
        compressor = asyncio.ensure_future(self._compress_all())
        try:
            busy_until_s = 0.0
            while True:
                async with self._turn:
                    chosen = [handle for handle in self._containers() if self._needs_look(handle)]
                    is_busy = await in_new_thread(partial(self.tend_all, chosen), "logs") if chosen else False
                if self._uncompressed:
                    self._has_work.set()
                now_s = self._clock.monotonic_s()
                busy_until_s = now_s + BUSY_S if is_busy else busy_until_s
                await self._clock.sleep(BUSY_PERIOD_S if now_s < busy_until_s else PERIOD_S)
        finally:
            self._stop.set()
            compressor.cancel()
            await asyncio.gather(compressor, return_exceptions=True)

    async def release(self, container_id: str) -> None:
        """Touch this container's log no more: it is being removed. Returns once nothing is under way."""
        self._released.add(container_id)
        async with self._turn:
            pass
        if self._compressing == container_id:
            async with self._compressor_turn:
                pass

    def forget(self, container_id: str) -> None:
        """The container is gone. Others' logs may be tended meanwhile, by a thread: what it notes must not be lost."""
        self._settled.pop(container_id, None)
        self._released.discard(container_id)
        self._told.discard(container_id)
        for rotation in [rotation for rotation in tuple(self._begun) if rotation.container_id == container_id]:
            self._begun.discard(rotation)
            self._sent.discard(rotation)
        for rotation in [rotation for rotation in tuple(self._glances) if rotation.container_id == container_id]:
            self._glances.pop(rotation, None)
        for archive in [archive for archive in tuple(self._uncompressed) if archive.container_id == container_id]:
            self._uncompressed.pop(archive, None)

    def _needs_look(self, handle: ContainerHandle) -> bool:
        if handle.is_removed or handle.id in self._released or handle.record.state == "created":
            return False
        is_running = handle.record.is_live
        return is_running or self._settled.get(handle.id) is not is_running

    def tend_all(self, handles: list[ContainerHandle]) -> bool:
        """Look at these logs; return whether one of them is being rotated. Blocking."""
        is_busy = False
        for handle in handles:
            try:
                is_busy |= self._tend(handle)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENXIO):  # removed, or conmon ended meanwhile
                    self._tell_once(handle, error)
            except Exception as error:  # noqa: BLE001  one odd log (an option that an earlier version took) is not the others' fault
                self._tell_once(handle, error)
        return is_busy

    def _tend(self, handle: ContainerHandle) -> bool:
        config = handle.record.config
        limits = log_limits(config.log.driver, config.log.options)
        is_running = handle.record.is_live
        if limits is None:
            self._settled[handle.id] = is_running
            return False
        files = LogFiles(handle.paths.log)
        if self._settled.get(handle.id) is is_running and not 0 < limits.max_size_bytes <= files.path.stat().st_size:
            return False
        return self._bring_in_order(handle, files, limits)

    def _bring_in_order(self, handle: ContainerHandle, files: LogFiles, limits: LogLimits) -> bool:
        self._settled.pop(handle.id, None)
        is_running, monitor = handle.record.is_live, handle.saved.monitor
        state = look_at(files, is_written=is_running, may_reopen=False)
        newest = state.archives[-1].number if state.archives else 0
        rotation = _Rotation(handle.id, newest, monitor.pid if monitor is not None else 0)
        if state.is_linked and is_running and rotation not in self._sent:
            state = look_at(files, is_written=True, may_reopen=self._may_reopen(handle, rotation))
        steps = plan_rotation(state, limits)
        for step in steps:
            match step:
                case Compress(number=number):
                    self._uncompressed.setdefault(_Archive(handle.id, number), files)
                    continue
                case Link(number=number):
                    rotation = rotation._replace(number=number)
                    self._sent.discard(rotation)
            self._perform(step, files, handle.paths.bundle / "ctl")
            match step:
                case Link():
                    self._begun.add(rotation)
                case Reopen():
                    self._sent.add(rotation)
        if not steps and not state.is_linked:
            self._settled[handle.id] = is_running
        self._told.discard(handle.id)
        return is_running and (state.is_linked or any(isinstance(step, Reopen) for step in steps))

    def _may_reopen(self, handle: ContainerHandle, rotation: _Rotation) -> bool:
        """Whether conmon has certainly not been told to reopen a file that was found linked."""
        if rotation in self._begun:
            return True
        glance = glance_at(handle.paths.bundle / "ctl", rotation.monitor_pid)
        glances = self._glances.setdefault(rotation, [])
        if glance is not None:
            glances[:] = [*glances[1 - PATIENT_GLANCES :], glance]
        return is_certainly_not_told(glances)

    async def _compress_all(self) -> None:
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self._uncompressed:
                archive, files = next(iter(self._uncompressed.items()))
                is_done = await self._compress(archive, files)
                self._uncompressed.pop(archive, None)
                if not is_done:
                    await self._clock.sleep(RETRY_S)

    async def _compress(self, archive: _Archive, files: LogFiles) -> bool:
        """Compress one archive; False when the disk would not have it."""
        container_id = archive.container_id
        if container_id in self._released:
            return True
        async with self._compressor_turn:
            self._compressing = container_id
            try:
                await in_new_thread(
                    lambda: compress(files, archive.number, lambda: self._stop.is_set() or container_id in self._released),
                    "compress log",
                )
            except FileNotFoundError:  # dropped or removed meanwhile
                return True
            except OSError as error:
                _log.warning("log.not_compressed", container=container_id, error=str(error))
                return False
            finally:
                self._compressing = ""
        return True

    def _tell_once(self, handle: ContainerHandle, error: Exception) -> None:
        """Say once what keeps a log from being rotated: it is tried again each second."""
        if handle.id not in self._told:
            self._told.add(handle.id)
            _log.warning("log.not_rotated", container=handle.id, error=str(error))
