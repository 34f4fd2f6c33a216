"""The few system calls that Python 3.11 lacks, through libc: mounts, private mount namespaces, inotify, safe opening in a tree."""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_SLAVE = 1 << 12, 1 << 14, 1 << 19
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MNT_DETACH = 2
IN_MODIFY, IN_ATTRIB, IN_MOVE_SELF = 0x2, 0x4, 0x800

RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x02, 0x08, 0x10
_SYS_OPENAT2 = 437
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _AT_RECURSIVE, _MOVE_MOUNT_FROM_EMPTY_PATH = 1, 0x8000, 0x4
_AT_FDCWD = -100
_ENOSYS, _EPERM = 38, 1
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


def clone_mounts(path: str) -> int:
    """Return a descriptor of a copy of the mounts at and below a path, in no namespace yet. Close it. Raises OSError."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    return _checked(int(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, path.encode(), flags)), f"cannot open the mounts of {path}")


def attach_mounts(descriptor: int, target: str) -> None:
    """Mount what `clone_mounts` returned. Raises OSError."""
    result = _libc.syscall(_SYS_MOVE_MOUNT, descriptor, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_FROM_EMPTY_PATH)
    _checked(result, f"cannot mount on {target}")


def has_mount_setattr() -> bool:
    """Whether the kernel knows mount_setattr(2), asked with arguments that it must refuse."""
    _libc.syscall(_SYS_MOUNT_SETATTR, -1, b"", 0, None, ctypes.c_size_t(0))
    return ctypes.get_errno() not in (_ENOSYS, _EPERM)


def unshare_mounts() -> None:
    """Give the calling thread a mount namespace of its own, into which the old one's changes still flow but out of which none do.

    The thread's working directory becomes its own too. The rest of the process stays where it is.
    """
    _checked(_libc.unshare(CLONE_NEWNS), "cannot make a mount namespace")
    mount("none", "/", flags=MS_REC | MS_SLAVE)


def open_inside(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open `path` in the folder of a descriptor, as openat2(2) with these RESOLVE_ flags. Raises OSError."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve | RESOLVE_NO_MAGICLINKS)
    descriptor = int(_libc.syscall(_SYS_OPENAT2, directory, path.encode(), how, ctypes.c_size_t(len(how))))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return descriptor


def read_in_root(root: str, path: str, limit_bytes: int) -> bytes | None:
    """Return a file's content with every link resolved as if `root` were the root; None if there is no regular file.

    Nothing else is opened: opening a device that an image has in a file's place could already do harm.
    """
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_inside(directory, path, os.O_PATH, RESOLVE_IN_ROOT)
    except OSError:
        return None
    finally:
        os.close(directory)
    try:
        if not _is_regular(found):
            return None
        with open(f"/proc/self/fd/{found}", "rb") as file:
            return file.read(limit_bytes)
    except OSError:
        return None
    finally:
        os.close(found)


def _is_regular(descriptor: int) -> bool:
    return os.fstat(descriptor).st_mode & 0o170000 == 0o100000


INOTIFY_OVERFLOW = -1
"""The watch of the event that says that others were lost."""


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
