"""Loading tarballs: docker save's and OCI's, plain and compressed, hand-made and skopeo's."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard
from image_builder import (
    BuiltImage,
    Entry,
    compact_json,
    digest_of,
    gzip_compress,
    make_layer,
    symlink,
    write_docker_archive,
    write_oci_archive,
)

from pyswarm_agent.images import ImageStore, PullProgress
from pyswarm_common.errors import InvalidArgument, PyswarmError

pytestmark = pytest.mark.kernel

BASE = make_layer([Entry("base", b"b" * 100_000)])
ONE = BuiltImage([BASE, make_layer([Entry("one", b"1")])], {"Cmd": ["one"]})
TWO = BuiltImage([BASE, make_layer([Entry("two", b"2")])], {"Cmd": ["two"]})


async def upload(path: Path, piece_bytes: int = 70_000) -> AsyncIterator[bytes]:
    """Yield a file as an HTTP upload comes."""
    data = path.read_bytes()
    for start in range(0, len(data), piece_bytes):
        yield data[start : start + piece_bytes]


def write_files(path: Path, *entries: Entry) -> Path:
    """Write a tarball by hand."""
    path.write_bytes(make_layer(entries))
    return path


async def test_a_docker_save_tarball_with_two_images_that_share_a_layer(store: ImageStore, tmp_path: Path) -> None:
    archive = tmp_path / "saved.tar"
    write_docker_archive(archive, [(ONE, ["one:1", "one:latest"]), (TWO, ["quay.io/x/two:2"])])
    told: list[PullProgress] = []
    assert await store.load(archive, told.append) == ["one:1", "one:latest", "quay.io/x/two:2"]
    one, two = store.get("one"), store.get("quay.io/x/two:2")
    assert one is not None
    assert two is not None
    assert (one.id, one.repo_tags, one.repo_digests) == (ONE.id, ("one:1", "one:latest"), ())
    assert one.size_bytes == 100_001
    assert store.layer_paths(one)[1] == store.layer_paths(two)[1]
    assert (store.layer_paths(two)[0] / "two").read_bytes() == b"2"
    assert [progress.status for progress in told] == ["Loading layer"] * 3


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["docker", "oci"])
async def test_an_upload_may_be_compressed_as_a_whole(store: ImageStore, tmp_path: Path, packing: str, form: str) -> None:
    archive = tmp_path / "archive.tar"
    if form == "docker":
        write_docker_archive(archive, [(ONE, ["one:1"])])
    else:
        write_oci_archive(archive, ONE, "one:1")
    data = archive.read_bytes()
    archive.write_bytes({"plain": data, "gzip": gzip_compress(data), "zstd": zstandard.compress(data)}[packing])
    assert await store.load(upload(archive)) == ["one:1"]
    image = store.get("one:1")
    assert image is not None
    assert image.id == ONE.id


@pytest.mark.parametrize(
    ("name", "loaded"), [("", ONE.id), ("latest", ONE.id), ("one:1", "one:1"), ("ghcr.io/a/b", "ghcr.io/a/b:latest")]
)
async def test_an_oci_layout_may_name_its_image(store: ImageStore, tmp_path: Path, name: str, loaded: str) -> None:
    archive = tmp_path / "oci.tar"
    write_oci_archive(archive, ONE, name, compress=zstandard.compress)
    assert await store.load(archive) == [loaded]
    assert [image.id for image in store.list()] == [ONE.id]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
async def test_skopeos_tarballs_load(store: ImageStore, tmp_path: Path, form: str) -> None:
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    write_docker_archive(ours, [(ONE, ["one:1"])])
    subprocess.run(["skopeo", "copy", "--quiet", f"docker-archive:{ours}", f"{form}:{theirs}:copied:2"], check=True)
    assert await store.load(theirs) == ["copied:2"]
    image = store.get("copied:2")
    assert image is not None
    assert image.layer_ids == tuple(digest_of(layer) for layer in ONE.layers)


async def test_layers_that_docker_save_links_are_found(store: ImageStore, tmp_path: Path) -> None:
    archive = write_files(
        tmp_path / "linked.tar",
        Entry("aa/layer.tar", BASE),
        symlink("bb/layer.tar", "../aa/layer.tar"),
        Entry("c.json", BuiltImage([BASE]).config),
        Entry("./manifest.json", compact_json([{"Config": "c.json", "RepoTags": None, "Layers": ["bb/layer.tar"]}])),
    )
    assert await store.load(archive) == [BuiltImage([BASE]).id]


def saved(*layers: str, config: str = "c.json") -> Entry:
    """Return the manifest.json of one image."""
    return Entry("manifest.json", compact_json([{"Config": config, "RepoTags": ["x:1"], "Layers": list(layers)}]))


CONFIG = Entry("c.json", BuiltImage([BASE]).config)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "neither manifest.json"),
        ([Entry("manifest.json", b"{}")], "manifest.json: "),
        ([saved("l")], "c.json is not in it"),
        ([saved("l"), CONFIG], "l is not in it"),
        ([saved(), CONFIG], "0 layers, where sha256:"),
        ([saved("l"), CONFIG, symlink("l", "l")], "l is no file"),
        ([saved("l"), CONFIG, symlink("l", "/etc/passwd")], "l is not in it"),
        ([saved("l", config="/etc/hostname"), Entry("l", BASE)], "/etc/hostname is not in it"),
        ([Entry("index.json", b"[]")], "cannot read the manifest"),
    ],
)
async def test_a_tarball_without_an_image_says_what_it_lacks(
    store: ImageStore, tmp_path: Path, entries: list[Entry], message: str
) -> None:
    with pytest.raises(PyswarmError) as caught:
        await store.load(write_files(tmp_path / "bad.tar", *entries))
    assert message in str(caught.value)
    assert store.list() == []


@pytest.mark.parametrize(
    "data", [b"", b"hello" * 1000, gzip_compress(b"hello"), gzip_compress(b"x" * 9000)[:-20], b"\x28\xb5\x2f\xfdx"]
)
async def test_what_is_no_tarball_is_an_invalid_argument(store: ImageStore, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "noise"
    path.write_bytes(data)
    with pytest.raises(InvalidArgument, match="invalid archive"):
        await store.load(upload(path))


async def test_a_file_that_is_not_there_is_named(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"missing\.tar: no such file"):
        await store.load(tmp_path / "missing.tar")


@pytest.mark.parametrize("form", ["docker", "oci"])
async def test_a_damaged_layer_is_refused(store: ImageStore, tmp_path: Path, form: str) -> None:
    archive = tmp_path / "damaged.tar"
    if form == "docker":
        write_docker_archive(archive, [(ONE, ["one:1"])])
        needle, name = b"b" * 1000, digest_of(BASE)
    else:
        write_oci_archive(archive, ONE, "one:1")
        needle, name = gzip_compress(BASE)[20:40], digest_of(gzip_compress(BASE))
    data = archive.read_bytes()
    assert needle in data
    archive.write_bytes(data.replace(needle, b"c" + needle[1:], 1))
    with pytest.raises(PyswarmError, match=f"filesystem layer verification failed for digest {name}"):
        await store.load(archive)
    assert store.list() == []


async def test_an_upload_that_fails_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await store.load(broken())
