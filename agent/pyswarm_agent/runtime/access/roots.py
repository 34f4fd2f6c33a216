"""A container's root for who copies files: of one that runs by a descriptor, of one that does not by what it is made of."""

import os

from pyswarm_agent.runtime.access.interface import ContainerRoot
from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.processes import identify
from pyswarm_common.errors import Conflict


def open_live_root(container: ContainerHandle) -> int:
    """Return a descriptor of a running container's root, mounts and all. Raises Conflict when it has just ended."""
    process = container.saved.process
    assert process is not None
    try:
        descriptor = os.open(f"/proc/{process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise Conflict(f"Container {container.id} has just ended") from None
    if identify(process.pid) == process:
        return descriptor
    os.close(descriptor)
    raise Conflict(f"Container {container.id} has just ended")


def stopped_root(container: ContainerHandle) -> ContainerRoot:
    """Return what the root of a container that does not run is put together from: layers, writable layer, folders of the host."""
    config = container.record.config
    mounts = [
        {"source": mount.source, "target": mount.target, "is_read_only": mount.read_only}
        for mount in config.mounts
        if mount.type == "bind" and mount.source
    ]
    return ContainerRoot(
        {
            "home": str(container.paths.home),
            "layers": len(config.layer_paths),
            "mounts": mounts,
            "is_read_only": config.read_only,
        }
    )
