"""Ends a program that outlives its starter, found by its name and its only argument, which no other has."""

import contextlib
import os
import select
import signal
from pathlib import Path

from pyswarm_common.errors import Unavailable

_PROC = Path("/proc")


def end_processes(program: str, argument: str, limit_s: float) -> None:
    """End all processes `program argument`, gently at first, and return when they have. Raises Unavailable if they do not."""
    for pid in _pids(program, argument):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                if not _is_it(pid, program, argument):  # another one has its number by now
                    continue
                for number in (signal.SIGTERM, signal.SIGKILL):
                    signal.pidfd_send_signal(descriptor, number)
                    if _wait_end(descriptor, limit_s):
                        break
                else:
                    raise Unavailable(f"{program} (process {pid}) does not end")
            finally:
                os.close(descriptor)


def _pids(program: str, argument: str) -> list[int]:
    return [int(entry) for entry in os.listdir(_PROC) if entry.isdigit() and _is_it(int(entry), program, argument)]


def _is_it(pid: int, program: str, argument: str) -> bool:
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.path.basename(os.fsdecode(words[0])) == program and words[1:2] == [os.fsencode(argument)]


def _wait_end(descriptor: int, limit_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))
