"""Manifests and configurations from outside: what is believed and what is refused."""

import pytest
from image_builder import OCI_INDEX, OCI_MANIFEST, BuiltImage, compact_json, descriptor, make_layer

from pyswarm_agent.images.manifest import (
    Index,
    Manifest,
    choose_platform,
    decode_image,
    decode_manifest,
)
from pyswarm_agent.images.records import Platform
from pyswarm_common.errors import NotFound, PyswarmError

ARM64 = Platform(architecture="arm64", variant="v8")


def index_of(*platforms: dict[str, str] | None) -> Index:
    entries = [descriptor(str(n).encode(), OCI_MANIFEST, platform=platform) for n, platform in enumerate(platforms)]
    decoded = decode_manifest(compact_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
    assert isinstance(decoded, Index)
    return decoded


def test_docker_and_oci_manifests_read_the_same() -> None:
    image = BuiltImage([make_layer([])])
    for oci in (False, True):
        body, blobs = image.manifest(oci=oci)
        manifest = decode_manifest(body)
        assert isinstance(manifest, Manifest)
        assert {manifest.config.digest, *(layer.digest for layer in manifest.layers)} == set(blobs)


def test_the_media_type_may_come_from_the_header_or_be_missing() -> None:
    body = b'{"schemaVersion":2,"manifests":[]}'
    assert decode_manifest(body, OCI_INDEX + "; charset=utf-8") == Index(())
    assert decode_manifest(body) == Index(())


@pytest.mark.parametrize(
    ("platforms", "wanted", "position"),
    [
        ([{"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64"}], ARM64, 1),
        ([{"os": "linux", "architecture": "arm64", "variant": "v8"}], Platform(architecture="arm64"), 0),
        (
            [
                {"os": "linux", "architecture": "arm", "variant": "v6"},
                {"os": "linux", "architecture": "arm", "variant": "v7"},
            ],
            Platform(architecture="arm", variant="v7"),
            1,
        ),
        ([{"os": "unknown", "architecture": "unknown"}, None], ARM64, 1),
    ],
)
def test_the_platform_that_fits_best_is_chosen(platforms: list[dict[str, str]], wanted: Platform, position: int) -> None:
    index = index_of(*platforms)
    assert choose_platform(index, wanted) is index.manifests[position]


def test_a_list_without_this_platform_says_so() -> None:
    with pytest.raises(NotFound, match="no matching manifest for linux/arm64/v8 in the manifest list entries"):
        choose_platform(index_of({"os": "windows", "architecture": "arm64"}), ARM64)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"not json", "cannot read the manifest"),
        (b"[]", "cannot read the manifest"),
        (b'{"schemaVersion":1,"fsLayers":[]}', "unsupported manifest media type"),
        (b'{"schemaVersion":2,"layers":[],"config":{"digest":"md5:1","size":1}}', "unsupported digest"),
        (b'{"schemaVersion":2,"layers":[],"config":{"digest":"sha256:%s","size":-1}}' % (b"0" * 64), "negative size"),
        (
            b'{"schemaVersion":2,"layers":[],"config":{"digest":"sha256:%s","size":1,"mediaType":"x/helm"}}' % (b"0" * 64),
            "this is no container image",
        ),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(PyswarmError, match=message):
        decode_manifest(body)


def test_a_configuration_says_how_to_run_the_image() -> None:
    run_config = {
        "Env": ["A=1"],
        "Entrypoint": ["nginx"],
        "Cmd": None,
        "WorkingDir": "/srv",
        "User": "33",
        "Labels": {"a": "b"},
        "StopSignal": "SIGQUIT",
        "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
        "Volumes": {"/data": {}},
        "Healthcheck": {"Test": ["NONE"]},
    }
    built = BuiltImage([make_layer([])], run_config)
    image = decode_image(built.config)
    assert image.id == built.id
    assert image.config.exposed_ports == ("443/tcp", "80/tcp")
    assert (image.config.entrypoint, image.config.cmd) == (("nginx",), ())
    assert image.config.healthcheck == {"Test": ["NONE"]}


def test_a_configuration_may_be_almost_empty_and_has_plain_digests() -> None:
    assert decode_image(b'{"config":null,"created":null}').layer_ids == ()
    with pytest.raises(PyswarmError, match="no sha256 digest"):
        decode_image(b'{"rootfs":{"diff_ids":["sha256:../../x"]}}')
