"""Unpacking one layer: everything that a tar archive can say arrives, and nothing gets out."""

import gzip
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from image_builder import Entry, digest_of, directory, hard_link, make_layer, symlink

from pyswarm_agent.images import tar_stream
from pyswarm_agent.images.disk import Trash
from pyswarm_agent.images.layers import LayerStore
from pyswarm_common.errors import PyswarmError

pytestmark = pytest.mark.kernel


class Unpacker:
    """A layer store in a folder, and a short way to unpack bytes with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "temporary").mkdir()
        self.trash = Trash(folder / "trash")
        self.layers = LayerStore(folder / "layers", folder / "temporary", self.trash)

    async def unpack(self, *entries: Entry) -> Path:
        """Return the folder with the unpacked entries."""
        return await self.unpack_bytes(make_layer(entries))

    async def unpack_bytes(self, layer: bytes, blob: bytes | None = None) -> Path:
        """Return the folder with the layer unpacked from `blob`, its compressed form."""
        archive = self.folder / "archive"
        archive.write_bytes(layer if blob is None else blob)
        await self.layers.add(digest_of(layer), archive)
        return self.layers.path(digest_of(layer))

    def left(self) -> list[Path]:
        """Return what lies in the layers' and the temporary folder."""
        return [*(self.folder / "layers").iterdir(), *(self.folder / "temporary").iterdir()]


@pytest_asyncio.fixture
async def unpacker(tmp_path: Path) -> AsyncIterator[Unpacker]:
    unpacker = Unpacker(tmp_path)
    yield unpacker
    unpacker.trash.close()
    assert list((tmp_path / "temporary").iterdir()) == []


async def test_ownership_modes_times_links_and_attributes_are_kept(unpacker: Unpacker) -> None:
    root = await unpacker.unpack(
        directory(".", 0o750, uid=5, mtime=77),
        directory("d", 0o2775, gid=50, mtime=1_000_000_000.25),
        Entry("d/suid", b"x" * 1000, mode=0o4755, uid=1, gid=2, mtime=1_600_000_000.123456),
        Entry("d/plain", b"text"),
        hard_link("d/hard", "d/plain"),
        symlink("d/soft", "/etc/passwd", uid=7, gid=8, mtime=5),
        Entry("d/fifo", type=tarfile.FIFOTYPE, mode=0o622),
        Entry("d/null", type=tarfile.CHRTYPE, mode=0o666, device=(1, 3)),
        Entry("d/capable", b"", mode=0o755, uid=9, xattrs={"user.note": "héllo", "trusted.t": "1"}),
    )
    assert (root.stat().st_uid, root.stat().st_mode & 0o7777, root.stat().st_mtime) == (5, 0o750, 77)
    folder = (root / "d").stat()
    assert (folder.st_gid, folder.st_mode & 0o7777, folder.st_mtime) == (50, 0o2775, 1_000_000_000.25)
    suid = (root / "d/suid").stat()
    assert (suid.st_uid, suid.st_gid, suid.st_mode & 0o7777, suid.st_size) == (1, 2, 0o4755, 1000)
    assert suid.st_mtime_ns == 1_600_000_000_123_456_000
    # A file in a setgid directory has the group that the archive says, not the directory's.
    assert (root / "d/plain").stat().st_gid == 0
    assert (root / "d/hard").stat().st_ino == (root / "d/plain").stat().st_ino
    soft = (root / "d/soft").lstat()
    assert (os.readlink(root / "d/soft"), soft.st_uid, soft.st_gid, soft.st_mtime) == ("/etc/passwd", 7, 8, 5)
    assert stat.S_ISFIFO((root / "d/fifo").stat().st_mode)
    null = (root / "d/null").stat()
    assert stat.S_ISCHR(null.st_mode)
    assert null.st_rdev == os.makedev(1, 3)
    assert os.getxattr(root / "d/capable", "user.note") == "héllo".encode()
    assert os.getxattr(root / "d/capable", "trusted.t") == b"1"


async def test_file_capabilities_are_kept(unpacker: Unpacker) -> None:
    # vfs_cap_data version 2, cap_net_raw+ep, as in images with ping; pax headers hold text, so the bytes are put in by hand.
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("ping")
        info.uid = 3
        info.pax_headers = {"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")}
        tar.addfile(info)
    root = await unpacker.unpack_bytes(buffer.getvalue())
    assert os.getxattr(root / "ping", "security.capability")[:8] == capability[:8]


async def test_whiteouts_become_overlayfs_ones(unpacker: Unpacker) -> None:
    root = await unpacker.unpack(
        directory("a"),
        Entry("a/.wh.gone"),
        Entry("b/c/.wh.deep"),
        Entry("d/.wh..wh..opq"),
        Entry("d/new", b"1"),
        Entry(".wh..wh.plnk/1.2", b"aufs"),
    )
    for name in ("a/gone", "b/c/deep"):
        status = (root / name).lstat()
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == 0
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"
    assert sorted(path.name for path in root.rglob("*")) == ["a", "b", "c", "d", "deep", "gone", "new"]


