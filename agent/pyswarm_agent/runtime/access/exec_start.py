"""Starts a further process in a container by `crun exec` (or runc). Blocking; runs in a thread.

The OCI runtime stays as the process's parent and passes its exit code on. It reads the process's description from memory
(variables may be secret), and writes the process's id to a file once the process runs, never when it could not be started:
that file tells the two apart, and lets a later daemon find what an earlier one has left behind.
"""

import contextlib
import os
import secrets
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pyswarm_agent.runtime import kernel_calls
from pyswarm_agent.runtime.host import Host
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.paths import ContainerPaths
from pyswarm_agent.runtime.processes import ProcessIdentity, identify
from pyswarm_agent.runtime.start_errors import exec_start_failed

START_TIMEOUT_S = 30.0
PID_FILE = "pid"
_CONSOLE = "console"
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_CREATED = 0x80 | 0x8  # IN_MOVED_TO | IN_CLOSE_WRITE
_COMPLAINT_LIMIT_BYTES = 64 * 1024


class StartedProcess(NamedTuple):
    """What runs: the OCI runtime, the process (`identity` None when it has ended already), and our ends of its streams."""

    runtime: "subprocess.Popen[bytes]"
    pid: int
    identity: ProcessIdentity | None
    folder: Path
    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    terminal: int | None = None


