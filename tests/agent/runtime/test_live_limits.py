"""Limits that change while a container runs: which cgroup files get which text, in whatever order the kernel takes them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.runtime.block_io import block_io, find_block_devices
from pyswarm_agent.runtime.cgroups import Cgroups, parse_layout
from pyswarm_agent.runtime.device_nodes import DeviceNode
from pyswarm_agent.runtime.limit_checks import Abilities, check_cpuset, cpuset_numbers, limit_warnings
from pyswarm_agent.runtime.live_limits import LimitWrite, apply_limits, limit_writes
from pyswarm_agent.runtime.oci_resources import device_rules, resources
from pyswarm_agent.runtime.records import BlockLimitConfig, ContainerConfig
from pyswarm_common.errors import InvalidArgument, Unimplemented

MIB = 1 << 20
FIRST = {"memory_bytes": 64 * MIB, "pids_limit": 9, "nano_cpus": 500_000_000}


def written(before: dict[str, Any], after: dict[str, Any], *, is_unified: bool) -> dict[str, str]:
    old, new = (
        resources(ContainerConfig(id="c", **values), (), limits_swap=True, is_unified=is_unified) for values in (before, after)
    )
    return {write.file: write.text for write in limit_writes(old, new, is_unified=is_unified, weight_file=None)}


@pytest.mark.parametrize(
    ("changed", "version_1", "version_2"),
    [
        ({}, {}, {}),
        (
            {"memory_bytes": 128 * MIB},
            {"memory.limit_in_bytes": str(128 * MIB), "memory.memsw.limit_in_bytes": str(256 * MIB)},
            {"memory.max": str(128 * MIB), "memory.swap.max": str(128 * MIB)},
        ),
        ({"swap_bytes": -1}, {"memory.memsw.limit_in_bytes": "-1"}, {"memory.swap.max": "max"}),
        ({"memory_reservation_bytes": MIB}, {"memory.soft_limit_in_bytes": str(MIB)}, {"memory.low": str(MIB)}),
        ({"pids_limit": 0}, {"pids.max": "max"}, {"pids.max": "max"}),
        ({"nano_cpus": 2_000_000_000}, {"cpu.cfs_quota_us": "200000"}, {"cpu.max": "200000 100000"}),
        ({"nano_cpus": 0}, {"cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 100000"}),
        (
            {"nano_cpus": 0, "cpu_quota_us": 5000, "cpu_period_us": 20000},
            {"cpu.cfs_quota_us": "5000", "cpu.cfs_period_us": "20000"},
            {"cpu.max": "5000 20000"},
        ),
        ({"cpu_shares": 2048}, {"cpu.shares": "2048"}, {"cpu.weight": "79"}),
        ({"cpu_shares": 1}, {"cpu.shares": "1"}, {"cpu.weight": "1"}),
        ({"cpuset_cpus": "0-1"}, {"cpuset.cpus": "0-1"}, {"cpuset.cpus": "0-1"}),
        ({"memory_swappiness": 7}, {"memory.swappiness": "7"}, {}),
    ],
)
def test_what_is_written(changed: dict[str, Any], version_1: dict[str, str], version_2: dict[str, str]) -> None:
    assert written(FIRST, {**FIRST, **changed}, is_unified=False) == version_1
    assert written(FIRST, {**FIRST, **changed}, is_unified=True) == version_2


@given(st.integers(4096, 2**40), st.integers(0, 4096), st.integers(0, 10**10), st.integers(2, 262144))
def test_version_2_files_take_what_they_get(memory: int, pids: int, cpus: int, shares: int) -> None:
    files = written({}, {"memory_bytes": memory, "pids_limit": pids, "nano_cpus": cpus, "cpu_shares": shares}, is_unified=True)
    assert int(files["memory.max"]) == memory
    assert 1 <= int(files.get("cpu.weight", "100")) <= 10_000
    assert all(word == "max" or int(word) > 0 for text in files.values() for word in text.split())


@pytest.mark.parametrize(("file", "text"), [("blkio.weight", "500"), ("io.bfq.weight", "500"), ("io.weight", "4950")])
def test_weights_of_block_devices(file: str, text: str) -> None:
    after = {"blockIO": {"weight": 500}}
    (write,) = limit_writes({}, after, is_unified=file.startswith("io"), weight_file=file)
    assert (write.file, write.text) == (file, text)
    assert limit_writes({}, after, is_unified=False, weight_file=None) == []


@pytest.fixture
def cgroups(tmp_path: Path) -> Cgroups:
    """A version 2 tree that is a folder, with a container's cgroup."""
    layout = parse_layout("30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
    (tree,) = layout.hierarchies
    folder = tmp_path / "pyswarm-t" / "c"
    folder.mkdir(parents=True)
    for name, text in (("memory.max", "1\n"), ("pids.max", "2\n"), ("cpu.weight", "100\n"), ("cpuset.cpus.effective", "0\n")):
        (folder / name).write_text(text)
    (tmp_path / "cpuset.cpus.effective").write_text("0-3,7\n")
    return Cgroups(layout._replace(hierarchies=(tree._replace(path=tmp_path),)), "/pyswarm-t")


def test_all_or_nothing(cgroups: Cgroups, tmp_path: Path) -> None:
    folder = tmp_path / "pyswarm-t" / "c"
    wishes = [LimitWrite("memory", "memory.max", "5"), LimitWrite("io", "io.weight", "7"), LimitWrite("pids", "pids.max", "6")]
    with pytest.raises(Unimplemented, match=r"this host's kernel has no io\.weight"):
        apply_limits(cgroups, "c", wishes)
    assert ((folder / "memory.max").read_text(), (folder / "pids.max").read_text()) == ("1\n", "2\n")
    apply_limits(cgroups, "c", [wishes[0], wishes[2]])
    assert ((folder / "memory.max").read_text(), (folder / "pids.max").read_text()) == ("5", "6")


def test_a_container_that_has_just_ended_is_no_error(cgroups: Cgroups) -> None:
    apply_limits(cgroups, "gone", [LimitWrite("pids", "pids.max", "6")])


def test_cpus_of_the_host(cgroups: Cgroups) -> None:
    assert cgroups.available("cpuset.cpus") == "0-3,7"
    assert cgroups.available("cpuset.mems") == ""
    assert cgroups.block_weight_file() is None


@pytest.mark.parametrize(
    ("text", "numbers"), [("", set()), ("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("3,", {3})], ids=["all", "one", "ranges", "comma"]
)
def test_lists_of_cpus(text: str, numbers: set[int]) -> None:
    assert cpuset_numbers(text) == numbers


@pytest.mark.parametrize("text", ["x", "1-", "-1", "2-1", "1--2", "0-99999999999", "1 2", "²"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid value"):
        cpuset_numbers(text)


def test_cpus_that_are_not_there() -> None:
    check_cpuset("CPUs", "9", "")
    with pytest.raises(InvalidArgument, match="Requested CPUs are not available - requested 1-9, available: 0-3"):
        check_cpuset("CPUs", "1-9", "0-3")


def test_what_a_host_cannot_keep_is_said() -> None:
    config = ContainerConfig(id="c", memory_bytes=1, swap_bytes=0, memory_swappiness=5, block_weight=500)
    assert [text.rsplit(". ")[1] for text in limit_warnings(config, Abilities(False, False, False))] == [
        "Memory limited without swap.",
        "Memory swappiness discarded.",
        "Weight discarded.",
    ]
    assert limit_warnings(config, Abilities(True, True, True)) == []


def test_limits_of_block_devices() -> None:
    limits = (
        BlockLimitConfig(path="/dev/a", kind="read_bps", value=5),
        BlockLimitConfig(path="/dev/a", kind="write_iops", value=6),
        BlockLimitConfig(path="/dev/a", kind="weight", value=70),
    )
    devices = {"/dev/a": DeviceNode("/dev/a", "b", 8, 1)}
    config = ContainerConfig(id="c", block_limits=limits, block_weight=50)
    throttled = {
        "throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 5}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 6}],
    }
    assert block_io(config, devices, has_weights=False) == throttled
    weighed = {"weight": 50, "weightDevice": [{"major": 8, "minor": 1, "weight": 70}]}
    assert block_io(config, devices, has_weights=True) == throttled | weighed


@pytest.mark.parametrize(
    ("path", "words"), [("/dev/null", "is no block device"), ("/nosuch", "no such file or directory: /nosuch")]
)
def test_limits_of_what_is_no_block_device(path: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        find_block_devices([BlockLimitConfig(path=path, kind="read_bps", value=1)])


def test_further_device_rules() -> None:
    rules = device_rules((), ("c 10:* r", "a *:* rwm"), allows_all=False)
    assert rules[-2:] == [
        {"allow": True, "type": "c", "access": "r", "major": 10},
        {"allow": True, "type": "a", "access": "rwm"},
    ]
