"""What the kernel's files say, in Docker's form, for both versions of cgroups."""

from typing import Any

import pytest

from pyswarm_agent.runtime.access import cgroup_figures as figures

HOST_BYTES = 8 * 2**30
V1 = {
    "cpuacct.usage": "168547037\n",
    "cpuacct.usage_percpu": "106756732 61790305 \n",
    "cpuacct.stat": "user 8\nsystem 9\n",
    "cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 12345\n",
    "memory.usage_in_bytes": "786432\n",
    "memory.max_usage_in_bytes": "4071424\n",
    "memory.failcnt": "0\n",
    "memory.limit_in_bytes": "67108864\n",
    "memory.stat": "cache 8192\nrss 118784\ninactive_file 4096\ntotal_inactive_file 4096\nhierarchical_memory_limit 67108864\n",
    "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 100\n8:0 Total 4196\nTotal 4196\n",
    "blkio.io_serviced_recursive": "8:16 Read 1\nTotal 1\n",
    "blkio.time_recursive": "8:0 77\n",
    "pids.current": "2\n",
    "pids.max": "max\n",
}
V2 = {
    "cpu.stat": "usage_usec 2000\nuser_usec 1500\nsystem_usec 500\nnr_periods 7\nnr_throttled 3\nthrottled_usec 9\n",
    "memory.current": "1000000\n",
    "memory.max": "2000000\n",
    "memory.stat": "anon 5\nfile 6\ninactive_file 4\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:1 \n",
    "pids.current": "3\n",
    "pids.max": "100\n",
}


def of(files: dict[str, str]) -> figures.ReadFile:
    return lambda name: files.get(name, "")


def test_processors_v1() -> None:
    assert figures.cpu_figures_v1(of(V1), of(V1)) == {
        "cpu_usage": {
            "total_usage": 168547037,
            "percpu_usage": [106756732, 61790305],
            "usage_in_kernelmode": 90_000_000,
            "usage_in_usermode": 80_000_000,
        },
        "throttling_data": {"periods": 5, "throttled_periods": 2, "throttled_time": 12345},
    }


def test_processors_v2() -> None:
    assert figures.cpu_figures_v2(of(V2)) == {
        "cpu_usage": {"total_usage": 2_000_000, "usage_in_kernelmode": 500_000, "usage_in_usermode": 1_500_000},
        "throttling_data": {"periods": 7, "throttled_periods": 3, "throttled_time": 9000},
    }


def test_memory_v1() -> None:
    found = figures.memory_figures_v1(of(V1), HOST_BYTES)
    assert (found["usage"], found["max_usage"], found["limit"]) == (786432, 4071424, 67108864)
    assert found["stats"]["total_inactive_file"] == 4096
    assert "failcnt" not in found
    failed = figures.memory_figures_v1(of({**V1, "memory.failcnt": "7\n"}), HOST_BYTES)
    assert failed["failcnt"] == 7


def test_memory_v2() -> None:
    expected = {"usage": 1000000, "stats": {"anon": 5, "file": 6, "inactive_file": 4}, "limit": 2000000}
    assert figures.memory_figures_v2(of(V2), HOST_BYTES) == expected


@pytest.mark.parametrize(
    ("decide", "files"),
    [
        (figures.memory_figures_v1, {"memory.limit_in_bytes": "9223372036854771712\n"}),
        (figures.memory_figures_v2, {"memory.max": "max\n"}),
    ],
)
def test_without_a_limit_the_host_is_the_limit(decide: Any, files: dict[str, str]) -> None:
    assert decide(of(files), HOST_BYTES)["limit"] == HOST_BYTES


def test_disks_v1() -> None:
    found = figures.blkio_figures_v1(of(V1))
    assert found["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "Read", "value": 4096},
        {"major": 8, "minor": 0, "op": "Write", "value": 100},
        {"major": 8, "minor": 0, "op": "Total", "value": 4196},
    ]
    assert found["io_serviced_recursive"] == [{"major": 8, "minor": 16, "op": "Read", "value": 1}]
    assert found["io_time_recursive"] == [{"major": 8, "minor": 0, "op": "", "value": 77}]
    assert found["sectors_recursive"] == []


def test_disks_v2() -> None:
    found = figures.blkio_figures_v2(of(V2))
    assert found["io_service_bytes_recursive"][:2] == [
        {"major": 8, "minor": 0, "op": "read", "value": 10},
        {"major": 8, "minor": 0, "op": "write", "value": 20},
    ]
    assert found["io_serviced_recursive"][1] == {"major": 8, "minor": 0, "op": "write", "value": 2}


def test_processes() -> None:
    assert figures.pids_figures(of(V1)) == {"current": 2}
    assert figures.pids_figures(of(V2)) == {"current": 3, "limit": 100}


def test_networks() -> None:
    text = (
        "Inter-|   Receive                            |  Transmit\n"
        " face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n"
        "    lo:   100      1    0    0    0     0          0         0    100       1    0    0    0     0       0         0\n"
        "  eth0:   746      7    1    2    0     0          0         0     42       3    4    5    0     0       0         0\n"
    )
    received = {"rx_bytes": 746, "rx_packets": 7, "rx_errors": 1, "rx_dropped": 2}
    assert figures.network_figures(text) == {"eth0": {**received, "tx_bytes": 42, "tx_packets": 3, "tx_errors": 4, "tx_dropped": 5}}


def test_host() -> None:
    text = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2\ncpu1 1 2\nintr 5\n"
    assert figures.host_cpu_figures(text) == {"system_cpu_usage": 28 * 10_000_000, "online_cpus": 2}


def test_nothing_there_is_zero() -> None:
    nothing = of({})
    assert figures.cpu_figures_v1(nothing, nothing)["cpu_usage"]["total_usage"] == 0
    assert figures.cpu_figures_v2(nothing)["cpu_usage"]["total_usage"] == 0
    assert figures.memory_figures_v1(nothing, HOST_BYTES) == {"usage": 0, "max_usage": 0, "stats": {}, "limit": HOST_BYTES}
    assert figures.pids_figures(nothing) == {"current": 0}
    assert figures.network_figures("") == {}
    assert figures.host_cpu_figures("") == {"system_cpu_usage": 0, "online_cpus": 0}
