"""Mounts as the Engine API's bodies have them (`Binds`, `Mounts`, `Tmpfs`, `Volumes`, and the image's volumes); pure.

Source: Moby `volume/mounts/linux_parser.go`.
"""

import posixpath
from collections.abc import Iterable
from typing import Any

from pyswarm_agent.local_containers.create_body import CreateBody
from pyswarm_agent.runtime.records import MountConfig
from pyswarm_common.container_spec import BindOptions, Mount, TmpfsOptions, VolumeOptions
from pyswarm_common.errors import InvalidArgument

_PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_IGNORED = frozenset({"z", "Z", "consistent", "cached", "delegated", ""})
_MOST_PARTS = 3


def asked_mounts(body: CreateBody) -> list[Mount]:
    """Return all mounts that a body asks for, but for volumes that it only declares (`Volumes`). Raises InvalidArgument."""
    host = body.host_config
    binds = [parse_bind(text) for text in host.binds or []]
    return [*binds, *(host.mounts or []), *(_tmpfs(target, options) for target, options in (host.tmpfs or {}).items())]


def parse_bind(text: str) -> Mount:
    """Return what `source:target[:options]` asks for: a bind of a path, else a volume. Raises InvalidArgument."""
    parts = text.split(":")
    if len(parts) > _MOST_PARTS or not all(parts):
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    if len(parts) == 1:
        return Mount(type="volume", target=_target(parts[0]))
    source, target, options = parts[0], _target(parts[1]), ",".join(parts[2:]).split(",")
    if set(options) - {"ro", "rw", "nocopy"} - _PROPAGATIONS - _IGNORED:
        raise InvalidArgument(f"invalid mode: {parts[2]}")
    read_only = "ro" in options
    if not source.startswith("/"):
        volume = VolumeOptions(no_copy="nocopy" in options)
        return Mount(type="volume", source=source, target=target, read_only=read_only, volume_options=volume)
    propagation = next((option for option in options if option in _PROPAGATIONS), "")
    # As with `docker run -v`: a folder is made where the source is missing.
    bind = BindOptions(propagation=propagation, create_mountpoint=True)
    return Mount(type="bind", source=posixpath.normpath(source), target=target, read_only=read_only, bind_options=bind)


def rendered_mounts(mounts: Iterable[MountConfig]) -> list[dict[str, Any]]:
    """Return the mounts as `inspect` shows them."""
    return [_rendered(mount) for mount in mounts if not mount.is_hidden]


def _rendered(mount: MountConfig) -> dict[str, Any]:
    place = {"Source": mount.source, "Destination": mount.target}
    access = {"RW": not mount.read_only, "Propagation": mount.propagation if mount.type == "bind" and not mount.volume else ""}
    if mount.volume:
        return {"Type": "volume", "Name": mount.volume, **place, "Driver": "local", "Mode": "z", **access}
    return {"Type": mount.type, **place, "Mode": "ro" if mount.read_only and mount.type == "bind" else "", **access}


def _tmpfs(target: str, options: str) -> Mount:
    pairs = [option.split("=", 1) for option in options.split(",") if option]
    return Mount(type="tmpfs", target=_target(target), tmpfs_options=TmpfsOptions(options=pairs or None))


def _target(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid mount config: invalid mount path: '{path}' mount path must be absolute")
    cleaned = posixpath.normpath(path)
    if cleaned in ("/", "//"):
        raise InvalidArgument("invalid mount config: invalid specification: destination can't be '/'")
    return cleaned
