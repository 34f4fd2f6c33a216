"""Images that want to get out: archives and layers made by somebody who means harm. They stay inside, and nothing is half done."""

import io
import json
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from image_builder import BuiltImage, Entry, compact_json, digest_of, directory, hard_link, make_layer, symlink

from pyswarm_agent.images import ImageStore
from pyswarm_common.errors import PyswarmError

pytestmark = pytest.mark.kernel

SECRET = b"nobody may read this"


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> bytes:
    """One member's header as it stands in an archive, with fields that no writer would write."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    body = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        length += len(str(length + len(str(length))))
        body += b"%d %s=%s\n" % (length, key, value)
    return member("pax", tarfile.XHDTYPE, body)


END = bytes(1024)
ESCAPES = {
    "symlink to the root, then through it": [symlink("r", "/"), Entry("r/planted", b"x"), directory("r/dir")],
    "symlink upwards, then through it": [symlink("u", "../../../../../../.."), Entry("u/planted", b"x")],
    "chain of symlinks": [symlink("a", "/"), symlink("b", "a/.."), symlink("c", "b/../.."), Entry("c/planted", b"x")],
    "hard link to a symlink that leads out": [symlink("l", "/etc/passwd"), hard_link("h", "l"), Entry("h", b"x")],
    "symlink in place of a directory": [directory("d"), symlink("d", "/"), Entry("d/planted", b"x")],
    "absolute name": [Entry("/planted", b"x"), Entry("//planted2", b"x")],
    "dots everywhere": [Entry("./.././../planted", b"x"), directory("../../dir")],
    "whiteout upwards": [Entry("../.wh.data"), Entry("a/../../.wh.images")],
}


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[None]:
    """The folders around the store; they must be the same at the end."""
    (tmp_path / "secret").write_bytes(SECRET)
    before = snapshot(tmp_path), sorted(os.listdir("/")), sorted(os.listdir("/tmp")) != []
    yield
    assert (tmp_path / "secret").read_bytes() == SECRET
    assert (snapshot(tmp_path), sorted(os.listdir("/")), True) == before


def snapshot(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("in.tar", "data"))


async def load(store: ImageStore, folder: Path, *layers: bytes) -> Path:
    """Load an image of these layers; return the directory with the upper one's files."""
    image = BuiltImage(list(layers))
    files = {"config.json": image.config, **{f"{number}.tar": layer for number, layer in enumerate(layers)}}
    saved = [{"Config": "config.json", "RepoTags": ["hostile:1"], "Layers": [f"{n}.tar" for n in range(len(layers))]}]
    write_tar(folder / "in.tar", {"manifest.json": compact_json(saved), **files})
    await store.load(folder / "in.tar")
    found = store.get("hostile:1")
    assert found is not None
    return store.layer_paths(found)[0]


def write_tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            tar.addfile(Entry(name, data).tar_info(), io.BytesIO(data))
        for info in more:
            tar.addfile(info)


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("attack", ESCAPES)
async def test_no_layer_writes_beside_itself(store: ImageStore, tmp_path: Path, attack: str) -> None:
    passwd = Path("/etc/passwd").stat()
    await load(store, tmp_path, make_layer(ESCAPES[attack]))
    assert not Path("/planted").exists()
    assert not Path("/tmp/planted").exists()
    assert Path("/etc/passwd").stat() == passwd
    assert [tag for image in store.list() for tag in image.repo_tags] == ["hostile:1"]
    assert {path.name for path in (tmp_path / "data/images").iterdir()} >= {"layers", "index.json", "trash"}


@pytest.mark.usefixtures("surroundings")
async def test_a_hard_link_out_finds_nothing(store: ImageStore, tmp_path: Path) -> None:
    for target in (str(tmp_path / "secret"), "../../../../../../etc/shadow", "/etc/shadow"):
        with pytest.raises(PyswarmError, match="No such file or directory"):
            await load(store, tmp_path, make_layer([hard_link("stolen", target)]))
    # By a symbolic link the same name is looked for inside.
    with pytest.raises(PyswarmError, match="No such file or directory"):
        await load(store, tmp_path, make_layer([symlink("r", "/"), hard_link("stolen", f"r{tmp_path}/secret")]))
    assert store.list() == []


@pytest.mark.usefixtures("surroundings")
async def test_the_packer_reads_nothing_from_outside(store: ImageStore, tmp_path: Path) -> None:
    layer = make_layer([symlink("u", "../" * 20), Entry(f"u{tmp_path}/secret", b"own"), Entry("plain", b"1")])
    await load(store, tmp_path, layer)
    data = b"".join([piece async for piece in store.save(["hostile:1"])])
    assert SECRET not in data
    assert layer in data


