"""Copying files into containers and out of them: running, ended, hostile."""

import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.container_files.copying import PathStat, copying
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.runtime.access.interface import ExecConfig
from pyswarm_agent.runtime.records import MountConfig
from pyswarm_common.errors import InvalidArgument, NotFound, PermissionDenied, PyswarmError

pytestmark = pytest.mark.kernel
LIVES = "echo ready; exec sleep 1000"
SECRET = b"the host's own"


@pytest.fixture
async def access(node: RuntimeNode) -> AsyncIterator[ContainerAccess]:
    access = ContainerAccess(node.runtime)
    yield access
    await access.close()


async def describe(access: ContainerAccess, container: str, path: str) -> PathStat:
    async with copying(access, container, path, "stat") as process:
        assert process.stat is not None
        return process.stat


async def read(access: ContainerAccess, container: str, path: str, name: str = "x", stays: bool = False) -> tarfile.TarFile:
    async with copying(access, container, path, "read", name=name, stays_on_filesystem=stays) as process:
        data = b"".join([chunk async for chunk in process.chunks()])
    return tarfile.open(fileobj=io.BytesIO(data))


async def write(
    access: ContainerAccess, container: str, path: str, archive: bytes, *, keeps_kinds: bool = False, owner: str = ""
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(archive), 1 << 16):
            yield archive[begin : begin + (1 << 16)]

    async with copying(access, container, path, "write", keeps_kinds=keeps_kinds, owner=owner) as process:
        await process.feed(chunks())


