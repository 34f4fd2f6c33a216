"""Where a container's files lie and how large they are, by Docker's names."""

import asyncio

from pyswarm_agent.images import ImageStore
from pyswarm_agent.runtime.interface import ContainerFolders
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.disk_space import files_bytes

_WITHOUT_FILE = ("none", "journald")


def graph_of(container: ContainerRecord, folders: ContainerFolders) -> dict[str, str]:
    """Return what there is now: files of a run while it runs, the writable layer once it has started; pure."""
    config = container.config
    found: dict[str, str] = {}
    if config.log.driver not in _WITHOUT_FILE:
        found["LogPath"] = str(folders.log)
    if container.is_live:
        found["Bundle"] = str(folders.bundle)
    if container.started_at_ns:
        found |= {
            "LowerDir": ":".join(config.layer_paths),
            "MergedDir": str(folders.root),
            "UpperDir": str(folders.upper),
            "WorkDir": str(folders.work),
        }
    return found


async def sizes_of(container: ContainerRecord, folders: ContainerFolders | None, images: ImageStore) -> dict[str, int]:
    """Return how much the container has written, and how much there is with its image, in bytes."""
    written_bytes = await asyncio.to_thread(files_bytes, folders.upper) if folders is not None else 0
    image = images.get(container.config.image_id)
    return {"SizeRw": written_bytes, "SizeRootFs": written_bytes + (image.size_bytes if image is not None else 0)}
