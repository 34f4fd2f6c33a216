"""Images from tarballs: what `docker save` writes and OCI image layouts, plain or compressed as a whole.

The tarball is spooled to a file first: its parts are then read in the order they are needed, its layers unpacked in parallel.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pyswarm_agent.images.byte_stream import INPUT_BYTES, decompress
from pyswarm_agent.images.disk import RoomWatch, in_thread, spool
from pyswarm_agent.images.failures import corrupt_layer, disk_failure
from pyswarm_agent.images.index import ImageIndex
from pyswarm_agent.images.layers import LayerStore
from pyswarm_agent.images.manifest import (
    Content,
    Index,
    check_layers_match,
    choose_platform,
    decode_image,
    decode_manifest,
    digest_of,
    host_platform,
)
from pyswarm_agent.images.puller import CONFIG_BYTES_MAX, first_failure, with_size
from pyswarm_agent.images.records import PullProgress, short_id
from pyswarm_agent.images.reference import Reference, parse_reference
from pyswarm_agent.images.sharing import Report
from pyswarm_agent.images.tar_index import Part, TarIndex
from pyswarm_agent.images.tar_stream import TarError
from pyswarm_common.errors import InvalidArgument, PyswarmError

_DOING = "loading images"
_REFERENCE_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class _SavedImage(msgspec.Struct, rename="pascal"):
    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


@dataclass(frozen=True)
class _FoundImage:
    """An image that the tarball holds, before its layers are unpacked; `digests` are the layers' names in errors."""

    raw_config: bytes
    layers: list[Part]
    digests: list[str]
    names: list[Reference]


class ArchiveLoader:
    """Loads tarballs into a layer store and an index."""

    def __init__(self, layers: LayerStore, index: ImageIndex, temporary: Path) -> None:
        self._layers = layers
        self._index = index
        self._temporary = temporary

    async def load(self, source: AsyncIterator[bytes] | Path, report: Report) -> list[str]:
        """Return the familiar names of the loaded images, or their ids where the tarball names them not.

        Raises InvalidArgument for what is no image tarball, PyswarmError for damaged content; images before the damaged one stay.
        """
        with tempfile.TemporaryDirectory(prefix="load-", dir=self._temporary) as folder:
            tarball = await _spool(source, Path(folder), self._layers.reserve_bytes)
            archive = await in_thread(_Archive, tarball)
            loaded: list[str] = []
            for found in await in_thread(archive.images):
                loaded += await self._load_image(tarball, found, report)
        await in_thread(self._index.snapshot())
        return loaded

    async def _load_image(self, tarball: Path, found: _FoundImage, report: Report) -> list[str]:
        image = decode_image(found.raw_config)
        if len(image.layer_ids) != len(found.layers):
            raise InvalidArgument(f"invalid archive: {len(found.layers)} layers, where {image.id} has {len(image.layer_ids)}")
        parts = dict(zip(image.layer_ids, zip(found.layers, found.digests, strict=True), strict=True))
        with self._layers.holding(image.layer_ids):
            try:
                async with asyncio.TaskGroup() as group:
                    for layer_id, (part, digest) in parts.items():
                        group.create_task(self._load_layer(tarball, layer_id, part, digest, report))
            except ExceptionGroup as failures:
                raise first_failure(failures) from None
            self._index.add(with_size(image, self._layers), found.raw_config)
            for name in found.names:
                self._index.name(name, image.id)
        return [name.familiar for name in found.names] or [image.id]

    async def _load_layer(self, tarball: Path, layer_id: str, part: Part, digest: str, report: Report) -> None:
        if layer_id in self._layers:
            return
        await self._layers.add(layer_id, tarball, offset=part.offset, size_bytes=part.size_bytes, digest=digest)
        report(
            PullProgress(status="Loading layer", id=short_id(layer_id), current_bytes=part.size_bytes, total_bytes=part.size_bytes)
        )


