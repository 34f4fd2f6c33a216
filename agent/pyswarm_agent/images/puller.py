"""Brings an image from its registry: manifest, configuration, then the missing layers in parallel, each verified before use."""

import asyncio
import tempfile
from pathlib import Path

import msgspec

from pyswarm_agent.images.disk import check_room, in_thread
from pyswarm_agent.images.download import Download
from pyswarm_agent.images.failures import disk_failure
from pyswarm_agent.images.index import ImageIndex
from pyswarm_agent.images.layers import LayerStore
from pyswarm_agent.images.manifest import (
    Content,
    Index,
    Manifest,
    check_layers_match,
    choose_platform,
    decode_image,
    decode_manifest,
    host_platform,
)
from pyswarm_agent.images.origins import Origin, encode_origins, remember_origin
from pyswarm_agent.images.partial import PartialBlobs
from pyswarm_agent.images.records import Descriptor, Image, Platform, PullProgress, RegistryAuth, short_id
from pyswarm_agent.images.reference import Reference
from pyswarm_agent.images.registries import Registries
from pyswarm_agent.images.registry import FetchedManifest, Registry
from pyswarm_agent.images.sharing import Report, SharedWork
from pyswarm_common.clock import Clock
from pyswarm_common.errors import InvalidArgument, PyswarmError

PARALLEL_DOWNLOADS = 4
CONFIG_BYTES_MAX = 8 << 20


