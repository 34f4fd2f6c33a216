"""The node's private key as a plain file, for programs that take it only so: etcd, and Python's ssl.

It lies in the runtime directory, which should be in memory: then a machine that is switched off has no plain key, if its
managers lock theirs.
"""

import os
from pathlib import Path

import structlog

from pyswarm_common.files import temporary_path, write_atomically

MEMORY_FILESYSTEMS = {"tmpfs", "ramfs"}
_MOUNTS = Path("/proc/self/mountinfo")

_log = structlog.get_logger()


class WorkingCopy:
    """The file at `path`, readable for its owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_warned = False

    def read(self) -> str:
        """Return the key, "" when there is none."""
        return self.path.read_text() if self.path.exists() else ""

    def provide(self, key_pem: str, *, must_stay_in_memory: bool) -> None:
        """Let the file hold this key. With `must_stay_in_memory` it is warned of when it lies on a disk."""
        if self.read() != key_pem:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.parent.chmod(0o700)
            write_atomically(self.path, key_pem.encode())
        if must_stay_in_memory and not self._has_warned and not is_in_memory(self.path.parent):
            self._has_warned = True
            _log.warning(
                "key.plain_on_disk",
                path=str(self.path),
                hint="autolock needs a runtime directory on tmpfs: choose one with --runtime-dir",
            )

    def remove(self) -> None:
        """Remove the file."""
        for path in (self.path, temporary_path(self.path)):
            path.unlink(missing_ok=True)


def is_in_memory(folder: Path) -> bool:
    """Whether a folder lies on a filesystem that has no disk."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in _MOUNTS.read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == number:
            return source.split()[0] in MEMORY_FILESYSTEMS
    return False