class _Archive:
    """A seekable, uncompressed image tarball."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._members = TarIndex(path)
        except TarError as error:
            raise InvalidArgument(f"invalid archive: this is no image tarball ({error})") from error

    def images(self) -> list[_FoundImage]:
        """Return the images in it: by `manifest.json` where there is one (newer Dockers write both forms), else as OCI layout."""
        if "manifest.json" in self._members:
            return self._saved_images()
        if "index.json" in self._members:
            return self._layout_images()
        raise InvalidArgument("invalid archive: neither manifest.json (docker save) nor index.json (OCI layout) is in it")

    def _saved_images(self) -> list[_FoundImage]:
        try:
            saved = msgspec.json.decode(self._read("manifest.json"), type=list[_SavedImage])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArgument(f"invalid archive: manifest.json: {error}") from error
        return [
            _FoundImage(
                raw_config=self._read(image.config),
                layers=[self._part(layer) for layer in image.layers],
                digests=[""] * len(image.layers),
                names=[parse_reference(tag) for tag in image.repo_tags or ()],
            )
            for image in saved
        ]

    def _layout_images(self) -> list[_FoundImage]:
        index = decode_manifest(self._read("index.json"), "application/vnd.oci.image.index.v1+json")
        if not isinstance(index, Index):
            raise InvalidArgument("invalid archive: index.json is no image index")
        return [self._layout_image(entry) for entry in index.manifests]

    def _layout_image(self, entry: Content) -> _FoundImage:
        manifest = decode_manifest(self._read_blob(entry), entry.media_type)
        if isinstance(manifest, Index):
            manifest = decode_manifest(self._read_blob(choose_platform(manifest, host_platform())))
        if isinstance(manifest, Index):
            raise InvalidArgument("invalid archive: an image index within an image index")
        raw_config = self._read_blob(manifest.config)
        check_layers_match(decode_image(raw_config), manifest.layers)
        return _FoundImage(
            raw_config=raw_config,
            layers=[self._checked_blob(layer) for layer in manifest.layers],
            digests=[layer.digest for layer in manifest.layers],
            names=_names_in(entry.annotations or {}),
        )

    def _part(self, name: str) -> Part:
        try:
            return self._members.find(name)
        except KeyError:
            raise InvalidArgument(f"invalid archive: {name} is not in it") from None
        except ValueError as error:
            raise InvalidArgument(f"invalid archive: {error}") from None

    def _read(self, name: str) -> bytes:
        part = self._part(name)
        if part.size_bytes > CONFIG_BYTES_MAX:
            raise InvalidArgument(f"invalid archive: {name} is larger than {CONFIG_BYTES_MAX} bytes")
        with self._path.open("rb") as file:
            file.seek(part.offset)
            return file.read(part.size_bytes)

    def _read_blob(self, content: Content) -> bytes:
        data = self._read(_blob_path(content))
        if digest_of(data) != content.digest:
            raise PyswarmError(f"invalid archive: verification failed for digest {content.digest}")
        return data

    def _checked_blob(self, content: Content) -> Part:
        part = self._part(_blob_path(content))
        hasher = hashlib.sha256()
        left = part.size_bytes
        with self._path.open("rb") as file:
            file.seek(part.offset)
            while left and (piece := file.read(min(1 << 20, left))):
                hasher.update(piece)
                left -= len(piece)
        if "sha256:" + hasher.hexdigest() != content.digest:
            raise corrupt_layer(content.digest, "the archive holds something else under that name")
        return part


def _blob_path(content: Content) -> str:
    return "blobs/" + content.digest.replace(":", "/")


def _names_in(annotations: dict[str, str]) -> list[Reference]:
    """Return the name that an OCI layout gives an image; a bare tag (`latest`) names no repository and so counts for nothing."""
    for key in _REFERENCE_ANNOTATIONS:
        text = annotations.get(key, "")
        if "/" in text or ":" in text:
            return [parse_reference(text)]
    return []


async def _spool(source: AsyncIterator[bytes] | Path, folder: Path, reserve_bytes: int) -> Path:
    """Return a plain tar file with the source's content; a path to a plain tar file is taken as it is."""
    if isinstance(source, Path):
        path = source
    else:
        path = folder / "upload"
        await spool(source, path, reserve_bytes, _DOING)
    return await in_thread(_decompressed, path, folder / "archive.tar", reserve_bytes)


def _decompressed(path: Path, target: Path, reserve_bytes: int) -> Path:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InvalidArgument(f"{path}: no such file") from error
    try:
        if os.pread(descriptor, 262, 0)[257:] == b"ustar" or not os.fstat(descriptor).st_size:
            return path
        watch = RoomWatch(target.parent, reserve_bytes, _DOING)
        with target.open("wb") as file:
            for piece in decompress(lambda: os.read(descriptor, INPUT_BYTES)):
                watch.will_write(len(piece))
                file.write(piece)
    except TarError as error:
        raise InvalidArgument(f"invalid archive: {error}") from error
    except OSError as error:
        raise disk_failure(error, _DOING, target.parent) from error
    finally:
        os.close(descriptor)
    return target
