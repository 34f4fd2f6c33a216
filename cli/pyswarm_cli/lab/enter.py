"""The program that runs a command in a host: `python -m pyswarm_cli.lab.enter CONFIG COMMAND…`, CONFIG being JSON.

Attached, it hands on signals and ends as the command does (128 + N after signal N); when it is killed, the command is too.
Detached (`log_file` in the config), the command becomes a child of the host's own PID 1, writes to the log, and its pid is printed.
Only the standard library and `kernel` are imported here: it must start fast.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from pyswarm_cli.lab import kernel

_NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid", "mnt")
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_CANNOT_RUN = 127


def main() -> None:
    """Enter the host that the first argument describes and run the command in the others."""
    config = json.loads(sys.argv[1])
    command = sys.argv[2:]
    outer_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    log = None
    if config.get("log_file"):
        log = os.open(config["log_file"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _join(config["pid"], config["cgroup_entrances"])
    if log is None:
        os.close(outer_proc)
        _run_attached(config, command)
    _run_detached(config, command, log, outer_proc)


def _join(pid: int, cgroup_entrances: list[str]) -> None:
    for directory in cgroup_entrances:
        Path(directory, "cgroup.procs").write_text("0")
    namespaces = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in _NAMESPACES]
    for descriptor in namespaces:
        kernel.setns(descriptor)
        os.close(descriptor)


def _run_attached(config: dict[str, Any], command: list[str]) -> NoReturn:
    waited = {*_FORWARDED, signal.SIGCHLD}
    for number in waited:
        signal.signal(number, signal.SIG_DFL)
    # Blocked and waited for, not handled: a handler could run just before waitpid blocks, and its signal would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    pid = os.fork()
    if pid == 0:
        kernel.die_with_parent(signal.SIGKILL)
        _execute(config, command)
    # A terminal sends these to the command as well.
    not_passed_on = {signal.SIGINT, signal.SIGQUIT} if os.isatty(0) else set()
    while True:
        received = signal.sigwait(waited)
        if received == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
        elif received not in not_passed_on:
            os.kill(pid, received)


def _run_detached(config: dict[str, Any], command: list[str], log: int, outer_proc: int) -> NoReturn:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        os.close(read_end)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        null = os.open("/dev/null", os.O_RDONLY)
        for descriptor, standard in ((null, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, standard)
        # The pid that the caller knows it by, not the one inside the host.
        os.write(write_end, os.readlink("self", dir_fd=outer_proc).encode())
        os.dup2(write_end, 3, inheritable=False)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        _execute(config, command)
    os.close(write_end)
    os.waitpid(middle, 0)
    with os.fdopen(read_end) as pipe:
        print(pipe.read())
    sys.exit(0)


def _execute(config: dict[str, Any], command: list[str]) -> NoReturn:
    try:
        kernel.forget_signal_settings()
        os.chdir(config["directory"])
        os.execvpe(command[0], command, config["environment"])
    except OSError as error:
        os.write(2, f"pyswarm lab: {command[0]}: {error.strerror}\n".encode())
        os._exit(_CANNOT_RUN)


if __name__ == "__main__":
    main()
