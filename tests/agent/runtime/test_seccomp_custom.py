"""Users' own seccomp profiles in Docker's format: which rules apply."""

from typing import Any

import msgspec
import pytest

from pyswarm_agent.runtime.apparmor import profile_text
from pyswarm_agent.runtime.seccomp_custom import Facts, custom_seccomp, decode_profile
from pyswarm_common.errors import InvalidArgument

FACTS = Facts(frozenset({"CAP_CHOWN", "CAP_KILL"}), "x86_64", "6.1.0-13-amd64")


def applied(rule: dict[str, Any], facts: Facts = FACTS, **profile: Any) -> dict[str, Any]:
    text = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW", **rule}], **profile}
    return custom_seccomp(decode_profile(msgspec.json.encode(text)), facts)


@pytest.mark.parametrize(
    ("conditions", "applies"),
    [
        ({}, True),
        ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
        ({"includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_KILL"]}}, False),
        ({"includes": {"arches": ["amd64", "x32"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.10"}}, False),
        ({"excludes": {"minKernel": "6.1"}}, False),
    ],
)
def test_conditions(conditions: dict[str, Any], applies: bool) -> None:
    assert bool(applied({"names": ["read"], **conditions})["syscalls"]) == applies


def test_members() -> None:
    argument = {"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}
    found = applied({"name": "clone", "errnoRet": 38, "args": [argument]}, defaultErrnoRet=1, flags=["SECCOMP_FILTER_FLAG_LOG"])
    assert found == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "architectures": [],
        "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "errnoRet": 38, "args": [argument]}],
    }


def test_architectures() -> None:
    both = [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ]
    assert applied({"names": ["read"]}, archMap=both)["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    on_arm = FACTS._replace(machine="aarch64")
    assert applied({"names": ["read"]}, on_arm, archMap=both)["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert applied({"names": ["read"]}, architectures=["SCMP_ARCH_X86"])["architectures"] == ["SCMP_ARCH_X86"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Decoding seccomp profile failed"),
        ("{}", "Decoding seccomp profile failed: Object missing required field `defaultAction`"),
        (
            '{"defaultAction": "x", "architectures": ["a"], "archMap": [{"architecture": "a"}]}',
            "both 'architectures' and 'archMap'",
        ),
        ('{"defaultAction": "x", "syscalls": [{"name": "a", "names": ["b"], "action": "x"}]}', "both 'name' and 'names'"),
    ],
)
def test_profiles_that_are_none(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        decode_profile(text)


def test_apparmor_profile_names_itself_and_guards_the_kernel() -> None:
    text = profile_text("box")
    assert text.startswith("#include <tunables/global>\n\nprofile box flags=(attach_disconnected,mediate_deleted) {\n")
    for rule in ("deny mount,", "deny @{PROC}/sysrq-trigger rwklx,", "ptrace (trace,read,tracedby,readby) peer=box,"):
        assert f"  {rule}\n" in text
