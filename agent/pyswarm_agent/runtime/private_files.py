"""Files that a container gets and no disk does: its secrets and configs.

The thread that starts the container writes them to a tmpfs that it mounts in its own mount namespace, beside the root filesystem
(see `launch`), and the container sees each of them by a read-only bind mount. So they are memory of this container and its monitor
alone: the host's mount table does not have them, and a SIGKILL of the daemon at any moment leaves nothing of them behind.
The kernel is asked not to swap them out (Linux 6.4 can promise that). No record of a container knows of them: who starts it
gives them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pyswarm_agent.runtime import kernel_calls
from pyswarm_agent.runtime.records import ContainerConfig, MountConfig

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SPARE_PAGES = 16
_FLAGS = kernel_calls.MS_NOSUID | kernel_calls.MS_NODEV


@dataclass(frozen=True)
class PrivateFile:
    """A file at the absolute path `target` in the container, with owner and mode. Its text form does not show the data."""

    target: str
    data: bytes = field(repr=False)
    user_id: int = 0
    group_id: int = 0
    mode: int = 0o444


def with_private_mounts(config: ContainerConfig, files: Sequence[PrivateFile], directory: Path) -> ContainerConfig:
    """Return the configuration with a mount for each file, as `mount_private_files` puts them below `directory`."""
    mounts = [
        MountConfig(
            type="bind",
            source=str(directory / str(number)),
            target=file.target,
            read_only=True,
            options=("nosuid", "nodev"),
            is_recursive=False,
            is_hidden=True,
        )
        for number, file in enumerate(files)
    ]
    return msgspec.structs.replace(config, mounts=(*config.mounts, *mounts)) if mounts else config


def mount_private_files(files: Sequence[PrivateFile], directory: Path) -> None:
    """Put the files into a new tmpfs on `directory`, which then is read-only. For a thread in a mount namespace of its own.

    Raises OSError.
    """
    if not files:
        return
    directory.mkdir(exist_ok=True)
    pages = sum(-(-len(file.data) // _PAGE_BYTES) + 1 for file in files) + _SPARE_PAGES
    options = f"mode=0700,size={pages * _PAGE_BYTES},nr_inodes={len(files) + _SPARE_PAGES}"
    try:
        kernel_calls.mount("tmpfs", str(directory), "tmpfs", _FLAGS, f"{options},noswap")
    except OSError:
        kernel_calls.mount("tmpfs", str(directory), "tmpfs", _FLAGS, options)
    for number, file in enumerate(files):
        _write(directory / str(number), file)
    kernel_calls.mount("tmpfs", str(directory), flags=kernel_calls.MS_REMOUNT | kernel_calls.MS_RDONLY | _FLAGS)


def _write(path: Path, file: PrivateFile) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(file.data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fchown(descriptor, file.user_id, file.group_id)
        os.fchmod(descriptor, file.mode)
    finally:
        os.close(descriptor)
