"""System calls about other mount namespaces and folders that others change meanwhile: entering, finding, renaming."""

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pyswarm_agent.runtime.kernel_calls import CLONE_NEWNS

_RENAME_NOREPLACE = 1
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def in_mount_namespace_of(pid: int) -> Iterator[None]:
    """Let the thread see the mounts of another process; it must have a mount namespace of its own. Raises OSError."""
    own = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.setns(other, CLONE_NEWNS), f"the mounts of process {pid}")
        finally:
            os.close(other)
        try:
            yield
        finally:
            _checked(_libc.setns(own, CLONE_NEWNS), "the thread's own mounts")
    finally:
        os.close(own)


def move_into(source: int, name: str, target: int) -> bool:
    """Rename an entry of one folder into another; False when that has one of this name already. Raises OSError."""
    if _libc.renameat2(source, os.fsencode(name), target, os.fsencode(name), _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    raise OSError(number, os.strerror(number), name)


def sync_filesystem(descriptor: int) -> None:
    """Return when all that was written to the file system is on its disk. Raises OSError."""
    _checked(_libc.syncfs(descriptor), "syncfs")


def is_mount_point(path: str, pid: int) -> bool:
    """Whether something is mounted on `path` where a process is; False when there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    return any(mount_fields(line)[0] == path for line in lines)


def mount_id(descriptor: int) -> int:
    """Return the number of the mount in which an open file or folder lies. Raises OSError."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        if line.startswith("mnt_id:"):
            return int(line.partition(":")[2])
    raise OSError(errno.ENOSYS, "this kernel does not say in which mount a file lies")


def mount_fields(line: str) -> tuple[str, tuple[str, ...]]:
    """Return the mount point and the optional fields (`shared:3`) in a line of mountinfo. Pure."""
    words = line.partition(" - ")[0].split(" ")
    return _unescaped(words[4]), tuple(words[6:])


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field) if "\\" in field else field


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
