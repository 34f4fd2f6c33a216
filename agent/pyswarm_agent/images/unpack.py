"""Unpacks one layer for overlayfs: `python -m pyswarm_agent.images.unpack DIRECTORY RECORDING RESERVE [SIZE]`.

The layer is on standard input, of which SIZE bytes are read. A process of its own, because it chroots into DIRECTORY (empty, new)
before it reads the first member: whatever paths and links a hostile layer holds, they stay inside. It prints one line of JSON:
`{"diff_id": …, "size_bytes": …, "tar_bytes": …, "is_recorded": …}` or `{"error": …}`.

RECORDING is a file to be made for what it takes to build the layer's archive again (see `recording.py`). RESERVE is how many bytes
the disk must have left: a layer that unpacks to more than there is room for is refused before others feel it.

Everything is imported before the chroot. Files are only ever created anew (O_EXCL), so that a device node or link which the layer
made before is never written through.

Whiteouts become overlayfs's: `.wh.NAME` a character device 0:0 called NAME, `.wh..wh..opq` the attribute `trusted.overlay.opaque`.
They speak of the layers below: what the same layer brings under that name stays.
"""

import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from typing import TypeVar

from pyswarm_agent.images import tar_stream
from pyswarm_agent.images.byte_stream import LayerStream
from pyswarm_agent.images.recording import Recorder
from pyswarm_agent.images.tar_stream import Member, TarError

_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_OVERLAY_ATTRIBUTES = b"trusted.overlay."
_OPAQUE_ATTRIBUTE = "trusted.overlay.opaque"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PARENT_MODE = 0o755
_RESERVED_FILES = 1000
_T = TypeVar("_T")