async def test_devices_are_there_for_the_image_but_open_for_nobody_else(store: ImageStore, tmp_path: Path) -> None:
    root = await load(store, tmp_path, make_layer([Entry("disk", type=tarfile.BLKTYPE, device=(7, 250), mode=0o666)]))
    assert stat.S_ISBLK((root / "disk").stat().st_mode)
    assert (tmp_path / "data/images").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (pax((b"path", b"a\0b")) + member("x") + END, "embedded null character"),
        (pax((b"linkpath", b"a\0b")) + member("x", tarfile.SYMTYPE) + END, "embedded null character"),
        (member("sparse", b"S", size=1 << 40) + END, "sparse files in layers are not supported"),
        (pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9" * 15)) + member("x") + END, "sparse files in layers"),
        (pax((b"size", str(1 << 62).encode())) + member("huge") + END, "unexpected end of the layer"),
        (pax((b"size", b"-1")) + member("negative") + END, "negative size"),
        (pax((b"SCHILY.xattr.user." + b"n" * 300, b"v")) + member("x") + END, "x: "),
        (pax((b"uid", str(1 << 70).encode())) + member("x") + END, "x: "),
        (b"9999999 path=x\n".join([member("pax", tarfile.XHDTYPE, b"9999999 path=x\n"), b""]) + END, "invalid pax header"),
        (member("a/" * 3000 + "b") + END, "File name too long"),
    ],
)
async def test_nonsense_is_an_error_and_leaves_nothing(store: ImageStore, tmp_path: Path, layer: bytes, message: str) -> None:
    with pytest.raises(PyswarmError) as caught:
        await load(store, tmp_path, make_layer([Entry("good")]), layer)
    assert message in str(caught.value)
    assert store.list() == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "loop"])
@pytest.mark.parametrize("name", ["manifest.json", "config.json", "0.tar"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
async def test_links_in_an_archive_lead_to_nothing_but_its_own_members(
    store: ImageStore, tmp_path: Path, target: str, name: str, kind: bytes
) -> None:
    image = BuiltImage([make_layer([Entry("f")])])
    saved = [{"Config": "config.json", "RepoTags": ["x:1"], "Layers": ["0.tar"]}]
    files = {"manifest.json": compact_json(saved), "config.json": image.config, "0.tar": image.layers[0]}
    del files[name]
    link, loop = tarfile.TarInfo(name), tarfile.TarInfo("loop")
    link.type, link.linkname, loop.type, loop.linkname = kind, target, tarfile.SYMTYPE, "loop"
    write_tar(tmp_path / "in.tar", files, link, loop)
    with pytest.raises(PyswarmError, match="invalid archive: "):
        await store.load(tmp_path / "in.tar")
    assert store.list() == []


@pytest.mark.parametrize(
    "archive",
    [
        member("x", size=-512),
        member("x", size=-1024) + member("y"),
        member("index.json", data=b"[" * 100_000),
        member("manifest.json", data=b"[" * 100_000),
        member("manifest.json", data=b'[{"Config":"\xff","Layers":[]}]'),
        member("x", size=1 << 40),
    ],
)
async def test_an_archive_that_leads_in_circles_or_out_of_depth_is_refused(
    store: ImageStore, tmp_path: Path, archive: bytes
) -> None:
    path = tmp_path / "hostile.tar"
    path.write_bytes(archive + END)
    with pytest.raises(PyswarmError, match=r"invalid archive: |cannot read the manifest"):
        await store.load(path)


async def test_a_history_that_is_nonsense_hinders_nothing(store: ImageStore, tmp_path: Path) -> None:
    config = compact_json({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}, "history": [{"created_by": 5}]})
    path = tmp_path / "odd.tar"
    described = compact_json([{"Config": "c.json", "Layers": [], "RepoTags": ["odd:1"]}])
    path.write_bytes(member("c.json", data=config) + member("manifest.json", data=described) + END)
    assert await store.load(path) == ["odd:1"]
    image = store.get("odd:1")
    assert image is not None
    assert store.history(image) == []


async def test_a_configuration_that_is_another_one_is_refused(store: ImageStore, tmp_path: Path) -> None:
    image, other = BuiltImage([make_layer([Entry("f")])]), BuiltImage([make_layer([Entry("f")])], {"Cmd": ["evil"]})
    manifest, blobs = image.manifest(oci=True)
    entry = {"mediaType": json.loads(manifest)["mediaType"], "digest": digest_of(manifest), "size": len(manifest)}
    files = {"index.json": compact_json({"schemaVersion": 2, "manifests": [entry]})}
    files |= {"blobs/" + digest.replace(":", "/"): data for digest, data in blobs.items()}
    files["blobs/" + digest_of(manifest).replace(":", "/")] = manifest
    files["blobs/" + image.id.replace(":", "/")] = other.config
    write_tar(tmp_path / "in.tar", files)
    with pytest.raises(PyswarmError, match=f"verification failed for digest {image.id}"):
        await store.load(tmp_path / "in.tar")


async def test_an_archive_that_never_ends_is_cut_short_by_its_client(store: ImageStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await store.import_files(broken(), "x:1")
    assert store.list() == []
