"""Extended attributes and hard links of copied files, by the docker CLI and the copying process; a copy that fails midway."""

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from local_node import IMAGE, LocalNode, local_node
from overlay_hosts import machines
from runtime_harness import RuntimeNode

from pyswarm_agent.container_files import reading

pytestmark = pytest.mark.kernel

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw, permitted and effective, as the kernel keeps it."""


@pytest.fixture
async def box(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[LocalNode]:
    """A node with a container `web` that runs."""
    with machines(tmp_path / "hosts", 1) as (machine,):
        async with local_node(node, machine) as started:
            await started.docker("run", "-d", "--name", "web", IMAGE, "sleep", "1000")
            yield started


def upper_of(box: LocalNode) -> Path:
    """The container's writable layer."""
    (record,) = box.agent.containers.list()
    folders = box.agent.containers.folders(record.config.id)
    assert folders is not None
    return folders.upper


async def put(box: LocalNode, archive: Path) -> None:
    """Unpack an archive in the container's /tmp."""
    with archive.open("rb") as file:
        shell = await asyncio.create_subprocess_exec("docker", "cp", "-", "web:/tmp", stdin=file, env=box.docker.environment)
        assert await shell.wait() == 0


async def test_attributes_and_links_go_in_and_come_out(box: LocalNode, tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/a", tarfile.REGTYPE), ("d/b", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname = kind, 0o755, "d/a" if kind == tarfile.LNKTYPE else ""
            if kind == tarfile.REGTYPE:
                text = CAPABILITY.decode("utf-8", "surrogateescape")
                info.pax_headers = {"SCHILY.xattr.security.capability": text, "SCHILY.xattr.trusted.evil": "x"}
            tar.addfile(info)
    await put(box, archive)
    inside = upper_of(box) / "tmp/d"
    assert os.getxattr(inside / "a", "security.capability") == CAPABILITY
    assert "trusted.evil" not in os.listxattr(inside / "a")
    assert (inside / "a").stat().st_ino == (inside / "b").stat().st_ino
    code, output = await out(box)
    assert code == 0
    with tarfile.open(fileobj=io.BytesIO(output)) as tar:
        members = {member.name: member for member in tar}
    assert members["d/a"].pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == CAPABILITY
    assert (members["d/b"].islnk(), members["d/b"].linkname) == (True, "d/a")


async def out(box: LocalNode) -> tuple[int, bytes]:
    """What `docker cp web:/tmp/d -` writes."""
    process = await asyncio.create_subprocess_exec(
        "docker", "cp", "web:/tmp/d", "-", stdout=asyncio.subprocess.PIPE, env=box.docker.environment
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output


def test_each_name_of_a_file_after_the_first_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    os.link(tmp_path / "a", tmp_path / "b")
    os.setxattr(tmp_path / "a", "user.note", b"\xff\x00")
    procfs = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    try:
        data = b"".join(reading.Reader(procfs).archive(str(tmp_path), "x"))
    finally:
        os.close(procfs)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        kinds = {member.name: (member.isreg(), member.linkname) for member in tar}
        assert tar.getmember("x/a").pax_headers["SCHILY.xattr.user.note"].encode("utf-8", "surrogateescape") == b"\xff\x00"
    assert kinds == {"x": (False, ""), "x/a": (True, ""), "x/b": (False, "x/a")}
