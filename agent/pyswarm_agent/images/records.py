"""The values that the image store takes and gives: images, their run configuration, progress, credentials.

Nothing here does I/O.
"""

import base64
import binascii
from typing import Any

import msgspec

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Record


class ImageConfig(Record, frozen=True, kw_only=True):
    """What an image says about running it (OCI image-spec `config.md`); empty where the image is silent."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    exposed_ports: tuple[str, ...] = ()
    """`80/tcp`, sorted."""
    volumes: tuple[str, ...] = ()
    healthcheck: dict[str, Any] = {}
    """Docker's `Healthcheck` object as the image has it; empty if none."""
    shell: tuple[str, ...] = ()
    """What runs a healthcheck that is a text, such as `/bin/bash -c`."""


class Image(Record, frozen=True, kw_only=True):
    """An image that this node holds whole."""

    id: str
    """`sha256:…`, the digest of its configuration."""
    repo_tags: tuple[str, ...] = ()
    """Familiar names: `nginx:latest`, `127.0.0.1:5000/web:1`."""
    repo_digests: tuple[str, ...] = ()
    """Familiar names with the digest under which a registry gave it: `nginx@sha256:…`."""
    architecture: str = ""
    os: str = ""
    created: str = ""
    """RFC 3339, as the image says."""
    size_bytes: int = 0
    """All layers together: the sum of the sizes of their files."""
    config: ImageConfig = ImageConfig()
    layer_ids: tuple[str, ...] = ()
    """`sha256:…` of each uncompressed layer, bottom first (the configuration's `rootfs.diff_ids`)."""


class Platform(Record, frozen=True, kw_only=True):
    """What an image runs on."""

    architecture: str
    os: str = "linux"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Record, frozen=True, kw_only=True):
    """What a registry has under a name, for `GET /distribution/{name}/json`."""

    media_type: str
    digest: str
    size_bytes: int
    platforms: tuple[Platform, ...] = ()


class PullProgress(Record, frozen=True, kw_only=True):
    """One step of a pull, push or load; `id` is a layer's short digest, a tag, or empty for the whole."""

    status: str
    id: str = ""
    current_bytes: int = 0
    total_bytes: int = 0


class PushedTag(Record, frozen=True, kw_only=True, rename={"tag": "Tag", "digest": "Digest", "size_bytes": "Size"}):
    """What a registry has under a tag after a push: the manifest's digest and size. Encodes as Docker's `aux`."""

    tag: str
    digest: str
    size_bytes: int


class RegistryAuth(
    Record, frozen=True, kw_only=True, rename={"identity_token": "identitytoken", "registry_token": "registrytoken"}
):
    """Credentials for one registry, with the JSON names of Docker's `X-Registry-Auth` header.

    Either user and password, or an identity token (OAuth2 refresh token), or a ready bearer token.
    """

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"RegistryAuth(username={self.username!r}, …)"


class HistoryStep(Record, frozen=True):
    """One step that made an image: when (RFC 3339), by which command, and how large its layer is."""

    created: str
    created_by: str
    comment: str
    size_bytes: int


class Removal(Record, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """One thing that `remove` did: a name untagged, or an image or layer deleted. Encodes as Docker's answer."""

    untagged: str = ""
    deleted: str = ""


def short_id(digest: str) -> str:
    """Return the 12 hexadecimal digits by which people know an image or layer."""
    return digest.removeprefix("sha256:")[:12]


def decode_registry_auth(raw: bytes) -> RegistryAuth:
    """Return the credentials in the JSON of a decoded `X-Registry-Auth` header; unknown fields are ignored."""
    return msgspec.json.decode(raw, type=RegistryAuth)


def registry_auth_of_header(header: str) -> RegistryAuth | None:
    """Return the credentials in an `X-Registry-Auth` header (base64url, padded or not); None for "". Raises InvalidArgument."""
    if not header:
        return None
    try:
        return decode_registry_auth(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise InvalidArgument(f"invalid X-Registry-Auth header: {error}") from error
