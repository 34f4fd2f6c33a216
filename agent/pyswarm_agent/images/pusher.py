"""Takes an image to a registry: the blobs that it lacks, then the configuration, then the manifest under the image's tag.

A layer's blob is looked for before it is packed: in the repository itself, then in others of the same registry from which it is
mounted. Only what no repository has is packed and sent; a layer always packs to the same blob.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pyswarm_agent.images.disk import check_room, in_thread
from pyswarm_agent.images.failures import disk_failure
from pyswarm_agent.images.layers import LayerStore
from pyswarm_agent.images.manifest import DOCKER_MANIFEST, OCI_MANIFEST, digest_of
from pyswarm_agent.images.origins import Origin, read_origins, remember_origin
from pyswarm_agent.images.packing import write_gzip
from pyswarm_agent.images.puller import first_failure
from pyswarm_agent.images.records import Image, PullProgress, PushedTag, RegistryAuth, short_id
from pyswarm_agent.images.reference import Reference
from pyswarm_agent.images.registries import Registries
from pyswarm_agent.images.sharing import Report
from pyswarm_agent.images.uploads import Repository
from pyswarm_common.containment import contained
from pyswarm_common.errors import PyswarmError, Unavailable

PARALLEL_UPLOADS = 4
_CONFIG_TYPE = "application/vnd.{}.v1+json"
_DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_TELL_BYTES = 1 << 20


@dataclass(frozen=True)
class _Blob:
    digest: str
    size_bytes: int
    compression: str = "gzip"


class Pusher:
    """Pushes images of a layer store."""

    def __init__(self, layers: LayerStore, temporary: Path, registries: Registries) -> None:
        self._layers = layers
        self._temporary = temporary
        self._registries = registries
        self._uploads = asyncio.Semaphore(PARALLEL_UPLOADS)

    async def push(
        self, reference: Reference, image: Image, raw_config: bytes, auth: RegistryAuth | None, report: Report
    ) -> PushedTag:
        """Store the image under `reference`, which has a tag; return what the registry has there now.

        Raises Unauthenticated, PermissionDenied, Unavailable, or PyswarmError when a layer cannot be packed.
        """
        repository = Repository(self._registries.get(reference.domain), reference, auth)
        report(PullProgress(status=f"The push refers to repository [{reference.name}]"))
        layer_ids = list(dict.fromkeys(image.layer_ids))
        for layer_id in reversed(layer_ids):
            report(PullProgress(status="Preparing", id=short_id(layer_id)))
        with self._layers.holding(layer_ids):
            blobs = await contained(self._push_layers(repository, reference, layer_ids, report))
        with tempfile.TemporaryDirectory(prefix="push-", dir=self._temporary) as folder:
            await repository.put_bytes(image.id, raw_config, Path(folder))
        body, media_type = encode_manifest(image.id, len(raw_config), [blobs[layer_id] for layer_id in image.layer_ids])
        await repository.put_manifest(reference.tag, body, media_type)
        pushed = PushedTag(tag=reference.tag, digest=digest_of(body), size_bytes=len(body))
        report(PullProgress(status=f"{pushed.tag}: digest: {pushed.digest} size: {pushed.size_bytes}"))
        return pushed

    async def _push_layers(
        self, repository: Repository, reference: Reference, layer_ids: list[str], report: Report
    ) -> dict[str, _Blob]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    layer_id: group.create_task(self._push_layer(repository, reference, layer_id, report)) for layer_id in layer_ids
                }
        except ExceptionGroup as failures:
            raise first_failure(failures) from None
        return {layer_id: task.result() for layer_id, task in tasks.items()}

    async def _push_layer(self, repository: Repository, reference: Reference, layer_id: str, report: Report) -> _Blob:
        def tell(status: str, current_bytes: int = 0, total_bytes: int = 0) -> None:
            report(PullProgress(status=status, id=short_id(layer_id), current_bytes=current_bytes, total_bytes=total_bytes))

        async with self._uploads:
            home = self._layers.home(layer_id)
            blob, status = await self._find(repository, reference, await in_thread(read_origins, home))
            if blob is None:
                blob, status = await self._send(repository, layer_id, tell)
            tell(status)
            here = Origin(reference.domain, reference.path, blob.digest, blob.size_bytes, _OCI_LAYER + "+" + blob.compression)
            await in_thread(remember_origin, home, here)
            return blob

    async def _find(self, repository: Repository, reference: Reference, origins: Iterable[Origin]) -> tuple[_Blob | None, str]:
        """Return a blob of the layer that the repository has now, and how it came to have it."""
        usable = [origin for origin in origins if _compression(origin)]
        for origin in {origin.digest: origin for origin in usable}.values():
            if await repository.has_blob(origin.digest):
                return _Blob(origin.digest, origin.size_bytes, _compression(origin)), "Layer already exists"
        for origin in usable:
            is_near = origin.domain == reference.domain and origin.path != reference.path
            if is_near and await _mounts(repository, origin):
                return _Blob(origin.digest, origin.size_bytes, _compression(origin)), f"Mounted from {origin.path}"
        return None, ""

    async def _send(self, repository: Repository, layer_id: str, tell: Callable[[str, int, int], None]) -> tuple[_Blob, str]:
        with tempfile.TemporaryDirectory(prefix="push-", dir=self._temporary) as folder:
            path = Path(folder) / "blob"
            wanted_bytes = self._layers.tar_bytes(layer_id) + self._layers.reserve_bytes
            check_room(self._temporary, wanted_bytes, f"packing layer {layer_id}")
            try:
                await write_gzip(self._layers.home(layer_id), layer_id, path)
                digest, size_bytes = await in_thread(_digest_of_file, path)
            except OSError as error:
                raise disk_failure(error, f"packing layer {layer_id}", self._temporary) from error
            if await repository.has_blob(digest):
                return _Blob(digest, size_bytes), "Layer already exists"
            told_bytes = 0

            def tell_some(sent_bytes: int) -> None:
                nonlocal told_bytes
                if sent_bytes - told_bytes >= _TELL_BYTES or sent_bytes == size_bytes:
                    told_bytes = sent_bytes
                    tell("Pushing", sent_bytes, size_bytes)

            await repository.put_blob(digest, path, tell_some)
            return _Blob(digest, size_bytes), "Pushed"


def encode_manifest(config_digest: str, config_bytes: int, blobs: list[_Blob]) -> tuple[bytes, str]:
    """Return a manifest and its media type: Docker's, which everybody reads, unless a layer is zstd, which only OCI's can say."""
    is_docker = all(blob.compression == "gzip" for blob in blobs)
    family = "docker.container.image" if is_docker else "oci.image.config"
    media_type = DOCKER_MANIFEST if is_docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": _CONFIG_TYPE.format(family), "size": config_bytes, "digest": config_digest},
        "layers": [
            {
                "mediaType": _DOCKER_GZIP if is_docker else f"{_OCI_LAYER}+{blob.compression}",
                "size": blob.size_bytes,
                "digest": blob.digest,
            }
            for blob in blobs
        ],
    }
    return msgspec.json.format(msgspec.json.encode(manifest), indent=3), media_type


def _compression(origin: Origin) -> str:
    """Return how a blob is compressed, as media types say it; "" for one that is not to be named in a manifest."""
    for suffix in ("gzip", "zstd"):
        if origin.media_type.endswith(suffix):
            return suffix
    return ""


async def _mounts(repository: Repository, origin: Origin) -> bool:
    try:
        return await repository.mount(origin.digest, origin.path)
    except Unavailable:
        raise
    except PyswarmError:
        return False  # no right to read there, or no such repository any more: the layer is sent instead


def _digest_of_file(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