def start_exec(
    container_id: str, process: dict[str, Any], paths: ContainerPaths, host: Host, *, takes_input: bool, merges_output: bool
) -> StartedProcess:
    """Start `process` (as OCI has it). `merges_output`: both streams come in one, in the order in which they were written.

    Raises ContainerStartFailed, OSError.
    """
    folder = exec_folder(paths) / secrets.token_hex(8)
    folder.mkdir(parents=True)
    try:
        with contextlib.ExitStack() as stack:
            start = _Start(stack, container_id, process, paths, host, folder)
            return start.with_terminal() if process["terminal"] else start.with_pipes(takes_input, merges_output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def exec_folder(paths: ContainerPaths) -> Path:
    """Return where the processes that were started in a container have a folder each."""
    return paths.bundle / "execs"


class _Start:
    """One start. Descriptors are closed with `stack` unless they are handed to the caller."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        container_id: str,
        process: dict[str, Any],
        paths: ContainerPaths,
        host: Host,
        folder: Path,
    ) -> None:
        self._stack = stack
        self._process = process
        self._folder = folder
        self._oom_score_adjustment = process.get("oomScoreAdj", host.oom_score_adjustment)
        description = self._owned(os.memfd_create("process"))
        os.write(description, msgspec.json.encode(process))
        self._complaints, self._log = map(self._owned, os.pipe())
        self._directory = self._owned(os.open(folder, os.O_PATH | os.O_DIRECTORY))
        self._passed = [description, self._log, self._directory]
        self._head = [str(host.oci_runtime), f"--root={paths.oci_root}", f"--log=/proc/self/fd/{self._log}", "--log-format=json"]
        self._head += ["exec", f"--process=/proc/self/fd/{description}", f"--pid-file={folder / PID_FILE}"]
        self._tail = [container_id]

    def with_pipes(self, takes_input: bool, merges_output: bool) -> StartedProcess:
        stdin_read, stdin_write = map(self._owned, os.pipe()) if takes_input else (None, None)
        stdout_read, stdout_write = map(self._owned, os.pipe())
        stderr_read, stderr_write = (None, stdout_write) if merges_output else map(self._owned, os.pipe())
        runtime = self._spawn([], subprocess.DEVNULL if stdin_read is None else stdin_read, stdout_write, stderr_write)
        pid = self._wait_started(runtime, None)[0]
        ours = {"stdin": stdin_write, "stdout": stdout_read, "stderr": stderr_read}
        return StartedProcess(runtime, pid, identify(pid), self._folder, **{name: _kept(fd) for name, fd in ours.items()})

    def with_terminal(self) -> StartedProcess:
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # By its folder's descriptor: a socket's path may have 107 bytes only.
        listener.bind(f"/proc/self/fd/{self._directory}/{_CONSOLE}")
        listener.listen(1)
        nothing = subprocess.DEVNULL
        options = [f"--console-socket=/proc/self/fd/{self._directory}/{_CONSOLE}"]
        runtime = self._spawn(options, nothing, nothing, nothing)
        pid, terminal = self._wait_started(runtime, listener)
        if terminal is None:
            runtime.kill()
            runtime.wait()
            raise ContainerStartFailed("the OCI runtime handed no terminal over")
        return StartedProcess(runtime, pid, identify(pid), self._folder, terminal=_kept(terminal))

    def _spawn(self, options: list[str], stdin: int, stdout: int, stderr: int) -> "subprocess.Popen[bytes]":
        runtime = subprocess.Popen(
            [*self._head, *options, *self._tail],
            env=_ENVIRONMENT,
            cwd="/",
            pass_fds=self._passed,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        # The OCI runtime does not set it for such processes, which would then be as well protected as the daemon.
        with contextlib.suppress(OSError):
            Path(f"/proc/{runtime.pid}/oom_score_adj").write_text(str(self._oom_score_adjustment))
        return runtime

    def _wait_started(self, runtime: "subprocess.Popen[bytes]", listener: socket.socket | None) -> tuple[int, int | None]:
        """Return the process's id and its terminal. Raises ContainerStartFailed."""
        try:
            ended = self._owned(os.pidfd_open(runtime.pid))
            return self._poll_started(runtime, ended, listener)
        except BaseException:
            runtime.kill()
            runtime.wait()
            raise

    def _poll_started(
        self, runtime: "subprocess.Popen[bytes]", ended: int, listener: socket.socket | None
    ) -> tuple[int, int | None]:
        changes = self._owned(kernel_calls.inotify_open())
        kernel_calls.inotify_add(changes, self._folder, _CREATED)
        poll = select.poll()
        for descriptor in (ended, changes, *([listener.fileno()] if listener is not None else [])):
            poll.register(descriptor, select.POLLIN)
        terminal: int | None = None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000)}
            if listener is not None and listener.fileno() in ready:
                terminal = self._owned(_received_descriptor(listener))
                poll.unregister(listener)
            list(kernel_calls.inotify_read(changes))
            if pid := _read_pid(self._folder / PID_FILE):
                return pid, terminal
            if ended in ready:
                raise self._failure()
            if not ready:
                raise ContainerStartFailed(f"the OCI runtime did not start the process in {START_TIMEOUT_S:g} s")

    def _failure(self) -> ContainerStartFailed:
        os.set_blocking(self._complaints, False)
        with contextlib.suppress(BlockingIOError):
            return exec_start_failed(_messages(os.read(self._complaints, _COMPLAINT_LIMIT_BYTES)), self._process["args"])
        return exec_start_failed("", self._process["args"])

    def _owned(self, descriptor: int) -> int:
        self._stack.callback(os.close, descriptor)
        return descriptor


def _kept(descriptor: int | None) -> int | None:
    """Return a copy that outlives the start."""
    return None if descriptor is None else os.dup(descriptor)


def _received_descriptor(listener: socket.socket) -> int:
    connection = listener.accept()[0]
    with connection:
        connection.settimeout(START_TIMEOUT_S)
        descriptors = socket.recv_fds(connection, 4096, 1)[1]
    if not descriptors:
        raise ContainerStartFailed("the OCI runtime handed no terminal over")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _read_pid(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(path.read_text())
    return None


def _messages(log: bytes) -> str:
    """Return the lines of a log in JSON."""
    lines = []
    for line in log.decode(errors="replace").splitlines():
        with contextlib.suppress(msgspec.DecodeError, AttributeError):
            lines.append(str(msgspec.json.decode(line).get("msg", "")))
    return "\n".join(lines)
