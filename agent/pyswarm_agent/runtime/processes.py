"""Processes that are not our children: told apart from later ones with the same number, waited for and signalled through pidfds."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from pyswarm_common.failpoints import failpoint
from pyswarm_common.objects import Record


class ProcessIdentity(Record, frozen=True, kw_only=True):
    """A process number together with its start time (clock ticks since boot), so that a reused number is not mistaken for it."""

    pid: int
    start_ticks: int


def boot_identity() -> str:
    """Return what names this run of the machine: the boot, and the first process of our PID namespace (a lab host's boot)."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id}/{_start_ticks(1)}"


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a living process, None if there is none or it is dead and only waits for its parent."""
    start_ticks = _start_ticks(pid)
    return None if start_ticks is None else ProcessIdentity(pid=pid, start_ticks=start_ticks)


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """Return a pidfd of the process, None if it has ended."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    if identify(identity.pid) == identity:
        return descriptor
    os.close(descriptor)
    return None


def send_signal(identity: ProcessIdentity, number: int) -> bool:
    """Send a signal to exactly this process; False if it has ended."""
    descriptor = open_pidfd(identity)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
        failpoint("container/signalled")
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def wait_process_end(identity: ProcessIdentity) -> None:
    """Return as soon as the process has ended."""
    descriptor = open_pidfd(identity)
    if descriptor is None:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _start_ticks(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        # The name in parentheses may hold anything, parentheses too.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return int(fields[19])
    return None
