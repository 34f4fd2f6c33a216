"""The etcd member of this manager: a child process that is started, watched, restarted and stopped.

It may be killed at any time, and so may this process; the next start on the same directories goes on where it was. What that takes:
  * the child dies with the thread that started it, so start it from the main thread's event loop; should one have been left behind
    all the same (we were killed before it asked for that, or it is slow to die), it is found by its working directory and killed;
  * a socket left behind is removed first: etcd 3.4 would find its address in use;
  * an etcd that is killed in its very first start, after it made its log and before it wrote itself into it, never serves again: it
    knows no voters. A founder whose data never served is therefore begun anew, the rest set aside (nothing was acknowledged);
  * an exit that nobody asked for is followed by a restart, with growing pauses as long as it keeps exiting. Not so when the cluster
    removed the member or its data is lost or damaged (damage.py): then it must not run, and `wait_failed` says so.
"""

import asyncio
import contextlib
import errno
import os
import select
import shutil
import signal
import socket
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import structlog

from pyswarm_common.disk_space import is_disk_full
from pyswarm_common.errors import Conflict, Unavailable
from pyswarm_common.files import write_atomically
from pyswarm_common.waiting import wait_first
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.damage import DataDamaged, DataLost, DataUnusable, MemberRemoved, Verdict, judge_exit, missing_data
from pyswarm_manager.etcd.settings import DEFAULT_PEER_PORT, EtcdSettings, check_version

_log = structlog.get_logger(__name__)
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
SERVING_POLL_S = 0.02
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
FULL_DISK_PAUSE_S = 30.0
SPACE_POLL_S = 0.5
HEALTHY_AFTER_S = 10.0
EXITS_AT_START = 5
DAMAGED_EXITS = 2
"""How often it must exit with words of damage: a disk may have misread once."""
LOG_LIMIT_BYTES = 8 << 20
_LOG_TAIL_BYTES = 2000
_JUDGED_LOG_BYTES = 256 << 10
_PORTS_TO_TRY = 1000