def packed(*members: tuple[str, bytes | str | None], mode: str = "w") -> bytes:
    """Return an archive of files (bytes), links (where to) and folders (None)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid, info.mtime = 0o640, 5, 6, 1_000_000_000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o750
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


async def output(access: ContainerAccess, container: str, script: str) -> str:
    finished = await access.run(container, ExecConfig(args=("sh", "-c", script)), timeout_s=10)
    return finished.output.decode()


def content_of(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


MAKES = (
    "mkdir -p /srv/d/e; echo hello > /srv/d/f; chown 33:50 /srv/d/f; chmod 4755 /srv/d/f; ln -s /srv/d /srv/link; ln -s f /srv/d/l;"
    "mkfifo /srv/d/pipe; mknod /srv/d/null c 1 3; "
)


@pytest.mark.parametrize("is_running", [True, False])
async def test_what_is_at_a_path(node: RuntimeNode, access: ContainerAccess, is_running: bool) -> None:
    container = await node.started(MAKES + LIVES)
    if not is_running:
        await node.runtime.stop(container)
    file = await describe(access, container, "/srv/d/f")
    assert (file.name, file.size, file.mode, file.link_target) == ("f", 6, 0o755 | 1 << 23, "")
    link = await describe(access, container, "srv/link")
    assert (link.name, link.mode & 1 << 27, link.link_target) == ("link", 1 << 27, "/srv/d")
    for path, name in (("/srv/link/", "link"), ("/srv/d/.", "."), ("/", "/"), ("/srv/link/..", "..")):
        folder = await describe(access, container, path)
        assert (folder.name, folder.mode & 1 << 31) == (name, 1 << 31), path
    assert (await describe(access, container, "/srv/d/null")).mode & (1 << 26 | 1 << 21) == 1 << 26 | 1 << 21
    with pytest.raises(NotFound, match=f"Could not find the file /srv/no in container {container}"):
        await describe(access, container, "/srv/no")
    with pytest.raises(InvalidArgument, match="not a directory"):
        await describe(access, container, "/srv/d/f/")


@pytest.mark.parametrize("is_running", [True, False])
async def test_reading(node: RuntimeNode, access: ContainerAccess, is_running: bool, tmp_path: Path) -> None:
    (tmp_path / "bound").write_bytes(b"from the host")
    mount = MountConfig(type="bind", source=str(tmp_path), target="/mnt")
    container = await node.started(MAKES + LIVES, mounts=(mount,))
    if not is_running:
        await node.runtime.stop(container)
    archive = await read(access, container, "/srv/link/.", name="copy")
    assert archive.getnames() == ["copy", "copy/e", "copy/f", "copy/l", "copy/null", "copy/pipe"]
    file = archive.getmember("copy/f")
    assert (file.mode, file.uid, file.gid, file.uname, content_of(archive, "copy/f")) == (0o4755, 33, 50, "", b"hello\n")
    assert (archive.getmember("copy/l").linkname, archive.getmember("copy/null").ischr()) == ("f", True)
    assert content_of(await read(access, container, "/mnt", name="m"), "m/bound") == b"from the host"
    assert (await read(access, container, "/srv/link", name="a")).getmember("a").issym()


@pytest.mark.parametrize("is_running", [True, False])
async def test_writing(node: RuntimeNode, access: ContainerAccess, is_running: bool) -> None:
    container = await node.started(f"[ -e /srv ] || {{ {MAKES} }}; {LIVES}", keeps_layer=True)
    if not is_running:
        await node.runtime.stop(container)
    big = os.urandom(1 << 20)
    await write(access, container, "/srv/link", packed(("new", None), ("new/big", big), ("f", b"replaced"), ("s", "/etc")))
    await write(access, container, "/srv", packed(("zipped", b"z"), mode="w:gz"), owner="web")
    if not is_running:
        assert content_of(await read(access, container, "/srv/d/new", name="n"), "n/big") == big
        await node.runtime.start_container(container)
    shown = await output(access, container, "stat -c '%a %u %g %Y %n' /srv/d/new/big /srv/d/f /srv/zipped; readlink /srv/d/s")
    assert shown.splitlines() == [
        "640 5 6 1000000000 /srv/d/new/big",
        "640 5 6 1000000000 /srv/d/f",
        "640 33 33 1000000000 /srv/zipped",
        "/etc",
    ]
    assert content_of(await read(access, container, "/srv/d/new", name="n"), "n/big") == big


async def test_what_cannot_be_written(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(MAKES + LIVES)
    with pytest.raises(NotFound, match="Could not find the file /nowhere"):
        await write(access, container, "/nowhere", packed(("a", b"")))
    with pytest.raises(InvalidArgument, match="extraction point is not a directory"):
        await write(access, container, "/srv/d/f", packed(("a", b"")))
    with pytest.raises(InvalidArgument, match="cannot overwrite directory"):
        await write(access, container, "/srv", packed(("d", b"")), keeps_kinds=True)
    with pytest.raises(InvalidArgument, match="cannot overwrite non-directory"):
        await write(access, container, "/srv/d", packed(("f", None)), keeps_kinds=True)
    with pytest.raises(InvalidArgument, match="leads out"):
        await write(access, container, "/srv", packed(("../../x", b"")))
    with pytest.raises(InvalidArgument, match="cannot be read"):
        await write(access, container, "/srv", b"no archive" * 1000)
    with pytest.raises(InvalidArgument, match="unable to find user nobody"):
        await write(access, container, "/srv", packed(("a", b"")), owner="nobody")
    await write(access, container, "/srv", packed(("d", b"a file now")))
    assert await output(access, container, "cat /srv/d") == "a file now"
    read_only = await node.started(LIVES, read_only=True)
    with pytest.raises(PermissionDenied, match="container rootfs is marked read-only"):
        await write(access, read_only, "/tmp", packed(("a", b"")))


@pytest.mark.parametrize("path", ["/proc/1", "/proc/self/root", "/sys/kernel", "/dev/pts", "/proc/cpuinfo"])
async def test_what_the_kernel_shows_is_not_copied(node: RuntimeNode, access: ContainerAccess, path: str) -> None:
    container = await node.started(LIVES)
    with pytest.raises((InvalidArgument, NotFound)):
        await read(access, container, path)
    if path != "/proc/cpuinfo":
        with pytest.raises((InvalidArgument, NotFound)):
            await write(access, container, path, packed(("a", b"")))


@pytest.mark.parametrize("is_running", [True, False])
async def test_links_of_a_hostile_container_stay_inside(
    node: RuntimeNode, access: ContainerAccess, is_running: bool, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    up = "../" * 20
    script = f"ln -s {outside} /tmp/abs; ln -s {up[:-1]}{outside} /tmp/rel; ln -s /proc/1/root /tmp/root; "
    container = await node.started(script + LIVES, keeps_layer=True)
    if not is_running:
        await node.runtime.stop(container)
    for path in ("/tmp/abs/secret", "/tmp/rel/secret", f"{up}{outside}/secret", f"/tmp/root{outside}/secret"):
        with pytest.raises(NotFound):
            await read(access, container, path)
    for path in ("/tmp/abs", "/tmp/rel"):
        with pytest.raises(NotFound):
            await write(access, container, path, packed(("planted", b"")))
    await write(access, container, "/tmp", packed(("into", str(outside)), ("into2", f"{up}{outside}")))
    with pytest.raises(PyswarmError, match="File exists"):
        await write(access, container, "/tmp", packed(("abs/planted", b"x")))
    assert sorted(os.listdir(outside)) == ["secret"]


async def test_a_container_that_swaps_its_files_gains_nothing(node: RuntimeNode, access: ContainerAccess, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    kinds = (f"ln -sfn {outside} /srv/at", "ln -sfn /srv/real /srv/at", "mknod /srv/at c 1 9", "echo x > /srv/at")
    turns = "; ".join(f"{kind}; rm -f /srv/at" for kind in kinds)
    swaps = f"mkdir -p /srv/real; echo mine > /srv/real/secret; echo ready; while true; do {turns}; done"
    container = await node.started(swaps)
    for _ in range(8):
        try:
            archive = await read(access, container, "/srv", name="srv")
            contents = [content_of(archive, member.name) for member in archive if member.isreg()]
            assert all(SECRET not in content for content in contents)
            await write(access, container, "/srv/at", packed(("planted", b"")))
        except PyswarmError:
            continue  # it changed under our hands
    assert sorted(os.listdir(outside)) == ["secret"]


async def test_code_of_the_container_is_never_loaded(node: RuntimeNode, access: ContainerAccess) -> None:
    """Modules and libraries in the places where Python and glibc look would run with the host's rights."""
    version = f"python3.{os.sys.version_info[1]}"  # type: ignore[attr-defined]
    places = ["/usr/lib/" + version, "/", f"{Path(tarfile.__file__).parent}"]
    trap = "raise SystemExit(99)"
    script = "".join(
        f"mkdir -p {p}; for m in bz2 lzma pwd grp encodings stringprep; do echo '{trap}' > {p}/$m.py; done; " for p in places
    )
    container = await node.started(script + "echo 'passwd: evil' > /etc/nsswitch.conf; " + LIVES)
    await write(access, container, "/tmp", packed(("ünï", b"x"), mode="w:xz"), owner="web")
    assert "tmp/ünï" in (await read(access, container, "/tmp", name="tmp")).getnames()


