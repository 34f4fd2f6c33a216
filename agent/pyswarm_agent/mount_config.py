"""Bind and tmpfs mounts of a spec as the runtime takes them. Pure. (Volumes, secrets and configs: `task_mounts`.)

Source of rules and words: Moby `volume/mounts/linux_parser.go`, `daemon/cluster/executor/container/validate.go`.
"""

from typing import Literal

from pyswarm_agent.runtime.records import MountConfig
from pyswarm_common.container_spec import BindOptions, Mount, TmpfsOptions
from pyswarm_common.errors import InvalidArgument


def bind_config(mount: Mount, source: str, target: str) -> MountConfig:
    """Return a bind mount; `source` and `target` without placeholders. Raises InvalidArgument."""
    options = mount.bind_options or BindOptions()
    if not source.startswith("/"):
        raise InvalidArgument(f"invalid bind mount source, must be an absolute path: {source}")
    return MountConfig(
        type="bind",
        source=source,
        target=target,
        read_only=mount.read_only,
        is_recursive=not options.non_recursive,
        propagation=options.propagation or "rprivate",
        read_only_depth=_depth(options),
        creates_source=options.create_mountpoint,
    )


def tmpfs_config(mount: Mount, target: str) -> MountConfig:
    """Return a tmpfs mount."""
    return MountConfig(type="tmpfs", target=target, read_only=mount.read_only, options=tmpfs_options(mount.tmpfs_options))


def tmpfs_options(options: TmpfsOptions | None) -> tuple[str, ...]:
    """Return a tmpfs's options as mount(8) takes them: `size=…`, `mode=…` and those given by name."""
    if options is None:
        return ()
    found = [f"size={options.size_bytes}"] if options.size_bytes > 0 else []
    if options.mode:
        found.append(f"mode={options.mode:o}")
    return (*found, *("=".join(option[:2]) for option in options.options or () if option))


def _depth(options: BindOptions) -> Literal["all", "top", "all or fail"]:
    if options.read_only_force_recursive:
        return "all or fail"
    return "top" if options.read_only_non_recursive else "all"
