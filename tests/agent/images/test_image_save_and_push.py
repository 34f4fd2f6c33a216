"""Images that leave the node: saved and read by others, pushed and pulled again; and those made here, by import."""

import io
import json
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zstandard
from image_builder import (
    BuiltImage,
    Entry,
    digest_of,
    directory,
    gzip_compress,
    hard_link,
    make_layer,
    symlink,
    write_docker_archive,
)
from image_registries import RealRegistry, random_bytes

from pyswarm_agent.images import ImageStore, PullProgress
from pyswarm_common.errors import InvalidArgument, NotFound, PyswarmError

pytestmark = pytest.mark.kernel

BASE = make_layer(
    [
        directory("etc", 0o2750, gid=50, mtime=7.5),
        Entry("etc/héllo", b"text" * 1000, xattrs={"user.note": "x"}, mtime=1.25),
        hard_link("etc/twin", "etc/héllo"),
        symlink("out", "../../../../etc"),
        Entry("out/through", b"by a link"),
        Entry("n" * 180, b"long"),
        Entry("fifo", type=tarfile.FIFOTYPE),
        Entry("null", type=tarfile.CHRTYPE, device=(1, 3)),
        Entry("empty"),
    ]
)
TOP = make_layer([Entry("etc/.wh.héllo"), Entry("var/.wh..wh..opq"), Entry("big", random_bytes(3_000_000, "big"))])
TWICE = make_layer([Entry("f", b"first"), Entry("f", b"second"), symlink("s", "f"), directory("s"), Entry("s/x", b"1")])
WEB = BuiltImage([BASE, TOP], {"Cmd": ["web"]})
ODD = BuiltImage([BASE, TWICE + b"\0" * 5000 + b"not tar any more"], {"Cmd": ["odd"]})


async def load(store: ImageStore, folder: Path, *images: tuple[BuiltImage, list[str]]) -> None:
    archive = folder / "in.tar"
    write_docker_archive(archive, images)
    await store.load(archive)


async def collect(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def save(store: ImageStore, folder: Path, *names: str) -> Path:
    path = folder / "saved.tar"
    path.write_bytes(await collect(store.save(names)))
    return path


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: content.read() for member in tar if (content := tar.extractfile(member)) is not None}


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[ImageStore]:
    """The store of another node."""
    store = ImageStore(tmp_path / "other")
    yield store
    await store.close()
    assert list((tmp_path / "other/images/temporary").iterdir()) == []


async def test_saved_layers_are_the_very_bytes_that_were_loaded(store: ImageStore, other: ImageStore, tmp_path: Path) -> None:
    await load(store, tmp_path, (WEB, ["web:1", "quay.io/x/web:2"]), (ODD, ["odd:1"]))
    found = members(await save(store, tmp_path, "web:1", "quay.io/x/web:2", "odd"))
    for image in (WEB, ODD):
        assert found[f"blobs/sha256/{image.id[7:]}"] == image.config
        for layer in image.layers:
            assert found[f"blobs/sha256/{digest_of(layer)[7:]}"] == layer
    by_config = {entry["Config"]: entry["RepoTags"] for entry in json.loads(found["manifest.json"])}
    assert by_config == {
        f"blobs/sha256/{WEB.id[7:]}": ["web:1", "quay.io/x/web:2"],
        f"blobs/sha256/{ODD.id[7:]}": ["odd:1"],
    }
    assert len(found) == 3 + 2 * 2 + 3  # layers that are shared are there once
    assert sorted(await other.load(tmp_path / "saved.tar")) == ["odd:1", "quay.io/x/web:2", "web:1"]
    assert other.list() == store.list()


