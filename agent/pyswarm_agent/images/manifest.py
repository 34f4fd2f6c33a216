"""Reading manifests, indexes and image configurations: Docker's schema 2 and OCI's, which differ in names only.

Pure: bytes in, values out. Everything here comes from outside and is checked before it is believed.
"""

import hashlib
import os
from typing import Any, TypeVar

import msgspec

from pyswarm_agent.images.records import Image, ImageConfig, Platform
from pyswarm_agent.images.reference import is_digest
from pyswarm_common.errors import NotFound, PyswarmError

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPES = (DOCKER_MANIFEST, OCI_MANIFEST)
INDEX_TYPES = (DOCKER_LIST, OCI_INDEX)
CONFIG_TYPES = ("application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json")
LAYERS_MAX = 127
"""As Docker: more would not fit overlayfs's mount options."""

_ARCHITECTURES = {
    "x86_64": Platform(architecture="amd64"),
    "aarch64": Platform(architecture="arm64", variant="v8"),
    "armv7l": Platform(architecture="arm", variant="v7"),
    "armv6l": Platform(architecture="arm", variant="v6"),
    "i686": Platform(architecture="386"),
}
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7"}
_T = TypeVar("_T")


class Content(msgspec.Struct, frozen=True, rename={"media_type": "mediaType", "size_bytes": "size"}):
    """A pointer to content by digest (OCI `descriptor.md`)."""

    digest: str
    size_bytes: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Manifest(msgspec.Struct, frozen=True):
    """One image: its configuration and its layers, bottom first."""

    config: Content
    layers: tuple[Content, ...]


class Index(msgspec.Struct, frozen=True):
    """Several images under one name, one a platform."""

    manifests: tuple[Content, ...]


class _MediaTypeOnly(msgspec.Struct, rename={"media_type": "mediaType", "schema_version": "schemaVersion"}):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()


class _RootFS(msgspec.Struct):
    diff_ids: tuple[str, ...] = ()


class _RunConfig(msgspec.Struct, rename="pascal"):
    env: list[str] | None = None
    entrypoint: list[str] | str | None = None
    cmd: list[str] | str | None = None
    working_dir: str | None = ""
    user: str | None = ""
    labels: dict[str, str] | None = None
    stop_signal: str | None = ""
    exposed_ports: dict[str, Any] | None = None
    volumes: dict[str, Any] | None = None
    healthcheck: dict[str, Any] | None = None
    shell: list[str] | None = None


class _ConfigFile(msgspec.Struct):
    architecture: str = ""
    os: str = "linux"
    created: str | None = ""
    config: _RunConfig | None = None
    rootfs: _RootFS = msgspec.field(default_factory=_RootFS)


def digest_of(data: bytes) -> str:
    """Return the sha256 digest of `data` as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def host_platform() -> Platform:
    """Return the platform of this machine's kernel."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, Platform(architecture=machine))


def decode_manifest(body: bytes, content_type: str = "") -> Manifest | Index:
    """Return what a manifest says; its own `mediaType` wins over the header. Raises PyswarmError."""
    head = _decode(body, _MediaTypeOnly, "manifest")
    media_type = media_type_of(body, content_type)
    if media_type in INDEX_TYPES or (not media_type and bytes(head.manifests)):
        return _checked_index(_decode(body, Index, "manifest list"))
    if media_type in MANIFEST_TYPES or (not media_type and bytes(head.layers)):
        return _checked_manifest(_decode(body, Manifest, "manifest"))
    if head.schema_version == 1:
        media_type = media_type or "application/vnd.docker.distribution.manifest.v1+json"
    raise PyswarmError(f"unsupported manifest media type and no default available: {media_type or 'none given'}")


def media_type_of(body: bytes, content_type: str) -> str:
    """Return the media type of a manifest: the one inside, else the header's."""
    inside = _decode(body, _MediaTypeOnly, "manifest").media_type
    return inside or content_type.partition(";")[0].strip().removesuffix("application/json")


def choose_platform(index: Index, platform: Platform) -> Content:
    """Return the entry that fits `platform` best: the same variant, else the first of the architecture. Raises NotFound."""
    fitting = [
        entry
        for entry in index.manifests
        if entry.platform is None or (entry.platform.os, entry.platform.architecture) == (platform.os, platform.architecture)
    ]
    if not fitting:
        raise NotFound(f"no matching manifest for {platform} in the manifest list entries")
    return min(fitting, key=lambda entry: _variant_distance(entry.platform, platform))


def decode_image(raw: bytes, image_id: str = "") -> Image:
    """Return the image whose configuration file is `raw`, without names and size. Raises PyswarmError."""
    file = _decode(raw, _ConfigFile, "image configuration")
    layer_ids = file.rootfs.diff_ids
    if not all(is_digest(layer_id) for layer_id in layer_ids):
        raise PyswarmError("image configuration: a diff_id is no sha256 digest")
    if len(layer_ids) > LAYERS_MAX:
        raise PyswarmError(f"image configuration: {len(layer_ids)} layers, where at most {LAYERS_MAX} are supported")
    return Image(
        id=image_id or digest_of(raw),
        architecture=file.architecture,
        os=file.os or "linux",
        created=file.created or "",
        config=_run_config(file.config or _RunConfig()),
        layer_ids=layer_ids,
    )


def check_layers_match(image: Image, layers: tuple[Content, ...]) -> None:
    """Raise PyswarmError unless the manifest names as many layers as the configuration."""
    if len(layers) != len(image.layer_ids):
        raise PyswarmError(f"layers from manifest don't match image configuration: {len(layers)} against {len(image.layer_ids)}")


def _run_config(config: _RunConfig) -> ImageConfig:
    return ImageConfig(
        env=tuple(config.env or ()),
        entrypoint=_words(config.entrypoint),
        cmd=_words(config.cmd),
        working_dir=config.working_dir or "",
        user=config.user or "",
        labels=config.labels or {},
        stop_signal=config.stop_signal or "",
        exposed_ports=tuple(sorted(config.exposed_ports or ())),
        volumes=tuple(sorted(config.volumes or ())),
        healthcheck=config.healthcheck or {},
        shell=tuple(config.shell or ()),
    )


def _words(value: list[str] | str | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _variant_distance(offered: Platform | None, wanted: Platform) -> int:
    if offered is None:
        return 2
    default = _DEFAULT_VARIANTS.get(wanted.architecture, "")
    return 0 if (offered.variant or default) == (wanted.variant or default) else 1


def _checked_manifest(manifest: Manifest) -> Manifest:
    for content in (manifest.config, *manifest.layers):
        _check_content(content)
    if manifest.config.media_type and manifest.config.media_type not in CONFIG_TYPES:
        raise PyswarmError(f"unsupported media type {manifest.config.media_type}: this is no container image")
    if len(manifest.layers) > LAYERS_MAX:
        raise PyswarmError(f"manifest: {len(manifest.layers)} layers, where at most {LAYERS_MAX} are supported")
    return manifest


def _checked_index(index: Index) -> Index:
    for content in index.manifests:
        _check_content(content)
    return index


def _check_content(content: Content) -> None:
    if not is_digest(content.digest):
        raise PyswarmError(f"manifest: unsupported digest {content.digest!r} (pyswarm checks sha256 digests only)")
    if content.size_bytes < 0:
        raise PyswarmError(f"manifest: {content.digest} has a negative size")


def _decode(body: bytes, type_: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PyswarmError(f"cannot read the {what}: {error}") from error
