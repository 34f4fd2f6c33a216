"""The mounts of an OCI bundle: those of every container, the files that the runtime makes, and what a configuration asks for. Pure.

Source: Moby `oci/defaults.go`, `daemon/oci_linux.go` (`WithMounts`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyswarm_agent.runtime.records import ContainerConfig, MountConfig
from pyswarm_common.errors import InvalidArgument

Json = dict[str, Any]

SHM_SIZE_BYTES = 64 * 1024 * 1024
INIT_TARGET = "/sbin/docker-init"
INIT_SOURCE = "/usr/bin/tini-static"
SHARED, SLAVE = ("shared", "rshared"), ("slave", "rslave")
PROPAGATIONS = ("private", "rprivate", *SHARED, *SLAVE)


def all_mounts(config: ContainerConfig, bundle: Path, shared_sources: Mapping[str, str], *, deep_read_only: bool) -> list[Json]:
    """Return the mounts in their order; `deep_read_only`: whether the kernel can make a whole tree of mounts read-only.

    A mount of the configuration takes the place of a system's on the same path. Raises InvalidArgument.
    """
    own = [_user_mount(mount, _source(mount, bundle, shared_sources), deep_read_only=deep_read_only) for mount in config.mounts]
    taken = {mount["destination"] for mount in own}
    given = [*_system_mounts(config), *_file_mounts(config, bundle)]
    return [*(mount for mount in given if mount["destination"] not in taken), *own]


def part_path(mount: MountConfig, bundle: Path) -> str:
    """Return where the bundle finds the part of a volume that a mount shows."""
    return str(bundle / "volumes" / hashlib.sha256(mount.target.encode()).hexdigest()[:16])


def rootfs_propagation(mounts: Iterable[MountConfig]) -> str:
    """Return how the mounts that the bundle starts from must stay, for binds to receive or send mounts; "" for not at all."""
    asked = {mount.propagation for mount in mounts if mount.type == "bind"}
    if asked & set(SHARED):
        return "shared"
    return "rslave" if asked & set(SLAVE) else ""


def _system_mounts(config: ContainerConfig) -> list[Json]:
    guarded = ["nosuid", "noexec", "nodev"]
    access = "rw" if config.is_privileged else "ro"
    shm_bytes = config.shm_size_bytes or SHM_SIZE_BYTES
    return [
        _mount("proc", "proc", "/proc", guarded),
        _mount("tmpfs", "tmpfs", "/dev", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("devpts", "devpts", "/dev/pts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _mount("sysfs", "sysfs", "/sys", [*guarded, access]),
        _mount("cgroup", "cgroup", "/sys/fs/cgroup", [*guarded, access]),
        _mount("mqueue", "mqueue", "/dev/mqueue", guarded),
        _mount("tmpfs", "shm", "/dev/shm", [*guarded, "mode=1777", f"size={shm_bytes}"]),
    ]


def _file_mounts(config: ContainerConfig, bundle: Path) -> list[Json]:
    access = "ro" if config.read_only else "rw"
    present = {"resolv.conf": config.resolv_conf, "hosts": config.hosts, "hostname": config.hostname}
    mounts = [
        _mount("bind", str(bundle / name), f"/etc/{name}", ["bind", "rprivate", access]) for name, text in present.items() if text
    ]
    if config.init:
        mounts.append(_mount("bind", INIT_SOURCE, INIT_TARGET, ["bind", "ro"]))
    return mounts


def _source(mount: MountConfig, bundle: Path, shared_sources: Mapping[str, str]) -> str:
    if mount.volume_options.subpath:
        return part_path(mount, bundle)
    return shared_sources.get(mount.source, mount.source)


def _user_mount(mount: MountConfig, source: str, *, deep_read_only: bool) -> Json:
    if mount.type == "tmpfs":
        access = "ro" if mount.read_only else "rw"
        guards = [f"no{flag}" for flag in ("suid", "exec", "dev") if flag not in mount.options]
        return _mount("tmpfs", "tmpfs", mount.target, [*guards, access, *mount.options])
    if mount.propagation not in PROPAGATIONS:
        raise InvalidArgument(f"invalid mount config for type \"bind\": invalid propagation mode: '{mount.propagation}'")
    kind, propagation = "rbind", mount.propagation
    if not mount.is_recursive:
        kind, propagation = "bind", propagation.removeprefix("r")  # crun takes the r of either for both
    options = [kind, propagation, *_access(mount, deep_read_only=deep_read_only)]
    return _mount("bind", source, mount.target, [*options, *mount.options])


def _access(mount: MountConfig, *, deep_read_only: bool) -> list[str]:
    if not mount.read_only:
        return ["rw"]
    if mount.read_only_depth == "all or fail" and not deep_read_only:
        raise InvalidArgument(
            f"mount {mount.target}: this kernel cannot make mounts recursively read-only (Linux 5.12 can): "
            "leave out bind-recursive=readonly"
        )
    is_deep = deep_read_only and mount.is_recursive and mount.read_only_depth != "top"
    return ["ro", "rro"] if is_deep else ["ro"]


def _mount(kind: str, source: str, target: str, options: list[str]) -> Json:
    return {"type": kind, "source": source, "destination": target, "options": options}
