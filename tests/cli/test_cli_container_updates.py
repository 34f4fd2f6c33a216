"""`pyswarm update`: from options to the API's body, and what is said when the daemon refuses; limits of `pyswarm run`."""

from typing import Any

import pytest
from test_cli_container_creation import body_of

from pyswarm_cli.container.updating import update_body

OPTIONS = "memory memory_swap memory_reservation cpus cpu_shares cpu_quota cpu_period cpuset_cpus cpuset_mems blkio_weight"
GIVEN: dict[str, Any] = dict.fromkeys((*OPTIONS.split(), "pids_limit", "restart"))


@pytest.mark.parametrize(
    ("given", "body"),
    [
        ({}, {}),
        ({"memory": 5, "memory_swap": "-1"}, {"Memory": 5, "MemorySwap": -1}),
        ({"cpuset_cpus": "0-1", "pids_limit": -1}, {"CpusetCpus": "0-1", "PidsLimit": -1}),
        ({"restart": "always"}, {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}}),
    ],
)
def test_body(given: dict[str, Any], body: dict[str, Any]) -> None:
    assert update_body({**GIVEN, **given}) == body


async def test_nothing_to_change(pyswarm: Any) -> None:
    result = await pyswarm("update", "web")
    assert (result.exit_code, "nothing to change" in result.stderr) == (2, True)


async def test_no_such_container(pyswarm: Any) -> None:
    for line in (("update", "--memory", "64m", "nosuch"), ("diff", "nosuch"), ("export", "--output", "/nonexistent/x", "nosuch")):
        result = await pyswarm(*line)
        assert (result.exit_code, "nosuch" in result.stderr) == (1, True), result.output


def test_limits_of_run() -> None:
    line = ("--cpuset-cpus=0", "--blkio-weight=300", "--device-read-bps=/dev/sda:1mb", "--device-write-iops=/dev/sda:7")
    host = body_of(*line, "--device-cgroup-rule", "c 10:* r", "img")["HostConfig"]
    assert (host["CpusetCpus"], host["BlkioWeight"], host["DeviceCgroupRules"]) == ("0", 300, ["c 10:* r"])
    assert host["BlkioDeviceReadBps"] == [{"Path": "/dev/sda", "Rate": 1 << 20}]
    assert host["BlkioDeviceWriteIOps"] == [{"Path": "/dev/sda", "Rate": 7}]
