"""Limits of a container that runs, changed in its cgroup: which files get which text (pure), and writing them.

What the files mean is the OCI runtime's translation, which made the cgroup (crun's `cgroup-resources.c`); it is not asked here, as
it refuses machines that have both versions of cgroups. All or nothing: when one file is refused, those before get their old text.
"""

import contextlib
import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_agent.runtime.oci_resources import CPU_PERIOD_US
from pyswarm_common.errors import Conflict, Unimplemented

Json = dict[str, Any]

_DEFAULT_SHARES, _DEFAULT_SWAPPINESS = 1024, 60
_REFUSALS = (errno.EINVAL, errno.EBUSY)


class LimitWrite(NamedTuple):
    """A text for a file of a container's cgroup."""

    controller: str
    file: str
    text: str


def limit_writes(before: Json, after: Json, *, is_unified: bool, weight_file: str | None) -> list[LimitWrite]:
    """Return what to write where `linux.resources` change; pure. `weight_file` as `Cgroups.block_weight_file` returns it."""
    texts = _version_2 if is_unified else _version_1
    old = {*texts(before), *_weight(before, weight_file)}
    return [write for write in (*texts(after), *_weight(after, weight_file)) if write not in old]


def apply_limits(cgroups: Cgroups, name: str, writes: Sequence[LimitWrite]) -> None:
    """Write to a container's cgroup; fine if that is gone. Blocking.

    Raises Conflict when the kernel refuses, Unimplemented when it has no such limit, OSError.
    Limits that depend on each other (memory; memory and swap) may have only one order, which depends on what is there: what is
    refused is tried again after the others.
    """
    done: list[tuple[Path, str]] = []
    waiting = list(writes)
    try:
        while waiting:
            refused: list[tuple[LimitWrite, OSError]] = []
            for write in waiting:
                try:
                    done.append(_write(cgroups, name, write))
                except OSError as error:
                    refused.append((write, error))
            if len(refused) == len(waiting):
                _raise_refusal(cgroups, name, *refused[0])
                return
            waiting = [write for write, _ in refused]
    except BaseException:
        for path, text in reversed(done):
            with contextlib.suppress(OSError):
                path.write_text(text)
        raise


def _write(cgroups: Cgroups, name: str, write: LimitWrite) -> tuple[Path, str]:
    folder = _folder(cgroups, name, write)
    if folder is None:
        raise Unimplemented(f"this host's kernel has no cgroup controller {write.controller}")
    path = folder / write.file
    before = path.read_text()
    path.write_text(write.text)
    return path, before


def _raise_refusal(cgroups: Cgroups, name: str, write: LimitWrite, error: OSError) -> None:
    folder = _folder(cgroups, name, write)
    if folder is None or not folder.is_dir():
        return  # the container has ended
    if isinstance(error, FileNotFoundError):
        raise Unimplemented(f"this host's kernel has no {write.file}: start the container again without that limit") from error
    if error.errno in _REFUSALS:
        hint = "; it uses more than that, and the kernel finds nothing to take back" if error.errno == errno.EBUSY else ""
        raise Conflict(
            f"Cannot update container {name}: unable to set {write.file} to {write.text}: {error.strerror}{hint}"
        ) from error
    raise error


def _folder(cgroups: Cgroups, name: str, write: LimitWrite) -> Path | None:
    tree = cgroups.layout.holding(write.controller)
    return None if tree is None else tree / cgroups.path_of(name)[1:]


def _version_1(resources: Json) -> list[LimitWrite]:
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    return [
        LimitWrite("memory", "memory.limit_in_bytes", str(memory.get("limit", -1))),
        LimitWrite("memory", "memory.memsw.limit_in_bytes", str(memory.get("swap", -1))),
        LimitWrite("memory", "memory.soft_limit_in_bytes", str(memory.get("reservation", -1))),
        LimitWrite("memory", "memory.swappiness", str(memory.get("swappiness", _DEFAULT_SWAPPINESS))),
        LimitWrite("cpu", "cpu.shares", str(cpu.get("shares", _DEFAULT_SHARES))),
        LimitWrite("cpu", "cpu.cfs_period_us", str(cpu.get("period", CPU_PERIOD_US))),
        LimitWrite("cpu", "cpu.cfs_quota_us", str(cpu.get("quota", -1))),
        *_cpuset(cpu),
        _pids(resources),
    ]


def _version_2(resources: Json) -> list[LimitWrite]:
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    limit, swap = memory.get("limit"), memory.get("swap", -1)
    return [
        LimitWrite("memory", "memory.max", "max" if limit is None else str(limit)),
        LimitWrite("memory", "memory.swap.max", "max" if limit is None or swap < 0 else str(swap - limit)),
        LimitWrite("memory", "memory.low", str(memory.get("reservation", 0))),
        LimitWrite("cpu", "cpu.max", f"{cpu.get('quota', 'max')} {cpu.get('period', CPU_PERIOD_US)}"),
        LimitWrite("cpu", "cpu.weight", str(1 + (max(2, cpu["shares"]) - 2) * 9999 // 262142 if cpu.get("shares") else 100)),
        *_cpuset(cpu),
        _pids(resources),
    ]


def _cpuset(cpu: Json) -> list[LimitWrite]:
    return [LimitWrite("cpuset", f"cpuset.{member}", cpu[member]) for member in ("cpus", "mems") if cpu.get(member)]


def _pids(resources: Json) -> LimitWrite:
    return LimitWrite("pids", "pids.max", str(resources.get("pids", {}).get("limit", "max")))


def _weight(resources: Json, file: str | None) -> list[LimitWrite]:
    weight = resources.get("blockIO", {}).get("weight")
    if file is None or weight is None:
        return []
    text = str(1 + (weight - 10) * 9999 // 990 if file == "io.weight" else weight)
    return [LimitWrite("blkio" if file.startswith("blkio") else "io", file, text)]
