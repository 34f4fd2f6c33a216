"""What a container has changed in its image's files, read from its writable layer. Blocking.

Overlayfs leaves there what was written, a character device 0:0 where something was removed (a whiteout), and a folder marked opaque
where a removed folder was made anew. The container may run and change what is looked at: no symbolic link is ever followed, so that
none leads out of the layer. Places that the runtime made for its mounts are left out.

Source: Moby `pkg/archive/changes.go` (`changes`, `OverlayChanges`).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from pyswarm_agent.runtime.oci_mounts import INIT_TARGET
from pyswarm_common.errors import ResourceExhausted

Kind: TypeAlias = Literal[0, 1, 2]
MODIFIED: Final = 0
ADDED: Final = 1
DELETED: Final = 2
MOST_CHANGES = 500_000
DEEPEST = 200
"""Folders below that depth are told, but not what is in them."""
_MOUNT_POINTS = frozenset({"/dev", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname", INIT_TARGET})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")

Parts: TypeAlias = tuple[str, ...]


class Change(NamedTuple):
    """A path as the container sees it, and what became of it."""

    path: str
    kind: Kind


def layer_paths(links: Path) -> list[Path]:
    """Return the image's layers, top-most first, that the links `0`, `1` … lead to."""
    with contextlib.suppress(FileNotFoundError):
        return [Path(os.readlink(links / name)) for name in sorted(os.listdir(links), key=int)]
    return []


def layer_changes(upper: Path, lowers: Sequence[Path], mount_points: Collection[str] = ()) -> list[Change]:
    """Return all changes, by path; none where there is no writable layer. Raises ResourceExhausted (too many), OSError."""
    walk = _Walk(upper, lowers, _MOUNT_POINTS.union(mount_points))
    return [Change(os.fsencode(path).decode(errors="replace"), kind) for path, kind in sorted(walk.run().items())]


class _Walk:
    def __init__(self, upper: Path, lowers: Sequence[Path], mount_points: Collection[str]) -> None:
        self._upper = upper
        self._lowers = lowers
        self._mount_points = mount_points
        self._parents = {str(parent) for point in mount_points for parent in Path(point).parents}
        self._found: dict[str, Kind] = {}
        self._pending: list[tuple[Parts, bool]] = [((), False)]
        """Folders to look at, and whether they lie in one that was made anew, so that the image's files do not count."""

    def run(self) -> dict[str, Kind]:
        while self._pending:
            parts, is_new = self._pending.pop()
            with contextlib.ExitStack() as stack:
                folder = _open_below(self._upper, parts)
                if folder is None:
                    continue  # gone meanwhile, or there was never one
                stack.callback(os.close, folder)
                beneath = [] if is_new else list(self._lower_folders(parts, stack))
                is_opaque = _is_opaque(folder)
                self._look(parts, folder, [] if is_opaque else beneath, is_new=is_new or is_opaque)
                if is_opaque:
                    self._note_hidden(parts, folder, beneath)
        return self._found

    def _look(self, parts: Parts, folder: int, beneath: Sequence[int], *, is_new: bool) -> None:
        for name in os.listdir(folder):
            status = _lstat(folder, name)
            path = "/" + "/".join((*parts, name))
            if status is None or path in self._mount_points:
                continue
            before = _first(beneath, name)
            if _is_whiteout(status):
                self._note(path, DELETED)
            elif before is None:
                self._note_new(path, status)
            elif not stat.S_ISDIR(status.st_mode) or self._is_changed(path, status, before):
                self._note(path, MODIFIED)
            if stat.S_ISDIR(status.st_mode) and len(parts) < DEEPEST:
                self._pending.append(((*parts, name), is_new))

    def _note_new(self, path: str, status: os.stat_result) -> None:
        """A folder that was made to hold a mount point is none of the container's doing, unless something else is in it."""
        if not (stat.S_ISDIR(status.st_mode) and path in self._parents):
            self._note(path, ADDED)

    def _note(self, path: str, kind: Kind) -> None:
        if len(self._found) >= MOST_CHANGES:
            raise ResourceExhausted(f"the container has changed more than {MOST_CHANGES} files: use export")
        self._found[path] = kind
        parent = os.path.dirname(path)
        if kind != MODIFIED and parent != "/":
            self._found.setdefault(parent, MODIFIED)

    def _is_changed(self, path: str, status: os.stat_result, before: os.stat_result) -> bool:
        if not stat.S_ISDIR(before.st_mode):
            return True
        if (status.st_mode, status.st_uid, status.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
            return True
        return status.st_mtime_ns != before.st_mtime_ns and path not in self._parents

    def _note_hidden(self, parts: Parts, folder: int, beneath: Sequence[int]) -> None:
        """Of a folder that was made anew: what the one before held is gone, but for what is there again."""
        present = set(os.listdir(folder))
        for name in {name for lower in beneath for name in os.listdir(lower)}:
            path = "/" + "/".join((*parts, name))
            if _first(beneath, name) is None:
                continue
            if name not in present:
                self._note(path, DELETED)
            elif self._found.get(path) == ADDED:
                self._found[path] = MODIFIED

    def _lower_folders(self, parts: Parts, stack: contextlib.ExitStack) -> Iterator[int]:
        """Yield the folders of the image's layers that make up one folder, top-most first."""
        for lower in self._lowers:
            folder, is_last = _descend(lower, parts)
            if folder is not None:
                stack.callback(os.close, folder)
                yield folder
            if is_last:
                return


def _descend(root: Path, parts: Parts) -> tuple[int | None, bool]:
    """Return an image layer's folder, and whether it hides those of the layers below."""
    folder = os.open(root, _FOLDER)
    is_last = False
    for part in parts:
        status = _lstat(folder, part)
        if status is None or not stat.S_ISDIR(status.st_mode):
            os.close(folder)
            return None, is_last or status is not None
        below = os.open(part, _FOLDER, dir_fd=folder)
        os.close(folder)
        folder = below
        is_last = is_last or _is_opaque(folder)
    return folder, is_last


def _open_below(root: Path, parts: Parts) -> int | None:
    """Return a folder of a layer that may change at any moment, None when it is not there."""
    folder = -1
    try:
        folder = os.open(root, _FOLDER)
        for part in parts:
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
    except OSError as error:
        if folder >= 0:
            os.close(folder)
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return folder


def _first(folders: Sequence[int], name: str) -> os.stat_result | None:
    """Return what the image has by this name."""
    for folder in folders:
        status = _lstat(folder, name)
        if status is not None:
            return None if _is_whiteout(status) else status
    return None


def _lstat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(folder: int) -> bool:
    for name in _OPAQUE:
        with contextlib.suppress(OSError):
            return os.getxattr(folder, name) == b"y"
    return False