class Extractor:
    """Creates a layer's members below `/`, which must be the layer's own directory (after the chroot)."""

    def __init__(self, stream: LayerStream, on_replaced: Callable[[], None] = lambda: None) -> None:
        """`on_replaced` is called when a member takes the place of another."""
        self.files_bytes = 0
        self._stream = stream
        self._on_replaced = on_replaced
        self._directory_times: dict[bytes, int] = {}

    def extract(self) -> None:
        """Create every member. Raises TarError, naming the member that could not be created."""
        for member in tar_stream.read_members(self._stream):
            try:
                self._extract_member(member)
            except (OSError, OverflowError, ValueError, RecursionError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise TarError(f"{member.name.decode(errors='replace')}: {reason}") from error
        self._set_directory_times()

    def _extract_member(self, member: Member) -> None:
        path = inside(member.name)
        name = path[path.rfind(b"/") + 1 :]
        if member.type == tar_stream.REGULAR and not name.startswith(_WHITEOUT):
            self._write_file(path, member)
            return
        self._stream.skip(member.size_bytes + tar_stream.padding_bytes(member.size_bytes))
        if name == _OPAQUE:
            self._mark_opaque(os.path.dirname(path))
        elif b"/" + _WHITEOUT_META in path:
            return  # aufs's own bookkeeping
        elif name.startswith(_WHITEOUT):
            self._hide(os.path.dirname(path), name[len(_WHITEOUT) :])
        elif member.type == tar_stream.DIRECTORY:
            self._make_directory(path, member)
        elif member.type == tar_stream.HARD_LINK:
            target = inside(member.link)
            self._create(path, lambda: os.link(target, path, follow_symlinks=False))
        elif member.type == tar_stream.SYMLINK:
            self._create(path, lambda: os.symlink(member.link, path))
            self._set_metadata(path, member)
        else:
            self._create(path, lambda: _make_node(path, member))
            self._set_metadata(path, member)

    def _write_file(self, path: bytes, member: Member) -> None:
        if b"/" + _WHITEOUT_META in path:
            self._stream.skip(member.size_bytes + tar_stream.padding_bytes(member.size_bytes))
            return
        descriptor = self._create(path, lambda: os.open(path, _NEW_FILE, 0o600))
        try:
            self._stream.copy_to(descriptor, path, member.size_bytes)
            self._stream.skip(tar_stream.padding_bytes(member.size_bytes))
            os.chown(descriptor, member.uid, member.gid)  # even for root: a setgid directory gave it another group
            os.chmod(descriptor, member.mode & 0o7777)
            for key, value in member.xattrs.items():
                _set_attribute(descriptor, key, value)
            os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(descriptor)
        self.files_bytes += member.size_bytes

    def _make_directory(self, path: bytes, member: Member) -> None:
        try:
            os.mkdir(path, 0o700)
        except (FileNotFoundError, NotADirectoryError):  # the latter: a whiteout stands for the parent
            self._ensure_parents(path)
            os.mkdir(path, 0o700)
        except FileExistsError:
            self._ensure_directory(path)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                self._on_replaced()
                os.unlink(path)
                os.mkdir(path, 0o700)
        self._set_metadata(path, member)
        self._directory_times[path] = member.mtime_ns

    def _hide(self, parent: bytes, name: bytes) -> None:
        if name in (b"", b".", b".."):
            raise TarError("a whiteout without a name")
        path = inside(parent + b"/" + name)
        try:
            os.mknod(path, stat.S_IFCHR, 0)
        except (FileNotFoundError, NotADirectoryError):  # the latter: a whiteout stands for the parent
            self._ensure_parents(path)
            os.mknod(path, stat.S_IFCHR, 0)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.setxattr(path, _OPAQUE_ATTRIBUTE, b"y")

    def _mark_opaque(self, path: bytes) -> None:
        self._ensure_parents(path)
        self._ensure_directory(path)
        os.setxattr(path, _OPAQUE_ATTRIBUTE, b"y")

    def _create(self, path: bytes, make: Callable[[], _T]) -> _T:
        """Make something at `path`, its parents if they lack, in the place of whatever was there."""
        if path == b"/":
            raise TarError("the layer's root must be a directory")
        try:
            return make()
        except (FileNotFoundError, NotADirectoryError):  # the latter: a whiteout stands for the parent
            self._ensure_parents(path)
        except FileExistsError:
            self._on_replaced()
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        return make()

    def _ensure_parents(self, path: bytes) -> None:
        end = path.find(b"/", 1)
        while end != -1:
            self._ensure_directory(path[:end])
            end = path.find(b"/", end + 1)

    def _ensure_directory(self, path: bytes) -> None:
        """Make a directory unless something is there; where that is a whiteout of this layer, hide what is below instead."""
        try:
            os.mkdir(path, _PARENT_MODE)
        except FileExistsError:
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                os.unlink(path)
                os.mkdir(path, _PARENT_MODE)
                os.setxattr(path, _OPAQUE_ATTRIBUTE, b"y")

    def _set_metadata(self, path: bytes, member: Member) -> None:
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        if member.type != tar_stream.SYMLINK:
            os.chmod(path, member.mode & 0o7777)
        for key, value in member.xattrs.items():
            _set_attribute(path, key, value)
        os.utime(path, ns=(member.mtime_ns, member.mtime_ns), follow_symlinks=False)

    def _set_directory_times(self) -> None:
        """Filling a directory changed its time, so this comes last."""
        for path, mtime_ns in self._directory_times.items():
            try:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue  # replaced by a later member


def inside(name: bytes) -> bytes:
    """Return a member's name as an absolute path that never climbs above `/`."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def _make_node(path: bytes, member: Member) -> None:
    if member.type == tar_stream.FIFO:
        os.mkfifo(path, 0o600)
        return
    kind = stat.S_IFCHR if member.type == tar_stream.CHARACTER else stat.S_IFBLK
    os.mknod(path, kind | 0o600, os.makedev(*member.device))


def _set_attribute(target: bytes | int, key: bytes, value: bytes) -> None:
    # overlayfs would believe these: a layer could redirect into what is not its own.
    if key.startswith(_OVERLAY_ATTRIBUTES):
        return
    try:
        if isinstance(target, int):
            os.setxattr(target, key, value)
        else:
            os.setxattr(target, key, value, follow_symlinks=False)
    except OSError as error:
        # As Docker: an attribute that this file system does not keep must not make the image unusable.
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


class _Watch:
    """Ends the process when its parent is gone, and the unpacking when the disk gets full."""

    def __init__(self, directory: str, reserve_bytes: int) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._reserve_bytes = reserve_bytes
        self._parent = os.getppid()

    def look(self) -> None:
        """Raises TarError when there is no room any more."""
        if os.getppid() != self._parent:
            sys.exit(1)
        disk = os.fstatvfs(self._directory)
        if disk.f_bavail * disk.f_frsize < self._reserve_bytes:
            raise TarError(f"{os.strerror(errno.ENOSPC)}: it would leave less than the {self._reserve_bytes} bytes kept free")
        if disk.f_files and disk.f_favail < _RESERVED_FILES:
            raise TarError(f"{os.strerror(errno.ENOSPC)}: it would leave room for fewer than {_RESERVED_FILES} files")


def main(arguments: list[str]) -> int:
    """Unpack standard input as the module says; return the exit code."""
    directory, recording, reserve_bytes, *limit = arguments
    try:
        recorder = Recorder(os.open(recording, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        watch = _Watch(directory, int(reserve_bytes))
        stream = LayerStream(0, int(limit[0]) if limit else None, on_piece=watch.look, recorder=recorder)
        os.chroot(directory)
        os.chdir("/")
        os.umask(0)
        extractor = Extractor(stream, recorder.spoil)
        extractor.extract()
        answer: dict[str, str | int] = {
            "diff_id": stream.finish(),
            "size_bytes": extractor.files_bytes,
            "tar_bytes": stream.count_bytes,
            "is_recorded": not recorder.is_spoilt,
        }
    except (TarError, OSError) as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
