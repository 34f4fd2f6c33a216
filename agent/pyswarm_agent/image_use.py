"""What of the image store the node's containers stand on, and must therefore stay."""

from pyswarm_agent.images import ImageStore
from pyswarm_agent.runtime import Runtime


def content_in_use(images: ImageStore, runtime: Runtime) -> set[str]:
    """Return the ids of the images and of the layers that containers use, also of images that the store has lost."""
    configs = [container.config for container in runtime.list()]
    layer_ids = images.layer_ids_at(path for config in configs for path in config.layer_paths)
    return {config.image_id for config in configs} | layer_ids