@pytest.mark.parametrize("whiteout_first", [True, False])
async def test_a_whiteout_speaks_of_lower_layers_only(unpacker: Unpacker, whiteout_first: bool) -> None:
    whiteouts = [Entry(".wh.file"), Entry(".wh.folder"), Entry(".wh.implied")]
    own = [Entry("file", b"mine"), directory("folder"), Entry("folder/x", b"1"), Entry("implied/y", b"2")]
    root = await unpacker.unpack(*(whiteouts + own if whiteout_first else own + whiteouts))
    assert (root / "file").read_bytes() == b"mine"
    assert (root / "folder/x").read_bytes() == b"1"
    assert (root / "implied/y").read_bytes() == b"2"
    for name in ("folder", "implied"):
        assert os.getxattr(root / name, "trusted.overlay.opaque") == b"y"


async def test_paths_and_links_that_lead_out_stay_inside(unpacker: Unpacker) -> None:
    outside = unpacker.folder / "outside"
    outside.mkdir()
    before = sorted(path.name for path in unpacker.folder.iterdir())
    root = await unpacker.unpack(
        Entry("/absolute", b"1"),
        Entry("../../../climbing", b"2"),
        Entry("a/../../../b", b"3"),
        symlink("out", str(outside)),
        Entry("out2", b"kept"),
        symlink("up", "../../../../../.."),
        Entry("up/through", b"4"),
        hard_link("stolen", "../../../out2"),
        directory(str(outside).lstrip("/")),
        Entry("out/planted", b"5"),
        Entry("a/.wh...x"),
    )
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in unpacker.folder.iterdir() if path.name != "archive") == sorted(
        name for name in before if name != "archive"
    )
    assert (root / "absolute").read_bytes() == b"1"
    assert (root / "climbing").read_bytes() == b"2"
    assert (root / "b").read_bytes() == b"3"
    assert (root / "through").read_bytes() == b"4"
    assert (root / "stolen").stat().st_ino == (root / "out2").stat().st_ino
    assert (root / str(outside).lstrip("/") / "planted").read_bytes() == b"5"


async def test_a_file_never_writes_through_what_the_layer_put_there_before(unpacker: Unpacker) -> None:
    root = await unpacker.unpack(
        Entry("device", type=tarfile.BLKTYPE, device=(7, 250)),
        Entry("device", b"not to the disk"),
        Entry("victim", b"untouched"),
        symlink("link", "victim"),
        Entry("link", b"own"),
        hard_link("twin", "victim"),
        Entry("twin", b"own"),
        directory("tree"),
        Entry("tree/x", b"1"),
        Entry("tree", b"now a file"),
        symlink("to", "victim"),
        directory("to"),
    )
    assert (root / "device").read_bytes() == b"not to the disk"
    assert (root / "victim").read_bytes() == b"untouched"
    assert (root / "link").read_bytes() == (root / "twin").read_bytes() == b"own"
    assert (root / "tree").read_bytes() == b"now a file"
    assert (root / "to").is_dir()
    assert not (root / "to").is_symlink()


async def test_overlayfs_attributes_in_the_archive_are_not_believed(unpacker: Unpacker) -> None:
    root = await unpacker.unpack(directory("d", xattrs={"trusted.overlay.redirect": "/etc", "user.fine": "1"}))
    assert os.listxattr(root / "d") == ["user.fine"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([hard_link("a", "missing")], "a: No such file or directory"),
        ([Entry("f", b""), Entry("f/x", b"")], "f/x: Not a directory"),
        ([Entry("n" * 300, b"")], "File name too long"),
        ([symlink("loop", "loop"), Entry("loop/x", b"")], "loop/x: Too many levels of symbolic links"),
        ([Entry(".", b"")], "the layer's root must be a directory"),
        ([Entry(".wh.", b"")], "a whiteout without a name"),
        ([Entry("d/.wh...", b"")], "a whiteout without a name"),
        ([Entry("x", type=b"Z")], "unhandled tar member type"),
    ],
)
async def test_what_cannot_be_unpacked_is_named_and_leaves_nothing(unpacker: Unpacker, entries: list[Entry], message: str) -> None:
    with pytest.raises(PyswarmError) as caught:
        await unpacker.unpack(*entries)
    assert message in str(caught.value)
    assert "failed to register layer sha256:" in str(caught.value)
    assert unpacker.left() == []


