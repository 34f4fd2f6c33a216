"""Limits that the docker CLI asks for, read back from the containers' cgroups; changed while a container runs."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from local_node import IMAGE, LocalNode, local_node
from overlay_hosts import machines
from runtime_harness import RuntimeNode

pytestmark = pytest.mark.kernel

MIB = 1 << 20


class Files(NamedTuple):
    """Where the container finds a limit, in version 1 and version 2."""

    version_1: str
    version_2: str


MEMORY = Files("memory/memory.limit_in_bytes", "memory.max")
PIDS = Files("pids/pids.max", "pids.max")
SHARES = Files("cpu/cpu.shares", "cpu.weight")
QUOTA = Files("cpu/cpu.cfs_quota_us", "cpu.max")
CPUS = Files("cpuset/cpuset.cpus", "cpuset.cpus")


@pytest.fixture
async def box(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[LocalNode]:
    """A node at work."""
    with machines(tmp_path / "hosts", 1) as (machine,):
        async with local_node(node, machine) as started:
            yield started


def is_unified(box: LocalNode) -> bool:
    return box.node.runtime.host.layout.is_unified


async def limit(box: LocalNode, container: str, files: Files) -> str:
    """What the running container sees."""
    file = files.version_2 if is_unified(box) else files.version_1
    return (await box.docker("exec", container, "cat", f"/sys/fs/cgroup/{file}")).split()[0]


async def test_update_changes_a_container_that_runs(box: LocalNode) -> None:
    await box.docker("run", "-d", "--name", "web", "-m", "64m", "--pids-limit", "50", IMAGE, "sleep", "1000")
    command = "update -m 128m --memory-swap 256m --pids-limit 70 --cpu-shares 512 --cpus 0.5 --cpuset-cpus 0 web"
    assert await box.docker(*command.split()) == "web\n"
    assert [await limit(box, "web", files) for files in (MEMORY, PIDS, QUOTA, CPUS)] == [str(128 * MIB), "70", "50000", "0"]
    assert int(await limit(box, "web", SHARES)) == (20 if is_unified(box) else 512)
    host = json.loads(await box.docker("inspect", "web"))[0]["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (128 * MIB, 256 * MIB, 70)
    assert (host["NanoCpus"], host["CpusetCpus"], host["CpuShares"]) == (500_000_000, "0", 512)
    await box.docker("restart", "-t", "0", "web")
    assert await limit(box, "web", MEMORY) == str(128 * MIB)
    await box.docker("update", "-m", "16m", "--memory-swap", "16m", "--pids-limit", "-1", "web")
    assert [await limit(box, "web", files) for files in (MEMORY, PIDS)] == [str(16 * MIB), "max"]


async def test_an_update_that_is_refused_changes_nothing(box: LocalNode) -> None:
    await box.docker("run", "-d", "--name", "web", "-m", "64m", "--cpus", "0.5", IMAGE, "sleep", "1000")
    for options, words in (
        ("--cpuset-cpus 4000", "Requested CPUs are not available - requested 4000"),
        ("--cpu-period 50000", "CPU Period/Quota cannot be updated as NanoCPUs has already been set"),
        ("--kernel-memory 50m", "KernelMemory cannot be changed by an update"),
    ):
        code, _, errors = await box.docker.run("update", "-m", "128m", *options.split(), "web")
        assert (code, words in errors) == (1, True), errors
    assert await limit(box, "web", MEMORY) == str(64 * MIB)
    assert json.loads(await box.docker("inspect", "web"))[0]["HostConfig"]["Memory"] == 64 * MIB


async def test_a_limit_below_what_is_used_is_refused(box: LocalNode) -> None:
    if is_unified(box):  # there the kernel kills instead, as with Docker
        return
    fill = "dd if=/dev/zero of=/dev/shm/x bs=1M count=48 2>/dev/null; echo ready; exec sleep 1000"
    await box.docker("run", "-d", "--name", "web", "-m", "64m", "--memory-swap", "64m", IMAGE, "sh", "-c", fill)
    while "ready" not in await box.docker("logs", "web"):
        pass
    code, _, errors = await box.docker.run("update", "-m", "16m", "--memory-swap", "16m", "--pids-limit", "9", "web")
    assert (code, "unable to set memory." in errors) == (1, True), errors
    assert [await limit(box, "web", files) for files in (MEMORY, PIDS)] == [str(64 * MIB), "max"]


async def test_cpu_sets_quotas_and_block_devices(box: LocalNode) -> None:
    options = "--cpuset-cpus 0 --cpuset-mems 0 --cpu-period 50000 --cpu-quota 20000"
    await box.docker("run", "-d", "--name", "web", *options.split(), IMAGE, "sleep", "1000")
    assert [await limit(box, "web", files) for files in (CPUS, QUOTA)] == ["0", "20000"]
    host = json.loads(await box.docker("inspect", "web"))[0]["HostConfig"]
    assert (host["CpuPeriod"], host["CpuQuota"], host["NanoCpus"]) == (50000, 20000, 0)
    code, _, errors = await box.docker.run("run", "--rm", "--device-read-bps", "/dev/null:1mb", IMAGE, "true")
    assert (code, "/dev/null is no block device" in errors) == (125, True)


async def test_block_devices_are_throttled(box: LocalNode) -> None:
    device = next((entry.name for entry in Path("/sys/block").iterdir() if Path("/dev", entry.name).is_block_device()), "")
    assert device, "this machine has no block device"
    file = "io.max" if is_unified(box) else "blkio/blkio.throttle.read_bps_device"
    shown = await box.docker("run", "--rm", "--device-read-bps", f"/dev/{device}:1mb", IMAGE, "cat", f"/sys/fs/cgroup/{file}")
    numbers = Path(f"/sys/block/{device}/dev").read_text().strip()
    assert shown.split()[0] == numbers
    assert "1048576" in shown


async def test_a_weight_that_the_kernel_has_not_is_said(box: LocalNode) -> None:
    code, _, errors = await box.docker.run("create", "--name", "web", "--blkio-weight", "300", IMAGE, "true")
    has_weights = box.node.runtime.cgroups.block_weight_file() is not None
    assert (code, "Weight discarded" in errors) == (0, not has_weights)
    assert (await box.docker.run("start", "-a", "web"))[0] == 0


async def test_device_rules(box: LocalNode) -> None:
    open_null = "mknod /tmp/d c 10 200 && { : </tmp/d; } 2>&1"
    _, refused, _ = await box.docker.run("run", "--rm", IMAGE, "sh", "-c", open_null)
    _, allowed, _ = await box.docker.run("run", "--rm", "--device-cgroup-rule", "c 10:200 r", IMAGE, "sh", "-c", open_null)
    assert "Operation not permitted" in refused
    assert "Operation not permitted" not in allowed


async def test_masked_paths_can_be_shown(box: LocalNode) -> None:
    for options, sizes in (((), "0"), (("--security-opt", "systempaths=unconfined"), "more")):
        shown = await box.docker("run", "--rm", *options, IMAGE, "sh", "-c", "head -c 4 /proc/timer_list | wc -c")
        assert (int(shown) > 0) == (sizes == "more")


async def test_another_platform(box: LocalNode) -> None:
    code, _, errors = await box.docker.run("create", "--platform", "linux/s390x", "--pull", "never", IMAGE, "true")
    image = box.agent.images.get(IMAGE)
    assert image is not None
    assert (code == 1) == bool(image.architecture), errors
