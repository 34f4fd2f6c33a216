"""Network namespaces with names: files below the runtime directory on which a namespace is mounted.

A thread enters another namespace for a moment (`inside`); the rest of the process stays where it is. Everything here belongs on
the one thread that the driver keeps for the kernel. A file on which nothing is mounted (after a reboot, or when killed in the
middle) is dead.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_NS_GET_NSTYPE = 0xB703
_NO_PROGRAMS = 2 | 4 | 8
"""MS_NOSUID, MS_NODEV and MS_NOEXEC."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(descriptor: int) -> None:
    """Move the calling thread into the network namespace. Raises OSError."""
    _check(_libc.setns(descriptor, CLONE_NEWNET), "cannot enter a network namespace")


def unshare() -> None:
    """Move the calling thread into a new network namespace, which ends with the thread unless it gets a name. Raises OSError."""
    _check(_libc.unshare(CLONE_NEWNET), "cannot make a network namespace")


def make_directory(path: Path) -> None:
    """Make the folder of namespaces, a mount of its own: so a container's start hides them all with one unmount. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=0o755)
    if not path.is_mount():
        _check(_libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", _NO_PROGRAMS, b"mode=0755,size=64k"), f"cannot mount on {path}")


def remove_directory(path: Path) -> None:
    """Remove the folder of namespaces, which must be empty. Raises OSError when it is not."""
    if any(path.iterdir()):
        raise OSError(errno.ENOTEMPTY, f"{path} still holds namespaces")
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    path.rmdir()


class Namespaces:
    """The named namespaces in one folder, seen from a home namespace (that of the thread which made this object)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Forget the home namespace; the named ones stay."""
        os.close(self._home)

    def path(self, name: str) -> Path:
        """Return where the namespace's file is."""
        return self.directory / name

    def names(self) -> dict[str, bool]:
        """Return every file's name with whether a network namespace stands behind it."""
        if not self.directory.is_dir():
            return {}
        return {entry.name: self.is_live(entry.name) for entry in sorted(self.directory.iterdir())}

    def is_live(self, name: str) -> bool:
        """Whether a network namespace is mounted on the file."""
        try:
            descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == CLONE_NEWNET
        except OSError:
            return False
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[int]:
        """Yield a descriptor of the namespace, for messages that refer to it. Raises OSError."""
        descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Run the block in the namespace. Raises OSError."""
        with self.open(name) as descriptor:
            enter(descriptor)
        try:
            yield
        finally:
            enter(self._home)

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[None]:
        """Make the namespace unless it lives, and run the block in it. Raises OSError."""
        if self.is_live(name):
            with self.inside(name):
                yield
            return
        path = self.path(name)
        make_directory(self.directory)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
        unshare()
        try:
            target = os.fsencode(path)
            _check(_libc.mount(b"/proc/thread-self/ns/net", target, b"none", _MS_BIND, None), f"cannot mount on {path}")
            yield
        finally:
            enter(self._home)

    def remove(self, name: str) -> None:
        """Remove the name; the namespace dies with its last process. Removing what is not there is fine."""
        path = self.path(name)
        while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
            pass
        path.unlink(missing_ok=True)
