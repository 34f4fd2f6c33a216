"""The seccomp profile: what it must refuse, and that it says the same to libseccomp and to runc."""

import struct
from pathlib import Path

import pytest

from pyswarm_agent.runtime.capabilities import ALL_CAPABILITIES, DEFAULT_CAPABILITIES
from pyswarm_agent.runtime.seccomp_compile import SeccompCache, compile_rules
from pyswarm_agent.runtime.seccomp_profile import Rule, oci_seccomp, profile_rules

REFUSED = """
    add_key keyctl request_key kexec_load kexec_file_load mount umount2 pivot_root swapon swapoff init_module delete_module bpf
    userfaultfd io_uring_setup io_uring_enter io_uring_register perf_event_open unshare setns open_by_handle_at reboot
    settimeofday clock_settime iopl ioperm acct quotactl nfsservctl lookup_dcookie vm86 uselib ustat sysfs move_pages syslog
"""


def allowed_always(rules: tuple[Rule, ...]) -> set[str]:
    return {name for rule in rules if rule.errno == 0 and rule.condition is None for name in rule.names}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "s390x", "riscv64"])
def test_default_containers_are_refused(machine: str) -> None:
    allowed = allowed_always(profile_rules(DEFAULT_CAPABILITIES, machine))
    assert allowed.isdisjoint({*REFUSED.split(), "clone", "clone3", "socket", "personality"})


def test_capabilities_open_their_calls() -> None:
    assert "unshare" in allowed_always(profile_rules(["CAP_SYS_ADMIN"], "x86_64"))
    assert "clone3" in allowed_always(profile_rules(["CAP_SYS_ADMIN"], "x86_64"))
    assert "chroot" in allowed_always(profile_rules(["CAP_SYS_CHROOT"], "x86_64"))
    assert "chroot" not in allowed_always(profile_rules([], "x86_64"))


def test_keyrings_and_io_uring_stay_closed_for_all() -> None:
    assert allowed_always(profile_rules(ALL_CAPABILITIES, "x86_64")).isdisjoint(
        {"keyctl", "add_key", "request_key", "io_uring_setup", "userfaultfd", "kexec_load"}
    )


def test_clone_flags_are_the_second_argument_on_s390x() -> None:
    arguments = {
        machine: [rule.condition.argument for rule in profile_rules([], machine) if rule.names == ("clone",) and rule.condition]
        for machine in ("x86_64", "s390x")
    }
    assert arguments == {"x86_64": [0], "s390x": [1]}


def test_oci_form() -> None:
    profile = oci_seccomp(profile_rules([], "x86_64"), "x86_64")
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    by_name = {entry["names"][0]: entry for entry in profile["syscalls"] if len(entry["names"]) == 1}
    assert by_name["clone3"] == {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    assert by_name["clone"]["args"] == [{"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 0}]
    assert by_name["socket"]["args"] == [{"index": 0, "value": 40, "op": "SCMP_CMP_NE", "valueTwo": 0}]


def test_compiled_program_returns_the_actions() -> None:
    program = compile_rules(profile_rules(DEFAULT_CAPABILITIES, "x86_64"), "x86_64")
    instructions = list(struct.iter_unpack("<HBBI", program))
    returned = {value for code, _, _, value in instructions if code == 0x06}
    assert {0x7FFF0000, 0x00050001, 0x00050026} <= returned
    assert len(instructions) < 4096


def test_cache_compiles_once_a_boot(tmp_path: Path) -> None:
    program = SeccompCache(tmp_path, "x86_64").program_base64(DEFAULT_CAPABILITIES)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    assert SeccompCache(tmp_path, "x86_64").program_base64(DEFAULT_CAPABILITIES) == program
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [stamp]
