"""Limits of create and update bodies, and what is refused by name."""

from typing import Any

import pytest

from pyswarm_agent.images import Image
from pyswarm_agent.images.records import ImageConfig
from pyswarm_agent.local_containers.create_body import Resources
from pyswarm_agent.local_containers.creation import build, decode_body
from pyswarm_agent.local_containers.limits import with_resources
from pyswarm_agent.local_containers.refusals import check_platform, refuse_to_update
from pyswarm_agent.runtime.records import BlockLimitConfig, ContainerConfig
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound, PyswarmError, Unimplemented

IMAGE = Image(id="sha256:1", config=ImageConfig(cmd=("serve",)))
MIB = 1 << 20


def created(host: dict[str, Any], **body: Any) -> ContainerConfig:
    posted = {"Image": "web", "HostConfig": host, **body}
    return build(decode_body(posted), posted, IMAGE, container_id="c" * 64, name="x", hostname="node").config


def test_all_limits_arrive() -> None:
    config = created(
        {
            "CpuPeriod": 50000,
            "CpuQuota": 25000,
            "CpusetCpus": "0",
            "CpusetMems": "0",
            "BlkioWeight": 300,
            "BlkioDeviceReadBps": [{"Path": "/dev/a", "Rate": 1}],
            "BlkioDeviceWriteIOps": [{"Path": "/dev/a", "Rate": 2}],
            "BlkioWeightDevice": [{"Path": "/dev/a", "Weight": 30}],
            "DeviceCgroupRules": ["c 10:* rwm"],
            "MaskedPaths": [],
            "ReadonlyPaths": ["/proc/x"],
        }
    )
    assert (config.cpu_quota_us, config.cpu_period_us, config.nano_cpus) == (25000, 50000, 0)
    assert (config.cpuset_cpus, config.cpuset_mems, config.block_weight) == ("0", "0", 300)
    assert config.block_limits == (
        BlockLimitConfig(path="/dev/a", kind="read_bps", value=1),
        BlockLimitConfig(path="/dev/a", kind="write_iops", value=2),
        BlockLimitConfig(path="/dev/a", kind="weight", value=30),
    )
    assert (config.device_rules, config.masked_paths, config.readonly_paths) == (("c 10:* rwm",), (), ("/proc/x",))
    assert created({"MaskedPaths": None}).masked_paths is None


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"NanoCpus": 1, "CpuPeriod": 1000}, "Nano CPUs and CPU Period cannot both be set"),
        ({"NanoCpus": 1, "CpuQuota": 1000}, "Nano CPUs and CPU Quota cannot both be set"),
        ({"CpuPeriod": 999}, "CPU cfs period can not be less than 1ms"),
        ({"CpuQuota": 999}, "CPU cfs quota can not be less than 1ms"),
        ({"CpuShares": -1}, "invalid CPU shares"),
        ({"BlkioWeight": 9}, "Range of blkio weight is from 10 to 1000"),
        ({"BlkioWeightDevice": [{"Path": "/dev/a", "Weight": 1001}]}, "invalid limit of /dev/a: 1001"),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/a", "Rate": 0}]}, "invalid limit of /dev/a: 0"),
        ({"DeviceCgroupRules": ["c 10:* rwm", "x 1:1 r"]}, "invalid device cgroup rule format: 'x 1:1 r'"),
        ({"Runtime": "kata"}, "unknown or invalid runtime name: kata"),
        ({"Isolation": "hyperv"}, "invalid isolation 'hyperv'"),
    ],
)
def test_bad_limits(host: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        created(host)


@pytest.mark.parametrize(
    ("body", "option"),
    [
        ({"HostConfig": {"KernelMemory": 1}}, "--kernel-memory"),
        ({"HostConfig": {"OomKillDisable": True}}, "--oom-kill-disable"),
        ({"HostConfig": {"CpuRealtimePeriod": 1}}, "--cpu-rt-period"),
        ({"HostConfig": {"CpuRealtimeRuntime": 1}}, "--cpu-rt-runtime"),
        ({"HostConfig": {"StorageOpt": {"size": "1G"}}}, "--storage-opt"),
        ({"HostConfig": {"CgroupnsMode": "host"}}, "--cgroupns"),
        ({"HostConfig": {"Annotations": {"a": "b"}}}, "--annotation"),
        ({"HostConfig": {"VolumesFrom": ["x"]}}, "--volumes-from"),
        ({"NetworkDisabled": True}, "NetworkDisabled"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(body: dict[str, Any], option: str) -> None:
    posted = {"Image": "web", **body}
    with pytest.raises(Unimplemented, match=f"^{option} is not supported yet"):
        build(decode_body(posted), posted, IMAGE, container_id="c" * 64, name="x", hostname="node")


def test_what_the_cli_always_sends_is_fine() -> None:
    nothing = {"CgroupnsMode": "", "OomKillDisable": False, "Runtime": "", "Isolation": "", "CpuCount": 0, "StorageOpt": None}
    assert (
        created({**nothing, "CgroupnsMode": "private", "Runtime": "crun"}, NetworkingConfig={"EndpointsConfig": {}}).image == "web"
    )


def test_update_keeps_what_it_does_not_name() -> None:
    config = ContainerConfig(id="c", memory_bytes=64 * MIB, pids_limit=5, cpu_shares=7, cpuset_cpus="0")
    assert with_resources(config, Resources(pids_limit=0)) == config
    changed = with_resources(config, Resources(memory=128 * MIB, pids_limit=-1, cpuset_cpus="1"))
    assert (changed.memory_bytes, changed.pids_limit, changed.cpu_shares, changed.cpuset_cpus) == (128 * MIB, 0, 7, "1")


def test_update_keeps_the_sum_of_memory_and_swap() -> None:
    config = ContainerConfig(id="c", memory_bytes=64 * MIB, swap_bytes=64 * MIB)
    assert with_resources(config, Resources(memory=96 * MIB)).swap_bytes == 32 * MIB
    assert with_resources(config, Resources(memory=256 * MIB, memory_swap=-1)).swap_bytes == -1
    with pytest.raises(Conflict, match="update the memoryswap at the same time"):
        with_resources(config, Resources(memory=256 * MIB))


@pytest.mark.parametrize(
    ("config", "changed", "words"),
    [
        ({"cpu_quota_us": 5000}, {"nano_cpus": 1}, "Nano CPUs cannot be updated as CPU Period/Quota has already been set"),
        ({"nano_cpus": 1}, {"cpu_quota": 5000}, "CPU Period/Quota cannot be updated as NanoCPUs has already been set"),
    ],
)
def test_update_conflicts(config: dict[str, Any], changed: dict[str, Any], words: str) -> None:
    with pytest.raises(Conflict, match=words):
        with_resources(ContainerConfig(id="c", **config), Resources(**changed))


def test_update_refuses_what_needs_a_new_container() -> None:
    refuse_to_update({"Memory": 5, "KernelMemory": 0, "Devices": None, "RestartPolicy": {"Name": "no"}})
    with pytest.raises(Unimplemented, match="Devices cannot be changed by an update"):
        refuse_to_update({"Devices": [{}]})


@pytest.mark.parametrize("asked", ["", "linux", "linux/amd64", "linux/amd64/v2"])
def test_platform_that_is_there(asked: str) -> None:
    check_platform(asked, "web", "linux", "amd64")


def test_platform_that_is_not_there() -> None:
    words = "image with reference web was found but does not match the specified platform: wanted linux/arm64, actual: linux/amd64"
    with pytest.raises(NotFound, match=words) as raised:
        check_platform("linux/arm64", "web", "", "amd64")
    assert isinstance(raised.value, PyswarmError)
