"""What a container's volumes need before the OCI runtime binds them: what their options mount, first content, folders of them.
Blocking; runs in the start thread's own mount namespace (see `launch`).

**Volumes with options** (`type=nfs`, `tmpfs`, …) are mounted over the volume's folder, in the container's own namespace only:
the host never shows such a mount, and it goes away with the last process that has it, whatever kills the daemon. All containers
of a volume must see one and the same mount: two mounts of a tmpfs would be two empty folders. So who starts looks whether the
monitor of another container has the volume mounted, and clones that mount out of the monitor's namespace; only the first one
mounts anew. This is Docker's rule, mounted with the first container and gone with the last, without a count that could be
wrong. The volume's lock is held from looking until the new monitor runs and can be found.

**A folder of a volume** (`subpath`) is opened below the volume's root, never through a link that leads out, cloned by descriptor
and attached in the bundle, where the OCI runtime takes it from: no name is resolved twice.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from pyswarm_agent.runtime import kernel_calls
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.kernel_calls import RESOLVE_BENEATH, open_inside
from pyswarm_agent.runtime.mount_calls import in_mount_namespace_of, is_mount_point, mount_id
from pyswarm_agent.runtime.mount_options import MS_RDONLY, MS_REMOUNT, parse_mount_options, server_of, with_address
from pyswarm_agent.runtime.oci_mounts import part_path
from pyswarm_agent.runtime.paths import ContainerPaths
from pyswarm_agent.runtime.records import ContainerConfig, MountConfig, VolumeMountOptions
from pyswarm_agent.runtime.volume_content import CopyPlace, copy_image_content

MS_NOSYMFOLLOW = 1 << 8
_FILLED = "volumes-filled"
_ESCAPES = errno.EXDEV
"""What openat2(2) says of a path that leads out of the folder."""


@contextlib.contextmanager
def prepared_volumes(config: ContainerConfig, paths: ContainerPaths) -> Iterator[None]:
    """Make the container's volumes ready; its root filesystem is mounted. Leave when its monitor runs.

    Raises ContainerStartFailed, OSError.
    """
    mounts = [mount for mount in config.mounts if mount.volume]
    filesystems = {mount.volume: mount for mount in mounts if mount.volume_options.filesystem}
    with contextlib.ExitStack() as held:
        # In one order, lest two starts wait for each other.
        locks = {name: held.enter_context(_locked(filesystems[name])) for name in sorted(filesystems)}
        for name in locks:
            _mount_filesystem(filesystems[name], paths)
        for mount in mounts:
            _prepare(mount, config, paths, locks.get(mount.volume))
        if mounts and config.keeps_layer:
            (paths.home / _FILLED).touch()
        yield


def part_key(mount: MountConfig) -> str:
    """Return what tells a part of a volume from others of it in names of files."""
    return hashlib.sha256(mount.volume_options.subpath.encode()).hexdigest()[:8]


def _prepare(mount: MountConfig, config: ContainerConfig, paths: ContainerPaths, lock: int | None) -> None:
    part = _open_part(mount)
    try:
        is_folder = stat.S_ISDIR(os.fstat(part).st_mode)
        if is_folder and _wants_content(mount, config, paths):
            _fill(mount, part, paths, lock)
        if mount.volume_options.subpath:
            _attach(part, Path(part_path(mount, paths.bundle)), is_folder=is_folder)
    finally:
        os.close(part)


def _wants_content(mount: MountConfig, config: ContainerConfig, paths: ContainerPaths) -> bool:
    # A container that is started again must not find again what was deleted from its volume.
    was_filled = config.keeps_layer and (paths.home / _FILLED).exists()
    is_writable = not parse_mount_options(mount.volume_options.options).flags & MS_RDONLY
    return mount.volume_options.copies_image and is_writable and not was_filled


def _open_part(mount: MountConfig) -> int:
    """Return a descriptor of what is mounted of a volume. Raises ContainerStartFailed."""
    subpath = mount.volume_options.subpath
    try:
        root = os.open(mount.source, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ContainerStartFailed(f"error while mounting volume '{mount.volume}': {mount.source}: {error.strerror}") from error
    if not subpath:
        return root
    try:
        return open_inside(root, subpath, os.O_PATH, RESOLVE_BENEATH)
    except OSError as error:
        reason = "path escapes the volume" if error.errno == _ESCAPES else (error.strerror or "").lower()
        raise ContainerStartFailed(
            f"cannot access path {mount.source}/{subpath}: {reason}; make it in volume {mount.volume} before it is mounted"
        ) from error
    finally:
        os.close(root)


def _fill(mount: MountConfig, part: int, paths: ContainerPaths, held_lock: int | None) -> None:
    with _locked(mount) if held_lock is None else contextlib.nullcontext(held_lock) as lock:
        if mount_id(part) == mount_id(lock):
            place = CopyPlace.in_folder(Path(mount.source).parent, part_key(mount))
            copy_image_content(paths.rootfs, mount.target, f"/proc/self/fd/{part}", place, lock)
            return
        # Nothing can be renamed from beside the volume into it: its options, or the host's operator, mounted something there.
        with _without_links(part, paths.bundle / "volumes" / "filled") as folder:
            place = CopyPlace.in_folder(folder, socket.gethostname())
            copy_image_content(paths.rootfs, mount.target, str(folder), place, lock)


@contextlib.contextmanager
def _without_links(part: int, folder: Path) -> Iterator[Path]:
    """Yield a path to a folder on which no link is followed: other containers, or hosts, may be changing what is in it."""
    _attach(part, folder, is_folder=True)
    try:
        kernel_calls.mount("", str(folder), flags=MS_REMOUNT | kernel_calls.MS_BIND | MS_NOSYMFOLLOW)
        yield folder
    finally:
        kernel_calls.unmount(str(folder))


@contextlib.contextmanager
def _locked(mount: MountConfig) -> Iterator[int]:
    """Hold the volume's lock, waiting for it; yield its descriptor. Raises ContainerStartFailed when the volume is gone."""
    try:
        lock = os.open(Path(mount.source).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ContainerStartFailed(f"get {mount.volume}: no such volume") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _attach(part: int, target: Path, *, is_folder: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_folder:
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    clone = kernel_calls.clone_mounts(f"/proc/self/fd/{part}")
    try:
        kernel_calls.attach_mounts(clone, str(target))
    finally:
        os.close(clone)


def _mount_filesystem(mount: MountConfig, paths: ContainerPaths) -> None:
    """Mount what the volume's options name over its folder: the mount of its other containers, or a new one."""
    clone = _clone_of_others(mount, paths)
    if clone is not None:
        try:
            kernel_calls.attach_mounts(clone, mount.source)
        finally:
            os.close(clone)
        return
    options = mount.volume_options
    try:
        flags, propagation, data = parse_mount_options(_with_resolved_address(options))
        kernel_calls.mount(options.device, mount.source, options.filesystem, flags, data)
        later = flags & ~(kernel_calls.MS_BIND | kernel_calls.MS_REC)
        if flags & kernel_calls.MS_BIND and later:  # the kernel ignores other flags of a bind until it is mounted again
            kernel_calls.mount("", mount.source, flags=later | MS_REMOUNT | kernel_calls.MS_BIND)
        if propagation:
            kernel_calls.mount("", mount.source, flags=propagation)
    except OSError as error:
        # Without the options, which may hold a password.
        raise ContainerStartFailed(
            f"error while mounting volume '{mount.source}': failed to mount local volume: mount {options.device}:{mount.source}, "
            f"type: {options.filesystem}: {_reason(error)}; check the options of volume {mount.volume}"
        ) from error


def _clone_of_others(mount: MountConfig, paths: ContainerPaths) -> int | None:
    mount_point = os.path.realpath(mount.source)
    for pid_file in sorted(paths.bundle.parent.glob("*/conmon.pid")):
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            if is_mount_point(mount_point, pid):
                with in_mount_namespace_of(pid):
                    return kernel_calls.clone_mounts(mount.source)
    return None


def _reason(error: OSError) -> str:
    # Of a failed look-up of a name the number is none of errno's.
    return (error.strerror or str(error)).lower() if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0).lower()


def _with_resolved_address(options: VolumeMountOptions) -> str:
    """Return the options with the server's address: the kernel takes no names. Raises OSError."""
    server = server_of(options.filesystem, options.device, options.options)
    if not server:
        return options.options
    return with_address(options.options, str(socket.getaddrinfo(server, None, type=socket.SOCK_STREAM)[0][4][0]))
