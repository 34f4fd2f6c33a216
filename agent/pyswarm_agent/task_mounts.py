"""The mounts of a task: its spec's, with placeholders filled in; pure. The volumes are made by `volumes.mounting`.

Source: SwarmKit `template/expand.go` (`expandMounts`): source, target, and what a volume would be made with.
"""

import msgspec

from pyswarm_agent.placeholders import Values, expand
from pyswarm_common.container_spec import ContainerSpec, Driver, Mount, VolumeOptions


def task_mounts(spec: ContainerSpec, values: Values) -> list[Mount]:
    """Return the spec's mounts without placeholders. Raises InvalidArgument for an unknown one."""
    return [
        msgspec.structs.replace(
            mount,
            source=expand(mount.source, values, "mount source"),
            target=expand(mount.target, values, "mount target"),
            volume_options=_volume_options(mount.volume_options, values),
        )
        for mount in spec.mounts or ()
    ]


def _volume_options(options: VolumeOptions | None, values: Values) -> VolumeOptions | None:
    if options is None:
        return None
    driver = options.driver_config
    return msgspec.structs.replace(
        options,
        labels=_expanded(options.labels, values, "volume label"),
        driver_config=None
        if driver is None
        else Driver(name=driver.name, options=_expanded(driver.options, values, "volume option")),
    )


def _expanded(members: dict[str, str] | None, values: Values, field: str) -> dict[str, str] | None:
    return {key: expand(value, values, f"{field} {key}") for key, value in members.items()} if members else members