class Puller:
    """Pulls images into a layer store and an index. Layers that several images want at once are fetched once."""

    def __init__(
        self, layers: LayerStore, index: ImageIndex, temporary: Path, partial: PartialBlobs, registries: Registries, clock: Clock
    ) -> None:
        self._layers = layers
        self._index = index
        self._temporary = temporary
        self._partial = partial
        self._registries = registries
        self._clock = clock
        self._downloads = asyncio.Semaphore(PARALLEL_DOWNLOADS)
        self._fetches: SharedWork[None] = SharedWork()

    async def pull(self, reference: Reference, auth: RegistryAuth | None, report: Report) -> Image:
        """Return the image, whole on this node and durable, under `reference` and under its digest.

        Raises NotFound, Unauthenticated, Unavailable, InvalidArgument, or PyswarmError for content that is not what it should be.
        """
        report(PullProgress(status=f"Pulling from {reference.path}", id=reference.manifest_key))
        return await self._registries.first_answer(
            reference, auth, lambda registry, its_auth: self._pull_from(registry, reference, its_auth, report)
        )

    async def _pull_from(self, registry: Registry, reference: Reference, auth: RegistryAuth | None, report: Report) -> Image:
        top, manifest = await self._fetch_manifest(registry, reference, auth)
        raw_config = await self._fetch_config(registry, reference, manifest.config, auth)
        image = decode_image(raw_config, manifest.config.digest)
        check_layers_match(image, manifest.layers)
        with self._layers.holding(image.layer_ids):
            await self._ensure_layers(registry, reference, dict(zip(image.layer_ids, manifest.layers, strict=True)), auth, report)
            before = self._index.id_of(reference)
            image = self._record(reference, top.digest, image, raw_config)
        await in_thread(self._index.snapshot())
        report(PullProgress(status=f"Digest: {top.digest}"))
        news = "Image is up to date" if before == image.id else "Downloaded newer image"
        report(PullProgress(status=f"Status: {news} for {reference.familiar}"))
        return image

    async def resolve(self, reference: Reference, auth: RegistryAuth | None) -> Descriptor:
        """Return what the registry has under a name. Raises as `pull` does."""
        return await self._registries.first_answer(
            reference, auth, lambda registry, its_auth: self._resolve_at(registry, reference, its_auth)
        )

    async def digest_of(self, reference: Reference, auth: RegistryAuth | None) -> str:
        """Return the digest that the registry has under a name; cheaper than `resolve`. Raises as `pull` does."""
        fetched = await self._registries.first_answer(
            reference, auth, lambda registry, its_auth: registry.fetch_manifest(reference, its_auth)
        )
        decode_manifest(fetched.body, fetched.media_type)  # what no node could run is not worth recording
        return fetched.digest

    async def _resolve_at(self, registry: Registry, reference: Reference, auth: RegistryAuth | None) -> Descriptor:
        fetched = await registry.fetch_manifest(reference, auth)
        decoded = decode_manifest(fetched.body, fetched.media_type)
        if isinstance(decoded, Index):
            platforms = tuple(entry.platform for entry in decoded.manifests if entry.platform is not None)
        else:
            image = decode_image(await self._fetch_config(registry, reference, decoded.config, auth))
            platforms = (Platform(architecture=image.architecture, os=image.os),)
        return Descriptor(media_type=fetched.media_type, digest=fetched.digest, size_bytes=len(fetched.body), platforms=platforms)

    async def close(self) -> None:
        """Cancel what runs."""
        await self._fetches.close()

    async def _fetch_manifest(
        self, registry: Registry, reference: Reference, auth: RegistryAuth | None
    ) -> tuple[FetchedManifest, Manifest]:
        """Return what the name points at, and this platform's manifest in it."""
        top = await registry.fetch_manifest(reference, auth)
        decoded = decode_manifest(top.body, top.media_type)
        if isinstance(decoded, Index):
            entry = choose_platform(decoded, host_platform())
            fetched = await registry.fetch_manifest(reference.with_digest(entry.digest), auth)
            decoded = decode_manifest(fetched.body, fetched.media_type)
        if isinstance(decoded, Index):
            raise PyswarmError(f"{reference.familiar}: a manifest list within a manifest list")
        return top, decoded

    async def _fetch_config(self, registry: Registry, reference: Reference, content: Content, auth: RegistryAuth | None) -> bytes:
        if content.size_bytes > CONFIG_BYTES_MAX:
            raise InvalidArgument(f"{reference.familiar}: an image configuration of {content.size_bytes} bytes")
        if self._index.get(content.digest) is not None:
            return self._index.config(content.digest)
        path = self._new_file("config-")
        try:
            await Download(registry, reference, content, path, auth=auth, clock=self._clock).run()
            return path.read_bytes()
        finally:
            path.unlink()

    async def _ensure_layers(
        self, registry: Registry, reference: Reference, layers: dict[str, Content], auth: RegistryAuth | None, report: Report
    ) -> None:
        for content in layers.values():
            report(PullProgress(status="Pulling fs layer", id=short_id(content.digest)))
        try:
            async with asyncio.TaskGroup() as group:
                for layer_id, content in layers.items():
                    group.create_task(self._ensure_layer(registry, reference, layer_id, content, auth, report))
        except ExceptionGroup as failures:
            raise first_failure(failures) from None

    async def _ensure_layer(
        self,
        registry: Registry,
        reference: Reference,
        layer_id: str,
        content: Content,
        auth: RegistryAuth | None,
        report: Report,
    ) -> None:
        if layer_id in self._layers:
            report(PullProgress(status="Already exists", id=short_id(content.digest)))
            await in_thread(remember_origin, self._layers.home(layer_id), _origin(registry, reference, content))
            return

        async def fetch(report: Report) -> None:
            await self._fetch_layer(registry, reference, layer_id, content, auth, report)

        await self._fetches.run(layer_id, fetch, report)

    async def _fetch_layer(
        self,
        registry: Registry,
        reference: Reference,
        layer_id: str,
        content: Content,
        auth: RegistryAuth | None,
        report: Report,
    ) -> None:
        def tell(status: str, current_bytes: int = 0) -> None:
            total_bytes = content.size_bytes if current_bytes else 0
            report(PullProgress(status=status, id=short_id(content.digest), current_bytes=current_bytes, total_bytes=total_bytes))

        with self._partial.file(content.digest) as path:
            await self._download(
                Download(
                    registry,
                    reference,
                    content,
                    path,
                    auth=auth,
                    clock=self._clock,
                    on_bytes=lambda size_bytes: tell("Downloading", size_bytes),
                ),
                content,
            )
            tell("Download complete")
            tell("Extracting", content.size_bytes)
            origin = encode_origins(_origin(registry, reference, content))
            await self._layers.add(layer_id, path, digest=content.digest, origin=origin)
            tell("Pull complete")

    async def _download(self, download: Download, content: Content) -> None:
        async with self._downloads:
            wanted_bytes = max(0, content.size_bytes - download.present_bytes) + self._layers.reserve_bytes
            check_room(self._temporary, wanted_bytes, f"downloading {content.digest}")
            try:
                await download.run()
            except OSError as error:
                raise disk_failure(error, f"downloading {content.digest}", self._temporary) from error

    def _record(self, reference: Reference, digest: str, image: Image, raw_config: bytes) -> Image:
        self._index.add(with_size(image, self._layers), raw_config)
        self._index.name(reference, image.id)
        self._index.name(reference.with_digest(digest), image.id)
        recorded = self._index.get(image.id)
        assert recorded is not None
        return recorded

    def _new_file(self, prefix: str) -> Path:
        with tempfile.NamedTemporaryFile(prefix=prefix, dir=self._temporary, delete=False) as file:
            return Path(file.name)


def _origin(registry: Registry, reference: Reference, content: Content) -> Origin:
    return Origin(registry.domain, reference.path, content.digest, content.size_bytes, content.media_type)


def with_size(image: Image, layers: LayerStore) -> Image:
    """Return the image with its size filled in; all its layers must be there."""
    return msgspec.structs.replace(image, size_bytes=sum(map(layers.size_bytes, image.layer_ids)))


def first_failure(failures: ExceptionGroup[Exception]) -> Exception:
    """Return the first single error of a group: layers fail for one reason, and a person wants that."""
    error: Exception = failures
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
