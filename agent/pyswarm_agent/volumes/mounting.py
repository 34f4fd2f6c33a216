"""What a container is asked to mount, as the runtime takes it: volumes are made where they do not exist.

Source of rules and words: Moby `volume/mounts/linux_parser.go`, `daemon/volumes.go`, `daemon/create_unix.go`.
"""

import contextlib
import hashlib
import posixpath
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from pyswarm_agent.mount_config import bind_config, tmpfs_config
from pyswarm_agent.runtime.mount_options import kept_options
from pyswarm_agent.runtime.records import MountConfig, VolumeMountOptions
from pyswarm_agent.volumes.records import Volume
from pyswarm_agent.volumes.store import VolumeStore
from pyswarm_common.container_settings import container_path
from pyswarm_common.container_spec import Driver, Mount, VolumeOptions
from pyswarm_common.errors import InvalidArgument, Unimplemented

_NOT_OFFERED = {"cluster": "cluster volumes (CSI)", "csi": "cluster volumes (CSI)", "image": "mounts of images"}


@dataclass(frozen=True)
class ContainerMounts:
    """Makes the mounts of containers, whoever asks for them: tasks or local containers."""

    volumes: VolumeStore

    @contextlib.asynccontextmanager
    async def prepared(
        self, mounts: Sequence[Mount], image_volumes: Sequence[str], container_id: str
    ) -> AsyncIterator[tuple[MountConfig, ...]]:
        """Yield the container's mounts, its volumes made; create the container inside, so that nobody removes them before.

        `mounts` as its user wrote them (without placeholders), `image_volumes`: what the image declares with VOLUME. Doing it again
        for the same container gives the same. Raises InvalidArgument, NotFound (a driver), Conflict, Unimplemented, OSError.
        """
        wanted = all_mounts(mounts, image_volumes)
        with self.volumes.held(volume_names(mounts, image_volumes, container_id)):
            yield tuple([await self._config(mount, container_id) for mount in wanted])

    async def discard(self, container_id: str) -> None:
        """Remove the anonymous volumes of a container that is gone. Idempotent."""
        await self.volumes.remove_of(container_id)

    async def _config(self, mount: Mount, container_id: str) -> MountConfig:
        if mount.type == "bind":
            return bind_config(mount, mount.source, mount.target)
        if mount.type == "tmpfs":
            return tmpfs_config(mount, mount.target)
        options = mount.volume_options or VolumeOptions()
        driver = options.driver_config or Driver()
        volume = await self.volumes.create(
            volume_name(mount, container_id),
            driver=driver.name,
            options=driver.options,
            labels=options.labels,
            container_id="" if mount.source else container_id,
        )
        return volume_config(mount, volume, str(self.volumes.data_path(volume.name)))


def all_mounts(mounts: Sequence[Mount], image_volumes: Sequence[str]) -> list[Mount]:
    """Return what is asked for and, where nothing is mounted, the image's volumes; parents before what lies below them.

    Pure. Raises InvalidArgument, Unimplemented.
    """
    found: dict[str, Mount] = {}
    for mount in mounts:
        _check(mount)
        target = container_path(mount.target)
        if target in found:
            raise InvalidArgument(f"Duplicate mount point: {mount.target}")
        found[target] = mount
    for declared in image_volumes:
        found.setdefault(container_path(posixpath.join("/", declared)), Mount(target=declared))
    if "/" in found:
        raise InvalidArgument(
            f"invalid mount config for type \"{found['/'].type}\": invalid specification: destination can't be '/'"
        )
    ordered = sorted(found.items(), key=lambda item: item[0].count("/"))
    return [msgspec.structs.replace(mount, target=target) for target, mount in ordered]


def volume_name(mount: Mount, container_id: str) -> str:
    """Return the name of the mounted volume; that of an anonymous one follows from its container and place. Pure."""
    return mount.source or hashlib.sha256(f"{container_id} {mount.target}".encode()).hexdigest()


def volume_names(mounts: Sequence[Mount], image_volumes: Sequence[str], container_id: str) -> tuple[str, ...]:
    """Return the names of the volumes that a container is to mount. Pure. Raises InvalidArgument, Unimplemented."""
    return tuple(volume_name(mount, container_id) for mount in all_mounts(mounts, image_volumes) if mount.type == "volume")


def volume_config(mount: Mount, volume: Volume, data_path: str) -> MountConfig:
    """Return the mount of a volume, whose own options count, not those that it would have been made with. Pure."""
    options = mount.volume_options or VolumeOptions()
    kept = kept_options(volume.options.get("o", ""))
    return MountConfig(
        type="bind",
        source=data_path,
        target=mount.target,
        read_only=mount.read_only or "ro" in kept,
        options=tuple(option for option in kept if option != "ro"),
        volume=volume.name,
        volume_options=VolumeMountOptions(
            copies_image=not options.no_copy,
            subpath=options.subpath,
            filesystem=volume.options.get("type", ""),
            device=volume.options.get("device", ""),
            options=volume.options.get("o", ""),
            is_anonymous=not mount.source,
        ),
    )


def _prefix(mount: Mount) -> str:
    return f'invalid mount config for type "{mount.type}"'


def _check(mount: Mount) -> None:
    prefix = _prefix(mount)
    if mount.type in _NOT_OFFERED:
        raise Unimplemented(f"{_NOT_OFFERED[mount.type]} are not offered: {mount.target}; use type=volume, bind or tmpfs")
    if mount.type not in ("bind", "volume", "tmpfs"):
        raise InvalidArgument(f"{prefix}: mount type unknown; on Linux it is volume, bind or tmpfs")
    if not mount.target:
        raise InvalidArgument(f"{prefix}: field Target must not be empty")
    if not mount.target.startswith("/"):
        raise InvalidArgument(f"{prefix}: invalid mount path: '{mount.target}' mount path must be absolute")
    if mount.type == "tmpfs" and mount.source:
        raise InvalidArgument("invalid tmpfs source, source must be empty")
    if mount.type == "volume":
        _check_volume(mount, prefix)


def _check_volume(mount: Mount, prefix: str) -> None:
    if mount.source.startswith("/"):
        raise InvalidArgument(f"invalid volume mount source, must not be an absolute path: {mount.source}")
    subpath = mount.volume_options.subpath if mount.volume_options else ""
    if subpath and not mount.source:
        raise InvalidArgument(f"{prefix}: must not set Subpath when using anonymous volumes")
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise InvalidArgument(f"{prefix}: invalid subpath '{subpath}': subpath must be a relative path within the volume")
