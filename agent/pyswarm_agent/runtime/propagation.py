"""Binds that hand mounts on between a container and its host.

A container starts in a mount namespace of its own that is a slave of the host's: what the host mounts reaches it (`rslave`), never
the other way. For `rshared` the source's mounts are copied before that namespace is made: the copy stays a peer of the host's
mounts, and is what the container gets.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pyswarm_agent.runtime import kernel_calls
from pyswarm_agent.runtime.mount_calls import mount_fields
from pyswarm_agent.runtime.oci_mounts import SHARED, SLAVE
from pyswarm_agent.runtime.records import MountConfig
from pyswarm_common.errors import InvalidArgument


def check_propagation(mounts: Iterable[MountConfig], mountinfo: Callable[[], str]) -> None:
    """Raise InvalidArgument, in Docker's words, when the host does not share a source that the container wants shared."""
    asked = [mount for mount in mounts if mount.type == "bind" and mount.propagation in (*SHARED, *SLAVE)]
    if not asked:
        return
    tables = dict(map(mount_fields, mountinfo().splitlines()))  # of several on one path the last one, which covers the others
    for mount in asked:
        source = os.path.realpath(mount.source)
        point = max((p for p in tables if _is_below(source, p)), key=len, default="/")
        fields = tables.get(point, ())
        is_shared = any(field.startswith("shared:") for field in fields)
        if mount.propagation in SHARED and not is_shared:
            raise InvalidArgument(f"path {mount.source} is mounted on {point} but it is not a shared mount")
        if not is_shared and not any(field.startswith("master:") for field in fields):
            raise InvalidArgument(f"path {mount.source} is mounted on {point} but it is not a shared or slave mount")


def ready_sources(mounts: Iterable[MountConfig]) -> None:
    """Make the folders that binds want made, and look whether the host shares sources as asked.

    To be called in the host's mount namespace. Raises InvalidArgument, OSError.
    """
    for mount in mounts:
        if mount.type == "bind" and mount.creates_source:
            Path(mount.source).mkdir(parents=True, exist_ok=True)
    check_propagation(mounts, lambda: Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


@contextlib.contextmanager
def copied_sources(mounts: Iterable[MountConfig]) -> Iterator[Mapping[str, int]]:
    """Yield descriptors of copies of the sources to share, by source; enter it before the mount namespace. Raises OSError."""
    with contextlib.ExitStack() as stack:
        copies: dict[str, int] = {}
        for source in {mount.source for mount in mounts if _is_shared_bind(mount)}:
            copies[source] = kernel_calls.clone_mounts(source)
            stack.callback(os.close, copies[source])
        yield copies


def attach_copies(copies: Mapping[str, int], folder: Path) -> dict[str, str]:
    """Mount the copies below `folder`, in the namespace of the container's start; return where, by source. Raises OSError."""
    places: dict[str, str] = {}
    for number, (source, descriptor) in enumerate(copies.items()):
        place = folder / str(number)
        place.parent.mkdir(exist_ok=True)
        if Path(source).is_dir():
            place.mkdir(exist_ok=True)
        else:
            place.touch()
        kernel_calls.attach_mounts(descriptor, str(place))
        places[source] = str(place)
    return places


def _is_shared_bind(mount: MountConfig) -> bool:
    return mount.type == "bind" and not mount.volume and mount.propagation in SHARED


def _is_below(path: str, point: str) -> bool:
    return point == "/" or f"{path}/".startswith(f"{point}/")