@pytest.mark.parametrize("damage", ["checksum", "cut", "gzip", "gzip cut", "zstd", "no tar", "huge header"])
async def test_damaged_bytes_are_an_error_and_leave_nothing(unpacker: Unpacker, damage: str) -> None:
    layer = make_layer([Entry("f", os.urandom(300_000))])
    packed = gzip.compress(layer)
    blob = {
        "checksum": b"x" + layer[1:],
        "cut": layer[:200_000],
        "gzip": packed[:100_000] + b"\xff" * 100 + packed[100_100:],
        "gzip cut": packed[:-5],
        "zstd": b"\x28\xb5\x2f\xfd" + b"junk" * 100,
        "no tar": b"hello world" * 100,
        "huge header": make_layer([Entry("f", xattrs={"user.x": "x" * 2_000_000})]),
    }[damage]
    with pytest.raises(PyswarmError, match="failed to register layer"):
        await unpacker.unpack_bytes(layer, blob)
    assert unpacker.left() == []


async def test_other_content_than_the_image_says_is_refused(unpacker: Unpacker) -> None:
    with pytest.raises(PyswarmError, match="filesystem layer verification failed for digest sha256:"):
        await unpacker.unpack_bytes(make_layer([Entry("a")]), make_layer([Entry("b")]))
    assert unpacker.left() == []


@pytest.mark.parametrize("form", ["plain", "gzip", "gzip members", "zstd", "zstd frames", "trailing zeros", "no end"])
async def test_every_compression_unpacks_the_same(unpacker: Unpacker, form: str) -> None:
    layer = make_layer([Entry("big", b"0123456789" * 300_000), Entry("small", b"s")])
    if form == "trailing zeros":
        layer += bytes(100_000)
    if form == "no end":
        layer = layer.rstrip(b"\0")
        layer += bytes(-len(layer) % 512)
    half = len(layer) // 2
    compress = zstandard.ZstdCompressor().compress
    blob = {
        "gzip": gzip.compress(layer),
        "gzip members": gzip.compress(layer[:half]) + gzip.compress(b"") + gzip.compress(layer[half:]) + bytes(64),
        "zstd": compress(layer),
        "zstd frames": compress(layer[:half]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + compress(layer[half:]),
    }.get(form, layer)
    root = await unpacker.unpack_bytes(layer, blob)
    assert (root / "big").read_bytes() == b"0123456789" * 300_000
    assert (root / "small").read_bytes() == b"s"
    assert unpacker.layers.size_bytes(digest_of(layer)) == 3_000_001


async def test_the_layers_root_is_readable_by_everybody_unless_the_archive_says_otherwise(unpacker: Unpacker) -> None:
    before = os.umask(0o077)
    try:
        root = await unpacker.unpack(Entry("deep/er/file", b""))
    finally:
        os.umask(before)
    assert root.stat().st_mode & 0o7777 == 0o755
    assert (root / "deep/er").stat().st_mode & 0o7777 == 0o755


class _Bytes:
    """A tar source in memory."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._size = len(data)

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise tar_stream.TarError("end")
        return data

    def skip(self, count: int) -> None:
        self.read(count)

    def is_at_end(self) -> bool:
        return self._file.tell() == self._size


_names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=150)
_infos = st.builds(
    lambda name, link, type_, mode, uid, mtime, data: Entry(
        name,
        data if type_ == tarfile.REGTYPE else b"",
        type=type_,
        mode=mode,
        uid=uid,
        gid=uid // 2,
        mtime=mtime,
        target=link if type_ in (tarfile.LNKTYPE, tarfile.SYMTYPE) else "",
    ),
    _names,
    _names,
    st.sampled_from([tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE]),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**33),
    st.binary(max_size=2000),
)


@given(st.lists(_infos, max_size=4), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_the_reader_sees_what_the_standard_library_wrote(entries: list[Entry], form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for entry in entries:
            tar.addfile(entry.tar_info(), io.BytesIO(entry.data))
    source = _Bytes(buffer.getvalue())
    for expected, member in zip(entries, tar_stream.read_members(source), strict=True):
        assert member.name.decode() == expected.name
        assert member.link.decode() == expected.target
        assert (member.uid, member.gid, member.mtime_ns) == (expected.uid, expected.gid, expected.mtime * 10**9)
        if member.type == tar_stream.REGULAR:
            assert source.read(member.size_bytes) == expected.data
            source.skip(tar_stream.padding_bytes(member.size_bytes))


@given(st.binary(max_size=1200), st.integers(0, 1023))
def test_any_bytes_are_an_archive_or_a_tar_error(noise: bytes, position: int) -> None:
    layer = bytearray(make_layer([Entry("name", b"data", xattrs={"user.a": "b"})]))
    layer[position : position + len(noise)] = noise
    source = _Bytes(bytes(layer))
    try:
        for member in tar_stream.read_members(source):
            source.skip(member.size_bytes + tar_stream.padding_bytes(member.size_bytes))
    except tar_stream.TarError:
        return
