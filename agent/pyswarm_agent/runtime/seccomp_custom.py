"""A user's own seccomp profile in Docker's format, as an OCI bundle's `linux.seccomp`. Pure.

Docker's format is the OCI's with conditions: which calls a rule is about may depend on the container's capabilities, the machine's
architecture and the kernel. Source: Moby `profiles/seccomp`. The OCI runtime compiles the result.
"""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from pyswarm_common.errors import InvalidArgument

Json = dict[str, Any]

_GO_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_NATIVE = {
    "x86_64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "armv7l": "SCMP_ARCH_ARM",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "s390x": "SCMP_ARCH_S390X",
    "riscv64": "SCMP_ARCH_RISCV64",
}


class Facts(NamedTuple):
    """What conditions look at: the container's capabilities, `platform.machine()` and the kernel's release."""

    capabilities: Collection[str]
    machine: str
    kernel_release: str


class _Architecture(msgspec.Struct, frozen=True, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Condition(msgspec.Struct, frozen=True, rename="camel"):
    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str = ""


class _Argument(msgspec.Struct, frozen=True, rename="camel"):
    index: int
    value: int
    op: str
    value_two: int = 0


class _Rule(msgspec.Struct, frozen=True, rename="camel"):
    action: str
    names: list[str] | None = None
    name: str = ""
    errno_ret: int | None = None
    args: list[_Argument] | None = None
    includes: _Condition = _Condition()
    excludes: _Condition = _Condition()


class SeccompProfile(msgspec.Struct, frozen=True, rename="camel"):
    """A profile as its file has it."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_Architecture] | None = None
    flags: list[str] | None = None
    syscalls: list[_Rule] | None = None


def decode_profile(text: str | bytes) -> SeccompProfile:
    """Return the profile. Raises InvalidArgument."""
    try:
        profile = msgspec.json.decode(text, type=SeccompProfile)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from error
    if profile.architectures and profile.arch_map:
        raise InvalidArgument("both 'architectures' and 'archMap' are specified in the seccomp profile, use either of them")
    if any(rule.name and rule.names for rule in profile.syscalls or ()):
        raise InvalidArgument("both 'name' and 'names' are specified in the seccomp profile, use either of them")
    return profile


def custom_seccomp(profile: SeccompProfile, facts: Facts) -> Json:
    """Return what of the profile applies, as `linux.seccomp`."""
    result: Json = {
        "defaultAction": profile.default_action,
        "architectures": _architectures(profile, facts),
        "syscalls": [_oci_rule(rule) for rule in profile.syscalls or () if _applies(rule, facts)],
    }
    if profile.default_errno_ret is not None:
        result["defaultErrnoRet"] = profile.default_errno_ret
    if profile.flags:
        result["flags"] = profile.flags
    return result


def _architectures(profile: SeccompProfile, facts: Facts) -> list[str]:
    if profile.architectures:
        return profile.architectures
    native = _NATIVE.get(facts.machine)
    for entry in profile.arch_map or ():
        if entry.architecture == native:
            return [entry.architecture, *(entry.sub_architectures or ())]
    return []


def _applies(rule: _Rule, facts: Facts) -> bool:
    architecture = _GO_ARCHITECTURES.get(facts.machine, facts.machine)
    needed, barred = rule.includes, rule.excludes
    if architecture in (barred.arches or ()) or any(name in facts.capabilities for name in barred.caps or ()):
        return False
    if barred.min_kernel and _is_at_least(facts.kernel_release, barred.min_kernel):
        return False
    if needed.arches and architecture not in needed.arches:
        return False
    if not all(name in facts.capabilities for name in needed.caps or ()):
        return False
    return not needed.min_kernel or _is_at_least(facts.kernel_release, needed.min_kernel)


def _is_at_least(release: str, least: str) -> bool:
    return _version(release) >= _version(least)


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def _oci_rule(rule: _Rule) -> Json:
    result: Json = {"names": rule.names or [rule.name], "action": rule.action}
    if rule.errno_ret is not None:
        result["errnoRet"] = rule.errno_ret
    if rule.args:
        result["args"] = [{"index": a.index, "value": a.value, "valueTwo": a.value_two, "op": a.op} for a in rule.args]
    return result
