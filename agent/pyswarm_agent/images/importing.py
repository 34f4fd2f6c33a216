"""An image from a tarball of files: one layer, and a configuration that says no more than it was told."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pyswarm_agent.images.disk import in_thread, spool
from pyswarm_agent.images.dockerfile_changes import apply_changes
from pyswarm_agent.images.index import ImageIndex
from pyswarm_agent.images.layers import LayerStore
from pyswarm_agent.images.manifest import decode_image, host_platform
from pyswarm_agent.images.puller import with_size
from pyswarm_agent.images.reference import Reference
from pyswarm_common.errors import InvalidArgument


class ImageImporter:
    """Makes images of one layer in a layer store and an index."""

    def __init__(self, layers: LayerStore, index: ImageIndex, temporary: Path) -> None:
        self._layers = layers
        self._index = index
        self._temporary = temporary

    async def import_files(
        self, source: AsyncIterator[bytes], name: Reference | None, changes: Sequence[str], message: str, created: str
    ) -> str:
        """Return the id of the new image; `created` is RFC 3339.

        Raises InvalidArgument for bad changes, PyswarmError for what is no tarball.
        """
        run_config = apply_changes({}, changes)
        with tempfile.TemporaryDirectory(prefix="import-", dir=self._temporary) as folder:
            archive = Path(folder) / "files"
            await spool(source, archive, self._layers.reserve_bytes, "importing an image")
            if not archive.stat().st_size:
                raise InvalidArgument("the tarball to import is empty")
            # Held under no name: until the image is in the index, garbage collection might take the layer.
            with self._layers.holding_all():
                layer_id = await self._layers.add("", archive)
                raw_config = msgspec.json.encode(_config(layer_id, run_config, message, created))
                image = decode_image(raw_config)
                self._index.add(with_size(image, self._layers), raw_config)
                if name is not None:
                    self._index.name(name, image.id)
        await in_thread(self._index.snapshot())
        return image.id


def _config(layer_id: str, run_config: dict[str, Any], message: str, created: str) -> dict[str, Any]:
    platform = host_platform()
    comment = message or "Imported from -"
    return {
        "architecture": platform.architecture,
        **({"variant": platform.variant} if platform.variant else {}),
        "os": platform.os,
        "created": created,
        "comment": comment,
        "config": run_config,
        "rootfs": {"type": "layers", "diff_ids": [layer_id]},
        "history": [{"created": created, "comment": comment}],
    }
