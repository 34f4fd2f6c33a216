"""Gives an empty volume what the image has at its mount point. Blocking; runs in the start thread's own mount namespace.

The content is copied into a folder beside the volume's (`copying`), synced, and that folder renamed (`copied`): from then on all
is there, and its entries only have to be renamed into the volume, one by one. Whatever is interrupted, by a SIGKILL or a power
cut, the next container that mounts the volume finishes: without `copied` it begins anew, with it it renames the rest. So a
volume never holds half a file, and what another container wrote meanwhile is never overwritten.

Links in the image lead nowhere outside: the mount point is opened inside the container's root, links below it are copied as
links, and into the volume nothing is written by name but renamed by descriptor. `cp` runs in the same namespace and holds the
volume's lock too, so that one that outlives its daemon is waited for.
"""

import contextlib
import os
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.kernel_calls import RESOLVE_IN_ROOT, open_inside
from pyswarm_agent.runtime.mount_calls import move_into, sync_filesystem

_LAST_LINES = 3


class CopyPlace(NamedTuple):
    """Where a volume's first content is prepared: `copying` and `copied`, on the volume's file system."""

    copying: Path
    copied: Path

    @classmethod
    def in_folder(cls, folder: Path, key: str) -> "CopyPlace":
        """Return the place below a folder; `key` tells the parts of one volume apart."""
        return cls(folder / f".copying-{key}", folder / f".copied-{key}")

    @property
    def names(self) -> frozenset[str]:
        """The names that do not count as content when the place is in the volume itself."""
        return frozenset((self.copying.name, self.copied.name))


def copy_image_content(rootfs: Path, target: str, destination_path: str, place: CopyPlace, lock: int) -> None:
    """Copy what the container's root has at `target` into a folder of the volume, if that is empty, with owner and mode.

    `lock` is the descriptor of the volume's lock, which the caller holds. Raises ContainerStartFailed, OSError.
    """
    destination = os.open(destination_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _copy_content(rootfs, target, destination, place, lock)
    finally:
        os.close(destination)


def _copy_content(rootfs: Path, target: str, destination: int, place: CopyPlace, lock: int) -> None:
    is_copied = place.copied.is_dir()
    if not is_copied and not _is_empty(destination, place.names):
        return
    source = _open_source(rootfs, target)
    if source is None:
        return
    try:
        if not is_copied and not _is_empty(source):
            _copy(source, place, lock)
            is_copied = True
        if is_copied:
            _move_all(place.copied, destination)
        _copy_attributes(source, destination)
        os.fsync(destination)
    finally:
        os.close(source)
    if is_copied:
        _remove_tree(place.copied)


def _open_source(rootfs: Path, target: str) -> int | None:
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_inside(root, target, os.O_RDONLY | os.O_DIRECTORY, RESOLVE_IN_ROOT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        os.close(root)


def _is_empty(directory: int, ignored: frozenset[str] = frozenset()) -> bool:
    return not set(os.listdir(directory)) - ignored


def _copy(source: int, place: CopyPlace, lock: int) -> None:
    for path in place:
        _remove_tree(path)
    place.copying.mkdir(mode=0o700)
    command = ["cp", "--archive", "--reflink=auto", "--", f"/proc/self/fd/{source}/.", str(place.copying)]
    done = subprocess.run(
        command, pass_fds=(source, lock), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        _remove_tree(place.copying)
        reasons = done.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise ContainerStartFailed(f"cannot copy the image's content into the volume: {'; '.join(reasons)}")
    folder = os.open(place.copying.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_filesystem(folder)
        place.copying.rename(place.copied)
        os.fsync(folder)
    finally:
        os.close(folder)


def _move_all(copied: Path, destination: int) -> None:
    folder = os.open(copied, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(folder):
            move_into(folder, name, destination)
    finally:
        os.close(folder)


def _copy_attributes(source: int, destination: int) -> None:
    status = os.fstat(source)
    os.fchown(destination, status.st_uid, status.st_gid)
    os.fchmod(destination, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        with contextlib.suppress(OSError):  # a file system that does not keep it must not make the image unusable
            os.setxattr(destination, name, os.getxattr(source, name))


def _remove_tree(path: Path) -> None:
    # rm walks by descriptors: trees deeper than a path can be long are no trouble to it.
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(path)], check=True, stdin=subprocess.DEVNULL)
