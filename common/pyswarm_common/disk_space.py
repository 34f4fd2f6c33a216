"""Whether a disk has room: asked of the file system each time, since it may be used up and freed at any moment."""

import contextlib
import os
import stat
from pathlib import Path

FULL_BELOW_BYTES = 1 << 20
"""With less than this free, small files may still be written, but nothing that has to grow can work."""


def is_disk_full(path: Path) -> bool:
    """Whether the file system that holds `path` has no room left for root, in bytes or in files. False for a path that is gone."""
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    has_no_files = found.f_files > 0 and found.f_ffree == 0
    return found.f_bfree * found.f_frsize < FULL_BELOW_BYTES or has_no_files


def disk_full_message(path: Path) -> str:
    """Return what to tell of a full disk, and what to do."""
    return f"no space left on the disk of {path}: free some, and it goes on by itself"


def files_bytes(folder: Path) -> int:
    """Return the sizes of all regular files below a folder, each inode once; what vanishes meanwhile is left out. Blocking."""
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = [str(folder)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                    elif stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_size
    return total
