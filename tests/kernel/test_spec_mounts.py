"""Bind and tmpfs mounts with their options, read back from inside."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import MountConfig
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_common.errors import InvalidArgument

pytestmark = pytest.mark.kernel


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host that is shared with its peers, with a further mount below it."""
    folder = tmp_path / "tree"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tree", folder], check=True)
    subprocess.run(["mount", "--make-shared", folder], check=True)
    (folder / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "below", folder / "below"], check=True)
    yield folder
    subprocess.run(["umount", "--recursive", folder], check=True)
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()


def options_at(output: str, target: str) -> tuple[str, str, str]:
    """Mount options, optional fields and the filesystem's own options of a target in a mountinfo."""
    for line in output.splitlines():
        left, _, right = line.partition(" - ")
        words = left.split(" ")
        if len(words) > 5 and words[4] == target:
            return words[5], " ".join(words[6:]), right.split(" ")[2]
    raise AssertionError(f"nothing is mounted on {target}: {output}")


async def test_tmpfs_options(node: RuntimeNode) -> None:
    mount = MountConfig(type="tmpfs", target="/scratch", options=("size=1048576", "mode=700", "exec"))
    _, output = await node.run("cat /proc/self/mountinfo; stat -c %a /scratch; df -k /scratch | tail -n 1", mounts=(mount,))
    options, _, _ = options_at(output, "/scratch")
    assert {"rw", "nosuid", "nodev"} <= set(options.split(","))
    assert "noexec" not in options
    assert output.splitlines()[-2] == "700"
    assert output.splitlines()[-1].split()[1] == "1024"


async def test_read_only_tmpfs(node: RuntimeNode) -> None:
    mount = MountConfig(type="tmpfs", target="/scratch", read_only=True)
    _, output = await node.run("touch /scratch/x", mounts=(mount,))
    assert "Read-only file system" in output


async def test_binds_are_recursive_and_private(node: RuntimeNode, tree: Path) -> None:
    (tree / "below" / "file").write_text("here")
    mount = MountConfig(type="bind", source=str(tree), target="/data")
    _, output = await node.run("cat /data/below/file; echo; cat /proc/self/mountinfo", mounts=(mount,))
    assert output.startswith("here\n")
    assert options_at(output, "/data")[1] == options_at(output, "/data/below")[1] == ""


async def test_not_recursive(node: RuntimeNode, tree: Path) -> None:
    (tree / "below" / "file").write_text("here")
    mount = MountConfig(type="bind", source=str(tree), target="/data", is_recursive=False)
    _, output = await node.run("ls -A /data /data/below", mounts=(mount,))
    assert output.split() == ["/data:", "below", "/data/below:"]


async def test_read_only_is_recursive_where_the_kernel_can(node: RuntimeNode, tree: Path) -> None:
    mount = MountConfig(type="bind", source=str(tree), target="/data", read_only=True)
    _, output = await node.run("touch /data/x; touch /data/below/x && echo written", mounts=(mount,))
    assert output.count("Read-only file system") == (2 if node.runtime.host.has_deep_read_only else 1)
    assert (tree / "below" / "x").exists() == (not node.runtime.host.has_deep_read_only)


async def test_read_only_at_the_top_alone(node: RuntimeNode, tree: Path) -> None:
    mount = MountConfig(type="bind", source=str(tree), target="/data", read_only=True, read_only_depth="top")
    _, output = await node.run("touch /data/x; touch /data/below/x && echo written", mounts=(mount,))
    assert output.count("Read-only file system") == 1
    assert "written" in output


async def test_mounts_of_the_host_reach_a_slave(node: RuntimeNode, tree: Path) -> None:
    mount = MountConfig(type="bind", source=str(tree), target="/data", propagation="rslave")
    script = (
        "echo ready; until [ -e /data/later/file ]; do sleep 0.02; done; echo seen; mkdir /data/own; mount -t tmpfs own /data/own"
    )
    container_id = await node.started(script, mounts=(mount,), cap_add=("SYS_ADMIN",))
    (tree / "later").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "later", tree / "later"], check=True)
    (tree / "later" / "file").touch()
    status = await node.runtime.wait(container_id)
    assert (status.exit_code, await node.output(container_id)) == (0, "ready\nseen\n")
    assert not os.path.ismount(tree / "own")


async def test_mounts_of_a_container_reach_the_host_from_a_shared_bind(node: RuntimeNode, tree: Path) -> None:
    mount = MountConfig(type="bind", source=str(tree), target="/data", propagation="rshared")
    script = "mkdir /data/own && mount -t tmpfs own /data/own && touch /data/own/file && echo done"
    _, output = await node.run(script, mounts=(mount,), cap_add=("SYS_ADMIN",))
    assert output == "done\n"
    assert (tree / "own" / "file").exists()


async def test_nothing_is_shared_that_the_host_does_not_share(node: RuntimeNode, tree: Path) -> None:
    subprocess.run(["mount", "--make-private", tree / "below"], check=True)
    for propagation, words in (("shared", "a shared mount"), ("slave", "a shared or slave mount")):
        mount = MountConfig(type="bind", source=str(tree / "below"), target="/data", propagation=propagation)
        config = node.config("true", mounts=(mount,))
        await node.runtime.create(config)
        with pytest.raises(InvalidArgument, match=f"is mounted on {tree}/below but it is not {words}"):
            await node.runtime.start_container(config.id)


async def test_missing_sources(node: RuntimeNode, tmp_path: Path) -> None:
    source = tmp_path / "a" / "b"
    with pytest.raises(InvalidArgument, match=f"bind source path does not exist: {source}"):
        await node.runtime.create(node.config("true", mounts=(MountConfig(type="bind", source=str(source), target="/data"),)))
    mount = MountConfig(type="bind", source=str(source), target="/data", creates_source=True)
    _, output = await node.run("touch /data/x && echo written", mounts=(mount,))
    assert output == "written\n"
    assert (source / "x").exists()


async def test_a_links_target_stays_inside(node: RuntimeNode, tmp_path: Path) -> None:
    """A target that leads through a link of the image is resolved in the container's root."""
    (tmp_path / "source").mkdir()
    mount = MountConfig(type="bind", source=str(tmp_path / "source"), target="/lib/pyswarm-test-mount")
    try:
        _, output = await node.run("ls -d /usr/lib/pyswarm-test-mount", mounts=(mount,))
    except ContainerStartFailed:
        output = ""
    assert not Path("/usr/lib/pyswarm-test-mount").exists()
    assert output.strip() in ("", "/usr/lib/pyswarm-test-mount")
