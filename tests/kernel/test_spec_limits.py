"""Limits of a container's processes and resources, read back from inside."""

from pathlib import Path

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime.records import UlimitConfig
from pyswarm_agent.runtime.sysctls import namespaced_sysctls
from pyswarm_common.errors import InvalidArgument

pytestmark = pytest.mark.kernel

MIB = 1 << 20


def limits_of(output: str) -> dict[str, tuple[str, str]]:
    """Soft and hard by name, as /proc/self/limits has them."""
    lines = [line for line in output.splitlines() if line.startswith("Max ")]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


async def test_ulimits(node: RuntimeNode) -> None:
    ulimits = (
        UlimitConfig(name="nofile", soft=64, hard=128),
        UlimitConfig(name="core", soft=0, hard=-1),
        UlimitConfig(name="stack", soft=-1, hard=-1),
        UlimitConfig(name="fsize", soft=1 << 20, hard=1 << 20),
    )
    _, output = await node.run("cat /proc/self/limits", ulimits=ulimits)
    limits = limits_of(output)
    assert limits["Max open files"] == ("64", "128")
    assert limits["Max core file size"] == ("0", "unlimited")
    assert limits["Max stack size"] == ("unlimited", "unlimited")
    assert limits["Max file size"] == ("1048576", "1048576")


async def test_ulimits_beyond_the_hosts_are_clipped(node: RuntimeNode) -> None:
    host = node.runtime.host
    _, output = await node.run("cat /proc/self/limits", ulimits=(UlimitConfig(name="nofile", soft=1 << 40, hard=-1),))
    assert limits_of(output)["Max open files"] == (str(host.hard_limits["nofile"]),) * 2


async def test_ulimit_that_is_none(node: RuntimeNode) -> None:
    with pytest.raises(InvalidArgument, match="invalid ulimit type: rubbish"):
        await node.runtime.create(node.config("true", ulimits=(UlimitConfig(name="rubbish", soft=1, hard=1),)))


async def test_oom_score(node: RuntimeNode) -> None:
    _, output = await node.run("cat /proc/self/oom_score_adj", oom_score_adj=300)
    assert output == "300\n"
    _, output = await node.run("cat /proc/self/oom_score_adj", oom_score_adj=-900)
    assert int(output) == max(-900, node.runtime.host.lowest_oom_score)


async def test_memory_members(node: RuntimeNode) -> None:
    script = """
        cd /sys/fs/cgroup
        if [ -d memory ]; then cd memory; cat memory.limit_in_bytes memory.soft_limit_in_bytes memory.swappiness
        else cat memory.max memory.low; echo 7; fi
    """
    _, output = await node.run(script, memory_bytes=64 * MIB, memory_reservation_bytes=32 * MIB, memory_swappiness=7)
    assert output.split() == [str(64 * MIB), str(32 * MIB), "7"]


async def test_swap(node: RuntimeNode) -> None:
    if not node.runtime.cgroups.supports_swap_limit():
        status, _ = await node.run("true", memory_bytes=64 * MIB, swap_bytes=16 * MIB)
        assert status.exit_code == 0
        return
    script = """
        cd /sys/fs/cgroup
        if [ -d memory ]; then cat memory/memory.memsw.limit_in_bytes; else cat memory.swap.max; fi
    """
    _, output = await node.run(script, memory_bytes=64 * MIB, swap_bytes=16 * MIB)
    assert int(output) == (16 if node.runtime.host.layout.is_unified else 80) * MIB


async def test_cpu_shares(node: RuntimeNode) -> None:
    script = "cd /sys/fs/cgroup; if [ -d cpu ]; then cat cpu/cpu.shares; else cat cpu.weight; fi"
    _, output = await node.run(script, cpu_shares=2048)
    assert int(output) == (2048 if not node.runtime.host.layout.is_unified else 1 + (2048 - 2) * 9999 // 262142)


async def test_shared_memory_size(node: RuntimeNode) -> None:
    _, output = await node.run("df -k /dev/shm | tail -n 1", shm_size_bytes=8 * MIB)
    assert output.split()[1] == str(8 * 1024)


async def test_sysctls_are_the_containers_own(node: RuntimeNode) -> None:
    names = {"kernel.shm_rmid_forced": "1", "kernel.msgmax": "12345", "fs.mqueue.msg_max": "20"}
    before = Path("/proc/sys/kernel/msgmax").read_text()
    script = "cd /proc/sys; cat kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max"
    _, output = await node.run(script, sysctls=names)
    assert output.split() == ["1", "12345", "20"]
    assert Path("/proc/sys/kernel/msgmax").read_text() == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kernel.panic", "sysctl 'kernel.panic' is not allowed"),
        ("vm.overcommit_memory", "is not allowed"),
        ("net/../kernel/panic", "is not allowed"),
        ("net.ipv4.ip_forward", 'sysctl "net.ipv4.ip_forward" not allowed in host network namespace'),
    ],
)
async def test_sysctls_of_the_host_are_refused(node: RuntimeNode, name: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await node.runtime.create(node.config("true", sysctls={name: "1"}))


def test_network_settings_need_a_network_of_ones_own() -> None:
    assert namespaced_sysctls({"net.core.somaxconn": "9"}, has_network=True)["net.core.somaxconn"] == "9"
