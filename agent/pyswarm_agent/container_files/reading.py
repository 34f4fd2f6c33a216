"""Finds and reads files below `/`, which is a container's root, as a tar archive. See `root` for what must not happen here."""

import ctypes
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import Any

from pyswarm_agent.container_files.attributes import attributes_of

_PIECE_BYTES = 1 << 18
_TEXT_LIMIT_BYTES = 1 << 22
_GO_MODES = (
    (stat.S_ISDIR, 1 << 31),
    (stat.S_ISLNK, 1 << 27),
    (stat.S_ISBLK, 1 << 26),
    (stat.S_ISFIFO, 1 << 25),
    (stat.S_ISSOCK, 1 << 24),
    (stat.S_ISCHR, 1 << 26 | 1 << 21),
)
_GO_SPECIAL_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))
_KERNEL_FILESYSTEMS = {
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup",
    0x1CD1: "devpts",
    0x19800202: "mqueue",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0xCAFE4A11: "bpf",
}
_libc = ctypes.CDLL(None, use_errno=True)


class NotCopied(Exception):
    """It cannot be copied, and why."""


def resolve(path: str, *, follows_last: bool = False) -> str:
    """Return an absolute path without links in its folders; its last part only if `follows_last` or `/` or `/.` comes after it."""
    absolute = os.path.join("/", path)
    folder, last = os.path.split(absolute)
    if follows_last or last in ("", ".", ".."):
        return os.path.realpath(absolute)
    return os.path.join(os.path.realpath(folder), last)


def describe(path: str) -> dict[str, Any]:
    """Return the members of Docker's path stat. Raises FileNotFoundError, NotADirectoryError, OSError."""
    found = resolve(path)
    status = os.lstat(found)
    asks_folder = path.endswith(("/", "/."))
    if asks_folder and not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(20, "not a directory", path)
    return {
        "name": base_name(path),
        "size": status.st_size,
        "mode": go_mode(status.st_mode),
        "mtime_ns": status.st_mtime_ns,
        "linkTarget": os.path.realpath(found) if stat.S_ISLNK(status.st_mode) else "",
    }


def base_name(path: str) -> str:
    """Return the last part of a path as Go's filepath.Base does, but for `/.`, where it is `.`; pure."""
    absolute = os.path.join("/", path)
    return "." if absolute.endswith("/.") else os.path.basename(absolute.rstrip("/")) or "/"


def go_mode(mode: int) -> int:
    """Return a file's mode as Go's os.FileMode has it; pure."""
    special = sum(bit for is_set, bit in _GO_SPECIAL_BITS if mode & is_set)
    return mode & 0o777 | special | next((bit for is_kind, bit in _GO_MODES if is_kind(mode)), 0)


class Reader:
    """Reads a tree as a tar archive. `procfs`: a descriptor of the host's /proc/self/fd, through which files are opened."""

    def __init__(self, procfs: int, *, stays_on_filesystem: bool = False) -> None:
        self._procfs = procfs
        self._stays_on_filesystem = stays_on_filesystem
        self._linked: dict[tuple[int, int], str] = {}
        """Files with further names, by device and inode, and what each is called in the archive."""

    def text(self, path: str) -> str:
        """Return the text of a file, "" if there is no regular one."""
        descriptor = self._open_regular(resolve(path, follows_last=True))
        if descriptor is None:
            return ""
        with open(descriptor, "rb", buffering=0) as file:
            return (file.read(_TEXT_LIMIT_BYTES) or b"").decode(errors="replace")

    def archive(self, path: str, name: str) -> Iterator[bytes]:
        """Yield the archive of what is at `path`, called `name` in it. Raises OSError."""
        found = resolve(path)
        yield from self._tree(found, name, os.lstat(found))
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _tree(self, path: str, name: str, status: os.stat_result) -> Iterator[bytes]:
        yield from self._entry(path, name, status)
        if not stat.S_ISDIR(status.st_mode):
            return
        try:
            names = sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return  # the container has just removed it
        for each in names:
            child = os.path.join(path, each)
            try:
                child_status = os.lstat(child)
            except FileNotFoundError:
                continue
            is_mount = stat.S_ISDIR(child_status.st_mode) and child_status.st_dev != status.st_dev
            child_name = f"{name}/{each}" if name else each
            if is_mount and (self._stays_on_filesystem or kernel_filesystem(child)):
                yield from self._entry(child, child_name, child_status)
            else:
                yield from self._tree(child, child_name, child_status)

    def _entry(self, path: str, name: str, status: os.stat_result) -> Iterator[bytes]:
        info = tarfile.TarInfo(name)
        info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        info.mtime = status.st_mtime_ns / 1_000_000_000
        if stat.S_ISREG(status.st_mode):
            yield from self._file(path, info)
            return
        if stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
            info.pax_headers = attributes_of(path)
            if not name:
                return
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        elif stat.S_ISFIFO(status.st_mode):
            info.type = tarfile.FIFOTYPE
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            info.type = tarfile.CHRTYPE if stat.S_ISCHR(status.st_mode) else tarfile.BLKTYPE
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        else:
            return  # a socket
        yield _header(info)

    def _file(self, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        descriptor = self._open_regular(path)
        if descriptor is None:
            return
        try:
            status = os.fstat(descriptor)
            if status.st_nlink > 1:
                first = self._linked.setdefault((status.st_dev, status.st_ino), info.name)
                if first != info.name:
                    info.type, info.linkname = tarfile.LNKTYPE, first
                    yield _header(info)
                    return
            info.size, info.pax_headers = status.st_size, attributes_of(descriptor)
            yield _header(info)
            missing = info.size
            while missing and (piece := os.read(descriptor, min(missing, _PIECE_BYTES))):
                missing -= len(piece)
                yield piece
            while missing:  # it has become shorter meanwhile
                piece = bytes(min(missing, _PIECE_BYTES))
                missing -= len(piece)
                yield piece
            yield bytes(-info.size % tarfile.BLOCKSIZE)
        finally:
            os.close(descriptor)

    def _open_regular(self, path: str) -> int | None:
        """Return a descriptor of a regular file, None if it is gone or none any more.

        It is looked at before it is opened: the container may have put a device in its place, whose opening has effects.
        """
        try:
            seen = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if not stat.S_ISREG(os.fstat(seen).st_mode):
                return None
            return os.open(str(seen), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._procfs)
        finally:
            os.close(seen)


def kernel_filesystem(path: str) -> str:
    """Return the kind of a file system that only shows what the kernel knows, "" for one that holds files."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return ""
    kind = int.from_bytes(buffer.raw[:8], "little", signed=False) & 0xFFFFFFFF
    return _KERNEL_FILESYSTEMS.get(kind, "")


def refuse_kernel_files(path: str) -> None:
    """Raise NotCopied when what is at a path belongs to a file system that holds no files."""
    found = resolve(path)
    folder = found if os.path.isdir(found) else os.path.dirname(found)
    kind = kernel_filesystem(folder)
    if kind:
        raise NotCopied(f"{folder} belongs to {kind}, which holds no files that could be copied")


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