class EtcdMember:
    """Supervises one etcd. `start` and `stop` it, or use it as an async context manager."""

    def __init__(self, settings: EtcdSettings) -> None:
        self.settings = settings
        self.restarts = 0
        """How often it exited unasked."""
        self._exits: Counter[Verdict] = Counter()
        self._log_start_bytes = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._is_restart_asked = False
        self._has_begun = asyncio.Event()
        """Set while the child runs that was started last."""
        self._process: asyncio.subprocess.Process | None = None
        self._pidfd: int | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._pidfd is not None and self._process is not None else None

    @property
    def socket_path(self) -> str:
        """Where an `EtcdClient` connects to."""
        return str(self.settings.socket_path)

    async def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the member and return when it serves.

        Raises FailedPrecondition (etcd is missing or unfit), Unavailable with the end of its log (it keeps exiting, or does not
        serve within `timeout_s`), and what `wait_failed` raises; it does not run then.
        """
        self.settings.check()
        await check_version(self.settings.binary)
        for directory in (self.settings.data_dir, self.settings.runtime_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self.restarts = 0
        self._exits.clear()
        self._refuse_lost_data()
        self._supervisor = asyncio.create_task(self._supervise())
        try:
            async with asyncio.timeout(timeout_s):
                await wait_first(self.wait_failed(), self._wait_serving())
            write_atomically(self.settings.bootstrapped_path, b"")
        except TimeoutError:
            await self.stop()
            raise Unavailable(f"etcd did not start within {timeout_s:g} s: {self._log_tail()}") from None
        except BaseException:
            await self.stop()
            raise

    async def restart(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """End the child and start it again, as when its roots have changed; return when it serves and knows a raft leader.

        Raises Unavailable when it does not within `timeout_s`; it is then still being started.
        """
        pidfd = self._pidfd
        self.restarts = 0
        self._has_begun.clear()
        if pidfd is not None:
            self._is_restart_asked = True
            with contextlib.suppress(ProcessLookupError, OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await wait_first(self._has_begun.wait(), asyncio.sleep(STOP_TIMEOUT_S))
                if not self._has_begun.is_set():
                    self.kill()
                    await self._has_begun.wait()
                await self._wait_serving(with_leader=True)
        except TimeoutError:
            raise Unavailable(f"etcd did not restart within {timeout_s:g} s: {self._log_tail()}") from None

    async def wait_failed(self) -> NoReturn:
        """Raise MemberRemoved, DataLost or DataDamaged when the member can run no more; for ever otherwise."""
        assert self._supervisor is not None
        await asyncio.shield(self._supervisor)
        raise AssertionError("the supervisor ends by failing only")

    async def stop(self) -> None:
        """End the member: SIGTERM, and after 10 s SIGKILL. Stopping twice is no error."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError, MemberRemoved, DataUnusable):
                await supervisor

    def kill(self) -> None:
        """SIGKILL the child, from any thread; it is then restarted. The watchdog's means."""
        pidfd = self._pidfd
        if pidfd is not None:
            with contextlib.suppress(ProcessLookupError, OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    async def __aenter__(self) -> "EtcdMember":
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _wait_serving(self, *, with_leader: bool = False) -> None:
        async with EtcdClient(self.socket_path) as client:
            while True:
                if self.restarts >= EXITS_AT_START:
                    raise Unavailable(f"etcd cannot be started: {self._log_tail()}")
                try:
                    if (await client.status()).leader_id or not with_leader:
                        return
                except Unavailable:
                    pass
                await asyncio.sleep(SERVING_POLL_S)

    async def _supervise(self) -> None:
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            try:
                code = await self._run_once()
            except OSError as error:
                _log.error("etcd.cannot_run", error=str(error))
                code = -1
            if self._is_restart_asked:
                self._is_restart_asked = False
                continue
            self.restarts += 1
            if loop.time() - started_s > HEALTHY_AFTER_S:
                pause_s = FIRST_PAUSE_S
                self._exits[Verdict.PANICKED] = 0
            self._judge(code)
            _log.warning("etcd.exited", code=code, restart_in_s=pause_s, log=self._log_tail())
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _pause(self, pause_s: float) -> None:
        """Wait so long; on a full disk until there is room, as a start would fail again."""
        until_s = asyncio.get_running_loop().time() + FULL_DISK_PAUSE_S
        await asyncio.sleep(pause_s)
        while asyncio.get_running_loop().time() < until_s:
            if not is_disk_full(self.settings.data_dir):
                return
            await asyncio.sleep(SPACE_POLL_S)

    def _judge(self, code: int) -> None:
        """Raise MemberRemoved, DataLost or DataDamaged unless the member may be started again."""
        if is_disk_full(self.settings.data_dir):
            return  # it could write neither its data nor its last words
        verdict, words = judge_exit(code, self._log_of_this_run())
        self._exits[verdict] += 1
        if verdict is Verdict.REMOVED:
            raise MemberRemoved("the cluster has removed this manager: its etcd member may not come back")
        if self._exits[Verdict.DAMAGED] >= DAMAGED_EXITS or self._exits[Verdict.PANICKED] >= EXITS_AT_START:
            raise DataDamaged(self.settings.data_dir, words)
        self._refuse_lost_data()

    def _refuse_lost_data(self) -> None:
        missing = missing_data(self.settings.etcd_dir)
        if missing is not None and self.settings.bootstrapped_path.exists():
            raise DataLost(self.settings.data_dir, missing)

    async def _run_once(self) -> int:
        """Run the child until it exits; end it when cancelled."""
        await asyncio.to_thread(end_left_behind, self.settings.runtime_dir)
        self._set_unfinished_aside()
        self.settings.socket_path.unlink(missing_ok=True)
        self._rotate_log()
        with self.settings.log_path.open("ab") as log:
            self._log_start_bytes = log.tell()
            process = await asyncio.create_subprocess_exec(
                *self.settings.command(),
                cwd=self.settings.runtime_dir,
                env=self.settings.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._process = process
        try:
            self._pidfd = os.pidfd_open(process.pid)
            self._has_begun.set()
            return await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            pidfd, self._pidfd = self._pidfd, None
            if pidfd is not None:
                os.close(pidfd)

    def _set_unfinished_aside(self) -> None:
        settings = self.settings
        if settings.founds_a_cluster and settings.etcd_dir.exists() and not settings.bootstrapped_path.exists():
            aside = settings.etcd_dir.with_suffix(".unfinished")
            _log.warning("etcd.unfinished_start", set_aside=str(aside))
            shutil.rmtree(aside, ignore_errors=True)
            settings.etcd_dir.rename(aside)

    def _rotate_log(self) -> None:
        path = self.settings.log_path
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))

    def _log_of_this_run(self) -> str:
        path = self.settings.log_path
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(max(self._log_start_bytes, path.stat().st_size - _JUDGED_LOG_BYTES))
            return log.read().decode(errors="replace")

    def _log_tail(self) -> str:
        path = self.settings.log_path
        if not path.exists():
            return "(no log)"
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def end_left_behind(runtime_dir: Path) -> None:
    """SIGKILL an etcd of an earlier run whose working directory is `runtime_dir`, which is one member's alone; wait for its end."""
    own = runtime_dir.stat()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text() == "etcd\n" and os.path.samestat((entry / "cwd").stat(), own):
                _log.warning("etcd.left_behind", pid=int(entry.name))
                _kill_and_wait(int(entry.name))


def _kill_and_wait(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], STOP_TIMEOUT_S)
    finally:
        os.close(pidfd)


def free_peer_port(address: str, wanted: int = DEFAULT_PEER_PORT) -> int:
    """Return the first port from `wanted` on that is free on this address. Raises Conflict when there is none nearby."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(wanted, min(wanted + _PORTS_TO_TRY, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise Conflict(f"no free port on {address} from {wanted} on")
