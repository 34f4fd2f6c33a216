"""What of the image store the node's containers stand on, or its tasks wait for, and must therefore stay."""

from collections import Counter

from pyswarm_agent.images import ImageStore
from pyswarm_agent.images.removal import ImageUser
from pyswarm_agent.runtime import Runtime


def content_in_use(images: ImageStore, runtime: Runtime) -> set[str]:
    """Return the ids of the images and of the layers that containers use, also of images that the store has lost.

    With them are the images of tasks that have no container yet.
    """
    configs = [container.config for container in runtime.list()]
    layer_ids = images.layer_ids_at(path for config in configs for path in config.layer_paths)
    return {config.image_id for config in configs} | layer_ids | images.wanted_ids()


def image_users(runtime: Runtime) -> dict[str, ImageUser]:
    """Return by image id a container that uses the image, a running one if there is one."""
    users: dict[str, ImageUser] = {}
    for container in runtime.list():
        config = container.config
        if container.is_live or config.image_id not in users:
            users[config.image_id] = ImageUser(config.id, container.is_live)
    return users


def container_counts(runtime: Runtime) -> Counter[str]:
    """Return by image id how many containers it has."""
    return Counter(container.config.image_id for container in runtime.list())
