"""What a container can see and do, on the real kernel."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import MountConfig
from pyswarm_agent.runtime.capabilities import ALL_CAPABILITIES, DEFAULT_CAPABILITIES
from pyswarm_agent.runtime.host import inspect_host
from pyswarm_agent.runtime.oci_spec import MASKED_PATHS

pytestmark = pytest.mark.kernel

PERSONALITY, KEYCTL, CLONE3, IO_URING_SETUP = {
    "x86_64": (135, 250, 435, 425),
    "aarch64": (92, 219, 435, 425),
}[platform.machine()]

CALLS = f"""
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, *arguments):
    result = libc.syscall(*map(ctypes.c_long, arguments))
    print(name, errno.errorcode[ctypes.get_errno()] if result < 0 else "ok")
attempt("keyctl", {KEYCTL}, 0, -3, 1)
attempt("personality 0", {PERSONALITY}, 0)
attempt("personality ADDR_NO_RANDOMIZE", {PERSONALITY}, 0x40000)
attempt("clone3", {CLONE3}, 0, 0)
attempt("io_uring_setup", {IO_URING_SETUP}, 1, 0)
for family in (socket.AF_INET, socket.AF_VSOCK):
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
        print(family.name, "ok")
    except OSError as error:
        print(family.name, errno.errorcode[error.errno])
"""


async def test_no_new_namespaces(node: RuntimeNode) -> None:
    status, output = await node.run("unshare -U true; unshare -m true; unshare -n true; mount -t tmpfs none /tmp")
    assert status.exit_code != 0
    assert output.count("Operation not permitted") + output.count("ermission denied") == 4, output


async def test_dangerous_calls_are_refused(node: RuntimeNode) -> None:
    places = {"/usr", sys.base_prefix}
    mounts = tuple(MountConfig(type="bind", source=place, target=place, read_only=True) for place in sorted(places))
    program = os.path.realpath(sys.executable)
    _, output = await node.run("", args=(program, "-c", CALLS), mounts=mounts)
    assert output.splitlines() == [
        "keyctl EPERM",
        "personality 0 ok",
        "personality ADDR_NO_RANDOMIZE EPERM",
        "clone3 ENOSYS",
        "io_uring_setup EPERM",
        "AF_INET ok",
        "AF_VSOCK EPERM",
    ]


async def test_raw_devices_cannot_be_opened(node: RuntimeNode) -> None:
    number = os.stat("/dev/vda").st_rdev if Path("/dev/vda").exists() else os.makedev(7, 0)
    script = f"mknod /tmp/disk b {os.major(number)} {os.minor(number)} && dd if=/tmp/disk of=/dev/null count=1"
    status, output = await node.run(script)
    assert status.exit_code != 0
    assert "dd: can't open '/tmp/disk': Operation not permitted" in output


async def test_masked_paths_show_nothing(node: RuntimeNode) -> None:
    _, output = await node.run(f"for path in {' '.join(MASKED_PATHS)}; do cat $path; ls -A $path; done 2>/dev/null")
    assert [line for line in output.splitlines() if line not in MASKED_PATHS] == []


async def test_kernel_settings_are_read_only(node: RuntimeNode) -> None:
    own = "own=/sys/fs/cgroup; [ -d $own/memory ] && own=$own/memory"
    _, output = await node.run(f"echo 1 > /proc/sys/kernel/panic; {own}; mkdir $own/x; mkdir /sys/x")
    lines = output.splitlines()
    assert len(lines) == 3, output
    assert all("Read-only file system" in line or "Operation not permitted" in line for line in lines), output


async def test_capabilities_are_the_default_fourteen(node: RuntimeNode) -> None:
    _, output = await node.run("grep Cap /proc/self/status")
    masks = {line.split(":")[0]: int(line.split()[1], 16) for line in output.splitlines()}
    expected = sum(1 << ALL_CAPABILITIES.index(name) for name in DEFAULT_CAPABILITIES & inspect_host().capabilities)
    assert masks == {"CapInh": 0, "CapPrm": expected, "CapEff": expected, "CapBnd": expected, "CapAmb": 0}


async def test_capabilities_can_be_added_and_dropped(node: RuntimeNode) -> None:
    _, output = await node.run(
        "grep CapEff /proc/self/status; chown web /tmp || echo no chown", cap_add=("net_admin",), cap_drop=("CAP_CHOWN",)
    )
    effective = int(output.split()[1], 16)
    assert effective & (1 << ALL_CAPABILITIES.index("CAP_NET_ADMIN"))
    assert not effective & (1 << ALL_CAPABILITIES.index("CAP_CHOWN"))
    assert "no chown" in output


async def test_processes_are_its_own(node: RuntimeNode) -> None:
    _, output = await node.run("ps -o pid,args; hostname; cat /proc/self/cgroup")
    assert output.splitlines()[1].split()[0] == "1"
    assert "box" in output
    assert node.tag not in output


async def test_memory_limit_kills_and_is_reported(node: RuntimeNode) -> None:
    status, _ = await node.run("dd if=/dev/zero of=/dev/null bs=64M count=1", memory_bytes=16 * 1024 * 1024)
    assert (status.exit_code, status.oom_killed) == (137, True)


async def test_process_limit_holds(node: RuntimeNode) -> None:
    _, output = await node.run("for i in 1 2 3 4 5 6 7 8 9; do sleep 9 & done; echo started all", pids_limit=5)
    assert "can't fork" in output


async def test_cpu_limit_is_set(node: RuntimeNode) -> None:
    script = "cat /sys/fs/cgroup/cpu.max || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    _, output = await node.run(script, nano_cpus=250_000_000)
    assert "25000" in output


async def test_joins_the_network_namespace(node: RuntimeNode) -> None:
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        path = f"/proc/{holder.pid}/ns/net"
        script = "readlink /proc/self/ns/net; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
        _, output = await node.run(script, netns_path=path)
        inode = os.readlink(path)
        holder.kill()
    assert output.split() == [inode, "lo", "0"]


async def test_host_network_is_the_hosts(node: RuntimeNode) -> None:
    _, output = await node.run("readlink /proc/self/ns/net")
    assert output.strip() == os.readlink("/proc/self/ns/net")


async def test_nothing_of_a_container_is_in_the_hosts_mount_table(node: RuntimeNode) -> None:
    await node.started("echo ready; sleep 1000")
    assert str(node.runtime_dir) not in Path("/proc/self/mountinfo").read_text()
