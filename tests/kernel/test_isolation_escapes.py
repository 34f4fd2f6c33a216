"""Ways out of a container that have worked elsewhere: each must fail, and leave the host as it was."""

import contextlib
import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import ContainerStartFailed, MountConfig
from pyswarm_common.errors import PyswarmError

pytestmark = pytest.mark.kernel

PTRACE, OPEN_BY_HANDLE_AT, BPF = {"x86_64": (101, 304, 321), "aarch64": (117, 265, 280)}[platform.machine()]

KERNEL_FILES = ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/sys/kernel/uevent_helper")

CALLS = f"""
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, *arguments):
    result = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    print(name, errno.errorcode[ctypes.get_errno()] if result < 0 else "ok")
attempt("ptrace the host's process", {PTRACE}, 16, int(os.environ["HOST_PID"]), 0, 0)
attempt("open_by_handle_at", {OPEN_BY_HANDLE_AT}, -100, 0, 0)
attempt("bpf", {BPF}, 0, 0, 0)
for path in {KERNEL_FILES}:
    try:
        open(path, "w").close()
        print(path, "ok")
    except OSError as error:
        print(path, errno.errorcode[error.errno])
"""


@pytest.fixture
def python_mounts() -> tuple[MountConfig, ...]:
    """What a container needs of this host to run its Python."""
    return tuple(MountConfig(type="bind", source=path, target=path, read_only=True) for path in sorted({"/usr", sys.base_prefix}))


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    """A folder of the host that no container was given."""
    folder = tmp_path / "treasure"
    folder.mkdir()
    (folder / "gold").write_text("of the host\n")
    return folder


def hostile_layer(node: RuntimeNode, folder: Path, links: dict[str, str]) -> Path:
    """Return a layer like busybox's, in which these paths are links."""
    layer = folder / "hostile"
    shutil.copytree(node.layer, layer, symlinks=True)
    for place, target in links.items():
        path = layer / place
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        path.symlink_to(target)
    return layer


async def test_calls_that_reach_the_host_are_refused(node: RuntimeNode, python_mounts: tuple[MountConfig, ...]) -> None:
    program = os.path.realpath(sys.executable)
    _, output = await node.run("", args=(program, "-c", CALLS), env=(f"HOST_PID={os.getpid()}",), mounts=python_mounts)
    refusals = dict(line.rsplit(" ", 1) for line in output.splitlines())
    assert refusals.pop("ptrace the host's process") in ("EPERM", "ESRCH")
    expected = {path: "EROFS" if path.startswith("/sys") or Path(path).exists() else "ENOENT" for path in KERNEL_FILES}
    assert refusals == {"open_by_handle_at": "EPERM", "bpf": "EPERM", **expected}
    assert "EROFS" in refusals.values()


async def test_the_hosts_processes_are_out_of_sight(node: RuntimeNode) -> None:
    _, output = await node.run(f"ls -d /proc/[0-9]*; kill -0 {os.getpid()} && echo reached; ls /proc/1/root/root/.ssh")
    assert "reached" not in output
    assert all(int(line.removeprefix("/proc/")) < 20 for line in output.splitlines() if line.startswith("/proc/"))


async def test_control_groups_cannot_be_left_or_made_to_run_programs(node: RuntimeNode) -> None:
    script = (
        "mkdir /tmp/c; mount -t cgroup -o rdma cgroup /tmp/c && echo mounted; "
        "for file in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do "
        "[ -e $file ] && (echo 1 > $file) && echo wrote $file; done; echo done"
    )
    _, output = await node.run(script)
    assert "mounted" not in output
    assert "wrote" not in output
    assert output.rstrip().endswith("done")


async def test_devices_of_the_host_can_neither_be_made_nor_mounted(node: RuntimeNode) -> None:
    script = (
        "for numbers in 'b 7 0' 'c 1 1' 'c 10 237'; do "
        "mknod /tmp/device $numbers && dd if=/tmp/device of=/dev/null bs=1 count=1 && echo opened $numbers; "
        "rm -f /tmp/device; done; "
        "mount -t proc proc /tmp && echo mounted; mount -o remount,rw /sys && echo remounted; "
        "umount /proc/kcore && echo unmounted; ls /dev"
    )
    _, output = await node.run(script)
    for word in ("opened", "mounted", "remounted", "unmounted"):
        assert word not in output.split(), output
    assert "vda" not in output
    assert "mem" not in output.split()


