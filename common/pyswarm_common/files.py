"""Files that a crash never leaves half written."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file by `data`: written beside it, synced, renamed over it, and the folder synced.

    Raises OSError, as when the disk is full: then the file is as it was, and nothing lies beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        _write_synced(temporary, data, mode)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_for_good(path: Path) -> None:
    """Remove the file, if it is there, so that no power cut brings it back."""
    if path.exists():
        path.unlink()
        sync_directory(path.parent)


def temporary_path(path: Path) -> Path:
    """Return where `write_atomically` prepares this file: a process that is killed while it writes leaves it there."""
    return path.with_name(f".{path.name}.tmp")


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make renames and removals in this folder last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
