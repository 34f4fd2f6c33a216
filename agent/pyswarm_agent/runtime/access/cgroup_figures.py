"""What the kernel counts for a cgroup, from its files' texts to the members of Docker's statistics; pure.

Sources: runc `libcontainer/cgroups/fs` and `fs2`, Moby `daemon/stats_unix.go`. Times in nanoseconds, sizes in bytes. Whatever a
kernel does not have is left out or empty.
"""

from collections.abc import Callable, Iterable
from typing import Any

Json = dict[str, Any]
ReadFile = Callable[[str], str]
"""Returns the text of a cgroup's file by its name, "" when there is none."""

_TICK_NS = 10_000_000
"""The kernel tells these times in hundredths of a second."""
_BLKIO_MEMBERS = (
    ("io_service_bytes_recursive", "io_service_bytes_recursive", "throttle.io_service_bytes_recursive"),
    ("io_serviced_recursive", "io_serviced_recursive", "throttle.io_serviced_recursive"),
    ("io_queue_recursive", "io_queued_recursive", ""),
    ("io_service_time_recursive", "io_service_time_recursive", ""),
    ("io_wait_time_recursive", "io_wait_time_recursive", ""),
    ("io_merged_recursive", "io_merged_recursive", ""),
    ("io_time_recursive", "time_recursive", ""),
    ("sectors_recursive", "sectors_recursive", ""),
)


def cpu_figures_v1(cpuacct: ReadFile, cpu: ReadFile) -> Json:
    """Return `cpu_stats` from the files of both controllers, without what concerns the host."""
    times, throttling = _pairs(cpuacct("cpuacct.stat")), _pairs(cpu("cpu.stat"))
    per_cpu = [int(number) for number in cpuacct("cpuacct.usage_percpu").split()]
    return {
        "cpu_usage": {
            "total_usage": _number(cpuacct("cpuacct.usage")),
            **({"percpu_usage": per_cpu} if per_cpu else {}),
            "usage_in_kernelmode": times.get("system", 0) * _TICK_NS,
            "usage_in_usermode": times.get("user", 0) * _TICK_NS,
        },
        "throttling_data": _throttling(throttling, throttling.get("throttled_time", 0)),
    }


def cpu_figures_v2(read: ReadFile) -> Json:
    """Return `cpu_stats`, without what concerns the host."""
    figures = _pairs(read("cpu.stat"))
    return {
        "cpu_usage": {
            "total_usage": figures.get("usage_usec", 0) * 1000,
            "usage_in_kernelmode": figures.get("system_usec", 0) * 1000,
            "usage_in_usermode": figures.get("user_usec", 0) * 1000,
        },
        "throttling_data": _throttling(figures, figures.get("throttled_usec", 0) * 1000),
    }


def memory_figures_v1(read: ReadFile, host_memory_bytes: int) -> Json:
    """Return `memory_stats`; without a limit, the host's memory is the limit."""
    figures = {
        "usage": _number(read("memory.usage_in_bytes")),
        "max_usage": _number(read("memory.max_usage_in_bytes")),
        "stats": _pairs(read("memory.stat")),
        "limit": _limit(read("memory.limit_in_bytes"), host_memory_bytes),
    }
    failures = _number(read("memory.failcnt"))
    return {**figures, "failcnt": failures} if failures else figures


def memory_figures_v2(read: ReadFile, host_memory_bytes: int) -> Json:
    """Return `memory_stats`; without a limit, the host's memory is the limit."""
    return {
        "usage": _number(read("memory.current")),
        "stats": _pairs(read("memory.stat")),
        "limit": _limit(read("memory.max"), host_memory_bytes),
    }


def blkio_figures_v1(read: ReadFile) -> Json:
    """Return `blkio_stats`. Kernels without the CFQ scheduler count only what may be throttled."""
    return {
        member: list(_blkio_entries(read(f"blkio.{name}") or (read(f"blkio.{throttled}") if throttled else "")))
        for member, name, throttled in _BLKIO_MEMBERS
    }


def blkio_figures_v2(read: ReadFile) -> Json:
    """Return `blkio_stats`."""
    figures: Json = {member: [] for member, _, _ in _BLKIO_MEMBERS}
    for line in read("io.stat").splitlines():
        device, _, rest = line.partition(" ")
        major, _, minor = device.partition(":")
        if not (major.isdigit() and minor.isdigit()):
            continue
        counted = dict(pair.partition("=")[::2] for pair in rest.split())
        for member, name, operation in (
            ("io_service_bytes_recursive", "rbytes", "read"),
            ("io_service_bytes_recursive", "wbytes", "write"),
            ("io_serviced_recursive", "rios", "read"),
            ("io_serviced_recursive", "wios", "write"),
        ):
            value = _number(counted.get(name, ""))
            figures[member].append({"major": int(major), "minor": int(minor), "op": operation, "value": value})
    return figures


def pids_figures(read: ReadFile) -> Json:
    """Return `pids_stats`, the same in both versions."""
    figures = {"current": _number(read("pids.current"))}
    limit = read("pids.max").strip()
    return {**figures, "limit": int(limit)} if limit.isdigit() else figures


def network_figures(net_dev: str) -> Json:
    """Return `networks` from /proc/PID/net/dev, without the loopback."""
    names = ("bytes", "packets", "errors", "dropped")
    networks = {}
    for line in net_dev.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(number) for number in rest.split()]
        if name.strip() != "lo" and len(numbers) >= 16:
            received = {f"rx_{what}": number for what, number in zip(names, numbers[:4], strict=True)}
            sent = {f"tx_{what}": number for what, number in zip(names, numbers[8:12], strict=True)}
            networks[name.strip()] = {**received, **sent}
    return networks


def host_cpu_figures(proc_stat: str) -> Json:
    """Return what /proc/stat says of the host: the time that all its processors have spent, and how many there are."""
    lines = proc_stat.splitlines()
    spent = sum(int(number) for number in lines[0].split()[1:8]) if lines else 0
    count = sum(1 for line in lines if line.startswith("cpu") and line[3:4].isdigit())
    return {"system_cpu_usage": spent * _TICK_NS, "online_cpus": count}


def _throttling(figures: dict[str, int], time_ns: int) -> Json:
    return {
        "periods": figures.get("nr_periods", 0),
        "throttled_periods": figures.get("nr_throttled", 0),
        "throttled_time": time_ns,
    }


def _blkio_entries(text: str) -> Iterable[Json]:
    for line in text.splitlines():
        fields = line.replace(":", " ").split()
        # `8:0 Read 4096`, or `8:0 4096`; then comes a line `Total 4096`.
        if len(fields) >= 3 and fields[0].isdigit() and fields[1].isdigit() and fields[-1].isdigit():
            operation = fields[2] if len(fields) == 4 else ""
            yield {"major": int(fields[0]), "minor": int(fields[1]), "op": operation, "value": int(fields[-1])}


def _limit(text: str, host_memory_bytes: int) -> int:
    limit = text.strip()
    return min(int(limit), host_memory_bytes) if limit.isdigit() else host_memory_bytes


def _pairs(text: str) -> dict[str, int]:
    lines = (line.split() for line in text.splitlines())
    return {fields[0]: int(fields[1]) for fields in lines if len(fields) == 2 and fields[1].isdigit()}


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0
