"""Device nodes of the host, for containers that get them."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pyswarm_agent.runtime.records import DeviceConfig
from pyswarm_common.errors import InvalidArgument

_NOT_FOR_CONTAINERS = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
"""Folders of /dev whose content each container has of its own, or that hold no devices (Moby `oci/devices_linux.go`)."""


class DeviceNode(NamedTuple):
    """A device: where the container finds it, `c` or `b` with its numbers, its owner and mode, and what may be done: of `rwm`."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    access: str = "rwm"


def find_devices(devices: Iterable[DeviceConfig]) -> list[DeviceNode]:
    """Return the nodes for these wishes; a folder stands for all devices below it. Raises InvalidArgument in Docker's words."""
    found: list[DeviceNode] = []
    for device in devices:
        try:
            nodes = list(_nodes(device.source, device.target, device.access))
        except OSError as error:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{device.source}": '
                f"{os.strerror(error.errno or 0).lower()}; load its driver, or run the container where the device is"
            ) from error
        if not nodes:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{device.source}": not a device node; '
                "give the path of a device, or of a folder of devices"
            )
        found += nodes
    return found


def all_devices(folder: str = "/dev") -> list[DeviceNode]:
    """Return the host's devices."""
    return [node for node in _nodes(folder, folder, "rwm") if node.path != "/dev/console"]


def device_node(source: str, target: str, access: str = "rwm") -> DeviceNode | None:
    """Return the node for one path, None if that is no device. Raises OSError."""
    status = os.stat(source)
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        return None
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return DeviceNode(target, kind, major, minor, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, access)


def _nodes(source: str, target: str, access: str) -> Iterator[DeviceNode]:
    if not os.path.isdir(source):
        node = device_node(source, target, access)
        if node is not None:
            yield node
        return
    with os.scandir(source) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_symlink() or (entry.is_dir() and entry.name in _NOT_FOR_CONTAINERS):
            continue
        with contextlib.suppress(FileNotFoundError):  # devices come and go
            yield from _nodes(entry.path, str(Path(target) / entry.name), access)