async def test_a_container_that_is_yet_to_start(node: RuntimeNode, access: ContainerAccess) -> None:
    config = node.config("cat /tmp/given; exit 3", keeps_layer=True)
    await node.runtime.create(config)
    await write(access, config.id, "/tmp", packed(("given", b"before the start\n")))
    await node.runtime.start_container(config.id)
    assert (await node.runtime.wait(config.id)).exit_code == 3
    assert await node.output(config.id) == "before the start\n"


async def test_export_is_without_what_is_mounted(node: RuntimeNode, access: ContainerAccess, tmp_path: Path) -> None:
    (tmp_path / "bound").write_bytes(b"x")
    mount = MountConfig(type="bind", source=str(tmp_path), target="/mnt")
    container = await node.started("echo mine > /mine; " + LIVES, mounts=(mount,))
    names = (await read(access, container, "/", name="", stays=True)).getnames()
    assert {"mine", "bin", "bin/busybox", "proc", "mnt", "etc/passwd"} <= set(names)
    assert not [name for name in names if name.startswith(("proc/", "sys/", "mnt/", "/"))]


async def test_a_reader_that_leaves_early_leaves_nothing(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("head -c 50000000 /dev/zero > /tmp/big; " + LIVES)
    async with copying(access, container, "/tmp/big", "read", name="big", stays_on_filesystem=False) as process:
        assert len(await anext(process.chunks())) > 0
    await node.runtime.stop(container)
    async with copying(access, container, "/tmp/big", "read", name="big", stays_on_filesystem=False) as process:
        assert stat.S_IMODE(process.stat.mode if process.stat else 0) == 0o644
    await node.runtime.remove(container)