async def test_the_runtimes_own_program_cannot_be_overwritten(node: RuntimeNode) -> None:
    """Through /proc/PID/exe of the process that enters the container (CVE-2019-5736)."""
    before = Path(shutil.which("crun") or "/usr/bin/crun").stat()
    script = "for pid in /proc/[0-9]*; do (echo > $pid/exe) 2>/dev/null && echo wrote $pid; done; echo done"
    _, output = await node.run(script, args=("sh", "-c", script))
    assert output.strip() == "done"
    after = Path(shutil.which("crun") or "/usr/bin/crun").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


async def test_no_descriptor_of_the_daemon_is_inherited(node: RuntimeNode) -> None:
    _, output = await node.run("ls -l /proc/self/fd")
    targets = {line.split(" -> ")[1] for line in output.splitlines() if " -> " in line}
    assert not [target for target in targets if not target.startswith(("pipe:", "/dev/null", "/proc/"))], output


async def test_links_in_an_image_do_not_move_our_files_out(node: RuntimeNode, treasure: Path, tmp_path: Path) -> None:
    """/etc/hosts and its like are made by us, below a folder that the image may have turned into a link."""
    for links in ({"etc": str(treasure)}, {"etc": f"../../../../../../..{treasure}"}, {"etc/hosts": str(treasure / "hosts")}):
        layer = hostile_layer(node, tmp_path, links)
        settings = {"hosts": "127.0.0.1 localhost\n", "resolv_conf": "nameserver 127.0.0.11\n", "layer_paths": (str(layer),)}
        with contextlib.suppress(ContainerStartFailed):
            await node.run("true", **settings)
        assert sorted(path.name for path in treasure.iterdir()) == ["gold"], links
        shutil.rmtree(layer)


async def test_links_in_an_image_do_not_move_mounts_out(node: RuntimeNode, treasure: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "silver").write_text("given\n")
    layer = hostile_layer(node, tmp_path, {"data": f"../../../../../..{treasure}"})
    mount = MountConfig(type="bind", source=str(source), target="/data/inside")
    with contextlib.suppress(ContainerStartFailed):
        await node.run("ls -R /data", mounts=(mount,), layer_paths=(str(layer),))
    assert sorted(path.name for path in treasure.iterdir()) == ["gold"]
    assert (treasure / "gold").read_text() == "of the host\n"


async def test_a_link_as_working_directory_stays_inside(node: RuntimeNode, treasure: Path, tmp_path: Path) -> None:
    """Through the descriptors of the entering process (CVE-2024-21626), and by a link to the host's folder."""
    for cwd in (*(f"/proc/self/fd/{number}" for number in range(3, 12)), "/way"):
        layer = hostile_layer(node, tmp_path, {"way": str(treasure)})
        try:
            _, output = await node.run("ls; ls ../../../../../../../../../../root", cwd=cwd, layer_paths=(str(layer),))
        except ContainerStartFailed:
            output = ""
        assert "gold" not in output.split(), cwd
        shutil.rmtree(layer)


async def test_accounts_are_not_read_from_the_host(node: RuntimeNode, treasure: Path, tmp_path: Path) -> None:
    (treasure / "passwd").write_text("thief:x:0:0::/:/bin/sh\n")
    layer = hostile_layer(node, tmp_path, {"etc/passwd": f"../../../../../../../..{treasure / 'passwd'}"})
    with pytest.raises(PyswarmError, match="thief"):
        await node.run("id", user="thief", layer_paths=(str(layer),))


async def test_a_fork_bomb_and_a_memory_hog_hurt_only_themselves(node: RuntimeNode) -> None:
    neighbour = await node.started("echo ready; sleep 1000")
    bomb = node.config("b() { b | b & }; b; sleep 2; echo survived", pids_limit=20, memory_bytes=32 * 1024 * 1024)
    await node.runtime.create(bomb)
    await node.runtime.start_container(bomb.id)
    hog, _ = await node.run("dd if=/dev/zero of=/dev/null bs=128M count=1", memory_bytes=16 * 1024 * 1024)
    assert hog.oom_killed
    await node.runtime.stop(bomb.id, grace_s=0.1)
    record = node.runtime.get(neighbour)
    assert record is not None
    assert record.state == "running"
