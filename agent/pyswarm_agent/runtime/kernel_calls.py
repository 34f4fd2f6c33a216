"""The few system calls that Python 3.11 lacks, through libc: mounts, private mount namespaces, inotify, safe opening in a tree."""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_SLAVE = 1 << 12, 1 << 14, 1 << 19
MNT_DETACH = 2
IN_MODIFY, IN_MOVE_SELF = 0x2, 0x800

_RESOLVE_IN_ROOT = 0x10
_SYS_OPENAT2 = 437
_INOTIFY_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long


class WatchEvent(NamedTuple):
    """Something happened to a watched file."""

    watch: int
    mask: int


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source: str, target: str, filesystem: str = "", flags: int = 0, options: str = "") -> None:
    """Mount as mount(2). Raises OSError."""
    arguments = source.encode(), target.encode(), filesystem.encode() or None, flags, options.encode() or None
    _checked(_libc.mount(*arguments), f"cannot mount {filesystem or source} on {target}")


def unmount(target: str, flags: int = MNT_DETACH) -> bool:
    """Unmount the top-most mount of `target`; False when nothing is mounted there. Raises OSError."""
    if _libc.umount2(target.encode(), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in (22, 2):  # EINVAL: no mount point; ENOENT
        return False
    raise OSError(number, f"cannot unmount {target}: {os.strerror(number)}")


def unshare_mounts() -> None:
    """Give the calling thread a mount namespace of its own, into which the old one's changes still flow but out of which none do.

    The thread's working directory becomes its own too. The rest of the process stays where it is.
    """
    _checked(_libc.unshare(CLONE_NEWNS), "cannot make a mount namespace")
    mount("none", "/", flags=MS_REC | MS_SLAVE)


def read_in_root(root: str, path: str, limit_bytes: int) -> bytes | None:
    """Return a file's content with every link resolved as if `root` were the root; None if there is no regular file."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = struct.pack("QQQ", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, 0, _RESOLVE_IN_ROOT)
        descriptor = _libc.syscall(_SYS_OPENAT2, directory, path.encode(), how, ctypes.c_size_t(len(how)))
    finally:
        os.close(directory)
    if descriptor < 0:
        return None
    with open(descriptor, "rb") as file:
        return file.read(limit_bytes) if _is_regular(descriptor) else None


def _is_regular(descriptor: int) -> bool:
    return os.fstat(descriptor).st_mode & 0o170000 == 0o100000


def inotify_open() -> int:
    """Return a new inotify descriptor that never blocks. Raises OSError."""
    return _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "cannot watch files")


def inotify_add(descriptor: int, path: Path, mask: int) -> int:
    """Watch a file and return the watch's number: the same again for a file that is watched already. Raises OSError."""
    return _checked(_libc.inotify_add_watch(descriptor, os.fsencode(path), mask), f"cannot watch {path}")


def inotify_remove(descriptor: int, watch: int) -> None:
    """End a watch; fine if the kernel has ended it already."""
    _libc.inotify_rm_watch(descriptor, watch)


def inotify_read(descriptor: int) -> Iterator[WatchEvent]:
    """Yield what has happened, without waiting."""
    try:
        data = os.read(descriptor, 65536)
    except BlockingIOError:
        return
    offset = 0
    while offset < len(data):
        watch, mask, _, name_bytes = _INOTIFY_EVENT.unpack_from(data, offset)
        offset += _INOTIFY_EVENT.size + name_bytes
        yield WatchEvent(watch, mask)
