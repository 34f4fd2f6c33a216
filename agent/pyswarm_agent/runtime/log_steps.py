"""Carries out the steps of a rotation, and looks what state a log's files are in. Blocking; what to do is `log_rotation`'s to say.

Every step may be interrupted anywhere and taken again.
"""

import contextlib
import errno
import fcntl
import gzip
import os
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

from pyswarm_agent.runtime.log_files import LogFiles, identity_of
from pyswarm_agent.runtime.log_rotation import (
    ClearPartials,
    Compress,
    Drop,
    Empty,
    Link,
    LogState,
    MonitorGlance,
    RemovePlain,
    RemoveReserve,
    Reopen,
    Reserve,
    Step,
    Unlink,
)
from pyswarm_common.files import sync_directory

REOPEN_MESSAGE = b"2 0 0\n"
_COMPRESSION_LEVEL = 3
_CHUNK_BYTES = 256 * 1024


def look_at(files: LogFiles, *, is_written: bool, may_reopen: bool) -> LogState:
    """Return the state of the log's files. Raises OSError."""
    archives = tuple(files.archives())
    newest = archives[-1] if archives else None
    status = _size_and_identity(files.path)
    newest_plain = _size_and_identity(files.plain(newest.number)) if newest is not None else None
    return LogState(
        size_bytes=status[0] if status else 0,
        archives=archives,
        is_linked=status is not None and newest_plain is not None and status[1] == newest_plain[1],
        is_written=is_written,
        has_reserve=files.reserve.exists(),
        has_partials=bool(files.partials()),
        is_newest_empty=newest_plain is not None and newest_plain[0] == 0 and newest is not None and not newest.is_compressed,
        may_reopen=may_reopen,
    )


def carry_out(step: Step, files: LogFiles, control: Path) -> None:
    """Do it, if it is not a compression. `control`: conmon's fifo. Raises OSError, as when the disk is full or conmon has ended."""
    match step:
        case ClearPartials():
            for path in files.partials():
                path.unlink(missing_ok=True)
        case Reserve():
            files.reserve.touch(mode=0o640)
        case RemoveReserve():
            files.reserve.unlink(missing_ok=True)
        case Link(number=number):
            os.link(files.path, files.plain(number))
        case Unlink(number=number):
            # Only the second name may go: never the last one of a file that conmon wrote.
            if identity_of(files.path) == identity_of(files.plain(number)):
                files.plain(number).unlink()
        case Reopen():
            _send(control, REOPEN_MESSAGE)
        case RemovePlain(number=number):
            files.plain(number).unlink(missing_ok=True)
        case Drop(number=number):
            files.compressed(number).unlink(missing_ok=True)
            files.plain(number).unlink(missing_ok=True)
        case Empty(number=number):
            files.partial(number).write_bytes(b"")
            files.partial(number).replace(files.plain(number))
            files.compressed(number).unlink(missing_ok=True)
        case Compress():
            raise AssertionError("archives are compressed by compress()")


def compress(files: LogFiles, number: int, is_unwanted: Callable[[], bool]) -> None:
    """Replace an archive by a compressed one with the same time of change; gives up when it is `is_unwanted`. Raises OSError."""
    plain, partial = files.plain(number), files.partial(number)
    try:
        with plain.open("rb") as source, partial.open("wb") as target:
            status = os.fstat(source.fileno())
            os.fchmod(target.fileno(), status.st_mode & 0o777)
            with gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION_LEVEL, fileobj=target, mtime=0) as packer:
                while chunk := source.read(_CHUNK_BYTES):
                    if is_unwanted():
                        partial.unlink(missing_ok=True)
                        return
                    packer.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        # Readers tell from this time which archives are older than what they seek.
        os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))
        partial.replace(files.compressed(number))
        sync_directory(plain.parent)
        plain.unlink(missing_ok=True)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def glance_at(control: Path, monitor_pid: int) -> MonitorGlance | None:
    """Return what can be seen of conmon and its fifo; None when it has ended. Raises OSError."""
    try:
        with _opened(control) as descriptor:
            waiting = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
        state = Path(f"/proc/{monitor_pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody reads it
            return None
        raise
    return MonitorGlance(waiting_bytes=waiting, state=state)


def _send(control: Path, message: bytes) -> None:
    with _opened(control) as descriptor:
        os.write(descriptor, message)


@contextlib.contextmanager
def _opened(control: Path) -> Iterator[int]:
    descriptor = os.open(control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _size_and_identity(path: Path) -> tuple[int, tuple[int, int]] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, (status.st_dev, status.st_ino)