@pytest.mark.parametrize("compress", [gzip_compress, zstandard.compress], ids=["gzip", "zstd"])
async def test_what_was_pulled_can_be_saved_though_its_registry_is_gone(
    store: ImageStore, registry: RealRegistry, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    registry.push(WEB, "gone", "1", oci=True, compress=compress)
    image = await store.pull(f"{registry.host}/gone:1")
    saved = await save(store, tmp_path, image.id)
    assert json.loads(members(saved)["manifest.json"])[0]["RepoTags"] is None  # asked for by its id, it has no name
    assert members(saved)[f"blobs/sha256/{digest_of(TOP)[7:]}"] == TOP


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
async def test_skopeo_reads_what_is_saved(store: ImageStore, registry: RealRegistry, tmp_path: Path, form: str) -> None:
    await load(store, tmp_path, (WEB, ["web:1"]))
    saved = await save(store, tmp_path, "web:1")
    target = f"docker://{registry.host}/from/{form}:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"{form}:{saved}", target], check=True)
    await store.pull(f"{registry.host}/from/{form}:1")
    assert store.get(f"{registry.host}/from/{form}:1") == store.get(WEB.id)


async def test_a_repository_without_a_tag_means_all_of_its_tags(store: ImageStore, tmp_path: Path) -> None:
    await load(store, tmp_path, (WEB, ["web:1", "web:2"]), (ODD, ["web:3", "other:1"]))
    entries = json.loads(members(await save(store, tmp_path, "web"))["manifest.json"])
    assert sorted(tag for entry in entries for tag in entry["RepoTags"]) == ["web:1", "web:2", "web:3"]
    with pytest.raises(NotFound, match="No such image: nothing"):
        store.save(["web", "nothing"])


async def test_files_that_changed_on_the_disk_are_not_passed_on(store: ImageStore, tmp_path: Path) -> None:
    await load(store, tmp_path, (WEB, ["web:1"]))
    image = store.get("web:1")
    assert image is not None
    top, _ = store.layer_paths(image)
    (top / "big").write_bytes(random_bytes(3_000_000, "other"))
    with pytest.raises(PyswarmError, match="cannot be packed: its files make sha256:"):
        await collect(store.save(["web:1"]))
    (top / "big").unlink()
    (top / "big").symlink_to("/etc/passwd")
    with pytest.raises(PyswarmError, match="cannot be packed"):
        await collect(store.save(["web:1"]))


async def test_a_layer_of_an_older_version_says_what_to_do(store: ImageStore, tmp_path: Path) -> None:
    await load(store, tmp_path, (WEB, ["web:1"]))
    for recording in (tmp_path / "data/images/layers").glob("*/recording"):
        recording.unlink()
    with pytest.raises(PyswarmError, match="remove the image and pull or load it once more"):
        store.save(["web:1"])


async def test_a_pushed_image_is_the_same_for_others(
    store: ImageStore, other: ImageStore, registry: RealRegistry, tmp_path: Path
) -> None:
    name = f"{registry.host}/pushed/web:1"
    await load(store, tmp_path, (WEB, [name]))
    told: list[PullProgress] = []
    (pushed,) = await store.push(name, progress=told.append)
    image = await other.pull(name)
    assert (image.id, image.repo_digests) == (WEB.id, (f"{registry.host}/pushed/web@{pushed.digest}",))
    assert [path.name for path in other.layer_paths(image)] == ["diff", "diff"]
    statuses = [progress.status for progress in told]
    assert statuses[0] == f"The push refers to repository [{registry.host}/pushed/web]"
    assert statuses.count("Preparing") == statuses.count("Pushed") == 2
    assert statuses[-1] == f"1: digest: {pushed.digest} size: {pushed.size_bytes}"
    sizes = [progress.current_bytes for progress in told if progress.status == "Pushing" and progress.total_bytes > 1_000_000]
    assert len(sizes) > 1
    assert sizes == sorted(sizes)


async def test_pushing_sends_only_what_the_registry_has_not(store: ImageStore, registry: RealRegistry, tmp_path: Path) -> None:
    base = f"{registry.host}/twice"
    await load(store, tmp_path, (WEB, [f"{base}/a:1", f"{base}/b:1"]), (BuiltImage([BASE]), [f"{base}/a:base"]))
    (first,) = await store.push(f"{base}/a:1")
    told: list[PullProgress] = []
    (again,) = await store.push(f"{base}/a:1", progress=told.append)
    assert again == first
    assert [p.status for p in told].count("Layer already exists") == 2
    told.clear()
    (elsewhere,) = await store.push(f"{base}/b:1", progress=told.append)
    assert elsewhere.digest == first.digest
    assert [p.status for p in told].count("Mounted from twice/a") == 2
    assert "Pushed" not in [p.status for p in told]
    pushed = await store.push(f"{base}/a")
    assert [tag.tag for tag in pushed] == ["1", "base"]
    with pytest.raises(NotFound, match="An image does not exist locally with the tag: "):
        await store.push(f"{base}/c:1")


async def test_zstd_layers_that_the_registry_has_are_named_as_such(store: ImageStore, registry: RealRegistry) -> None:
    registry.push(WEB, "zstd/a", "1", oci=True, compress=zstandard.compress)
    await store.pull(f"{registry.host}/zstd/a:1")
    await store.tag(f"{registry.host}/zstd/a:1", f"{registry.host}/zstd/b:1")
    told: list[PullProgress] = []
    await store.push(f"{registry.host}/zstd/b:1", progress=told.append)
    assert [p.status for p in told].count("Mounted from zstd/a") == 2
    await store.remove(f"{registry.host}/zstd/a:1")
    assert await store.remove(f"{registry.host}/zstd/b:1")
    assert (await store.pull(f"{registry.host}/zstd/b:1")).id == WEB.id


async def test_an_import_is_an_image_of_one_layer(store: ImageStore, tmp_path: Path) -> None:
    image_id = await store.import_files(
        in_pieces(gzip_compress(BASE)),
        "mine:1",
        changes=['CMD ["sh", "-c", "true"]', "ENV A=1 B='two words'", "ENV C d e", "EXPOSE 80 53/udp", "LABEL x=y", "WORKDIR /srv"],
        message="from files",
    )
    image = store.get("mine:1")
    assert image is not None
    assert (image.id, image.layer_ids, image.repo_tags) == (image_id, (digest_of(BASE),), ("mine:1",))
    assert image.config.cmd == ("sh", "-c", "true")
    assert image.config.env == ("A=1", "B=two words", "C=d e")
    assert (image.config.exposed_ports, image.config.labels) == (("53/udp", "80/tcp"), {"x": "y"})
    assert [(step.comment, step.size_bytes) for step in store.history(image)] == [("from files", image.size_bytes)]
    assert members(await save(store, tmp_path, "mine:1"))[f"blobs/sha256/{digest_of(BASE)[7:]}"] == BASE
    with pytest.raises(InvalidArgument, match="RUN is not a valid change command"):
        await store.import_files(in_pieces(BASE), changes=["RUN true"])
    with pytest.raises(PyswarmError, match="failed to register layer"):
        await store.import_files(in_pieces(b"no tarball" * 1000))
    assert [image.id for image in store.list()] == [image_id]


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    file = io.BytesIO(data)
    while piece := file.read(1000):
        yield piece


async def test_an_images_history_has_the_size_of_each_step(store: ImageStore, tmp_path: Path) -> None:
    await load(store, tmp_path, (WEB, ["web:1"]))
    image = store.get("web:1")
    assert image is not None
    steps = store.history(image)
    assert [step.size_bytes for step in steps] == [3_000_000, 4000 + len(b"by a link") + len(b"long")]
    assert steps[0].created_by == "pyswarm build-image"


async def test_what_images_share_is_counted_once(store: ImageStore, tmp_path: Path) -> None:
    alone = BuiltImage([make_layer([Entry("alone", b"12345")])])
    await load(store, tmp_path, (WEB, ["web:1"]), (BuiltImage([BASE]), ["base:1"]), (alone, ["alone:1"]))
    base_bytes = 4000 + len(b"by a link") + len(b"long")
    assert store.layers_bytes() == base_bytes + 3_000_000 + 5
    assert store.shared_bytes() == {WEB.id: base_bytes, BuiltImage([BASE]).id: base_bytes, alone.id: 0}
