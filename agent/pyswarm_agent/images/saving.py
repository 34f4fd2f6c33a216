"""Images as a tarball: an OCI layout that also has the `manifest.json` of `docker save`, so that all who read either can load it.

    blobs/sha256/<diff-id>      each layer's archive, uncompressed
                 <image id>     its configuration
                 <digest>       an OCI manifest of these
    index.json, oci-layout      the layout's entrance
    manifest.json               docker's

It is made while it is read: nothing of it lies on the disk.
"""

import tarfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pyswarm_agent.images.layers import LayerStore
from pyswarm_agent.images.manifest import OCI_INDEX, OCI_MANIFEST, digest_of
from pyswarm_agent.images.packing import can_pack, read_tar
from pyswarm_agent.images.records import Image
from pyswarm_agent.images.reference import Reference
from pyswarm_common.errors import PyswarmError

_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class SavedImage:
    """An image to be saved, under these names (tags, or none)."""

    image: Image
    raw_config: bytes
    names: tuple[Reference, ...]


async def save_images(saved: Sequence[SavedImage], layers: LayerStore) -> AsyncIterator[bytes]:
    """Yield the tarball. All of its layers must be held. Raises PyswarmError for a layer that cannot be packed."""
    for folder in ("blobs", "blobs/sha256"):
        yield _header(folder, 0, tarfile.DIRTYPE)
    layer_ids = list(dict.fromkeys(layer_id for each in saved for layer_id in each.image.layer_ids))
    for layer_id in layer_ids:
        async for data in _layer_member(layer_id, layers):
            yield data
    entries = []
    for each in saved:
        yield _member(_blob(each.image.id), each.raw_config)
        manifest = _encode(_manifest(each, layers))
        yield _member(_blob(digest_of(manifest)), manifest)
        entries += _index_entries(each, manifest)
    yield _member("index.json", _encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
    yield _member("manifest.json", _encode([_docker_entry(each) for each in saved]))
    yield _member("oci-layout", _encode({"imageLayoutVersion": "1.0.0"}))
    yield _END


def check_packable(saved: Sequence[SavedImage], layers: LayerStore) -> None:
    """Raises PyswarmError when a layer's archive cannot be built again, before a byte is sent."""
    for each in saved:
        for layer_id in each.image.layer_ids:
            if not layers.tar_bytes(layer_id) or not can_pack(layers.home(layer_id)):
                raise PyswarmError(
                    f"{(each.image.repo_tags or (each.image.id,))[0]} cannot be saved: an older version of pyswarm unpacked its "
                    f"layer {layer_id}; remove the image and pull or load it once more"
                )


async def _layer_member(layer_id: str, layers: LayerStore) -> AsyncIterator[bytes]:
    size_bytes = layers.tar_bytes(layer_id)
    yield _header(_blob(layer_id), size_bytes)
    async for piece in read_tar(layers.home(layer_id), layer_id):
        yield piece
    yield bytes(-size_bytes % tarfile.BLOCKSIZE)


def _manifest(saved: SavedImage, layers: LayerStore) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": _CONFIG_TYPE, "digest": saved.image.id, "size": len(saved.raw_config)},
        "layers": [
            {"mediaType": _LAYER_TYPE, "digest": layer_id, "size": layers.tar_bytes(layer_id)} for layer_id in saved.image.layer_ids
        ],
    }


def _index_entries(saved: SavedImage, manifest: bytes) -> list[dict[str, Any]]:
    descriptor = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
    return [
        {**descriptor, "annotations": {"io.containerd.image.name": str(name), "org.opencontainers.image.ref.name": name.tag}}
        for name in saved.names
    ] or [descriptor]


def _docker_entry(saved: SavedImage) -> dict[str, Any]:
    return {
        "Config": _blob(saved.image.id),
        "RepoTags": [name.familiar for name in saved.names] or None,
        "Layers": [_blob(layer_id) for layer_id in saved.image.layer_ids],
    }


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _member(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size_bytes: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size_bytes, kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info.tobuf(tarfile.GNU_FORMAT)  # its numbers have no limit, as those of ustar have at 8 GiB


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)
