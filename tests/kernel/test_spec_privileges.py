"""What holds a container's processes back, and privileged containers, which nothing does; read back from inside."""

import json
import os

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime.capabilities import ALL_CAPABILITIES
from pyswarm_common.errors import InvalidArgument

pytestmark = pytest.mark.kernel

HOST_DEVICE = "/dev/kmsg"
"""One that every host has, and that containers do not get."""
STATUS = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["rmdir", "unlinkat"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}},
        {"names": ["sync", "no_such_call"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
    ],
}


def fields_of(output: str) -> dict[str, str]:
    return {line.split(":")[0]: line.split(":")[1].strip() for line in output.splitlines() if ":\t" in line}


async def test_defaults(node: RuntimeNode) -> None:
    fields = fields_of((await node.run(STATUS))[1])
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("0", "2")


async def test_no_new_privileges(node: RuntimeNode) -> None:
    fields = fields_of((await node.run(STATUS, no_new_privileges=True))[1])
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


async def test_without_seccomp(node: RuntimeNode) -> None:
    fields = fields_of((await node.run(STATUS, seccomp="unconfined"))[1])
    assert fields["Seccomp"] == "0"


async def test_custom_seccomp_profile(node: RuntimeNode) -> None:
    script = f"{STATUS}; mkdir /tmp/x; rmdir /root && sync && echo fine"
    _, output = await node.run(script, seccomp=json.dumps(PROFILE))
    assert fields_of(output)["Seccomp"] == "2"
    assert "can't create directory '/tmp/x': No space left on device" in output
    assert output.endswith("fine\n")
    _, output = await node.run("rmdir /root || echo kept", seccomp=json.dumps(PROFILE), cap_drop=("CHOWN",))
    assert output.splitlines() == ["rmdir: '/root': Operation not permitted", "kept"]


async def test_profile_that_is_none(node: RuntimeNode) -> None:
    with pytest.raises(InvalidArgument, match="Decoding seccomp profile failed"):
        await node.runtime.create(node.config("true", seccomp="{]"))


async def test_all_capabilities_but_one(node: RuntimeNode) -> None:
    fields = fields_of((await node.run(STATUS, cap_add=("ALL",), cap_drop=("CAP_SYS_ADMIN",)))[1])
    expected = node.runtime.host.capabilities - {"CAP_SYS_ADMIN"}
    assert int(fields["CapEff"], 16) == sum(1 << ALL_CAPABILITIES.index(name) for name in expected)


async def test_no_capabilities_but_one(node: RuntimeNode) -> None:
    fields = fields_of((await node.run(STATUS, cap_add=("CHOWN",), cap_drop=("ALL",)))[1])
    assert int(fields["CapBnd"], 16) == 1 << ALL_CAPABILITIES.index("CAP_CHOWN")


async def test_privileged(node: RuntimeNode) -> None:
    script = f"""
        {STATUS}
        mount -t tmpfs none /tmp && echo mounted
        cat /proc/interrupts > /dev/null && echo unmasked
        grep ' /sys ' /proc/self/mountinfo | cut -d' ' -f6
        [ -w /proc/sys/kernel/panic ] && touch /proc/sys/kernel/panic && echo writable
        ls /dev
    """
    _, output = await node.run(script, is_privileged=True)
    fields = fields_of(output)
    assert int(fields["CapEff"], 16) == sum(1 << ALL_CAPABILITIES.index(name) for name in node.runtime.host.capabilities)
    assert fields["Seccomp"] == "0"
    lines = output.split()
    assert {"mounted", "unmasked", "writable"} <= set(lines)
    assert any(line.startswith("rw,") for line in lines)
    assert set(os.listdir("/dev")) & {"kmsg", "mem", "net", "vda", "loop-control", "kvm", "random"} <= set(lines)


async def test_privileged_can_use_the_hosts_devices(node: RuntimeNode) -> None:
    _, output = await node.run(f"exec 3< {HOST_DEVICE} && echo opened", is_privileged=True)
    assert output == "opened\n"
    status = os.stat(HOST_DEVICE)
    numbers = f"{os.major(status.st_rdev)} {os.minor(status.st_rdev)}"
    _, output = await node.run(f"ls {HOST_DEVICE}; mknod /tmp/d c {numbers}; exec 3< /tmp/d && echo opened")
    assert "opened" not in output
    assert "No such file" in output


async def test_init_runs_first(node: RuntimeNode) -> None:
    _, output = await node.run("cat /proc/1/cmdline | tr '\\0' ' '; echo; echo $$", init=True)
    assert output.startswith("/sbin/docker-init -- sh -c")
    assert output.splitlines()[1] != "1"


async def test_read_only_root(node: RuntimeNode) -> None:
    _, output = await node.run("touch /x || echo refused; touch /dev/shm/y && echo shm", read_only=True)
    assert {"refused", "shm"} <= set(output.splitlines())
