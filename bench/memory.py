#!/usr/bin/env python3
"""Memory of pyswarm's processes on one worker and one manager, idle and per task, and the CLI's wall time. Needs root.

Two lab hosts: n1 manages, n2 works. RSS counts pages that are shared with others in full, PSS by its share, USS is what only
this process has: stopping it would give that back. The daemons here share their libraries' pages, so on a machine of its own a
daemon's PSS is near its RSS; that is why goals are compared with RSS, and growth by tasks with PSS.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("tests/cluster", "scripts")]

from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_cli.lab.lab import Host

PROGRAMS = {"pyswarmd": "pyswarmd", "pyswarm_netplugin.dns.main": "pyswarm-dns", "etcd": "etcd", "conmon": "conmon"}
"""A word of the command line (as file name or module) by which a program is known, and the program's name."""
KIB_PER_MIB = 1024


def processes(host: Host) -> Iterator[tuple[str, int]]:
    """Yield (program, pid) for each of pyswarm's processes on this host, pid as seen from here."""
    namespace = Path(f"/proc/{host.pid}/ns/pid").readlink()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "ns/pid").readlink() == namespace:
                words = {Path(word).name for word in (folder / "cmdline").read_text().split("\0")[:4]}
                yield from ((program, int(folder.name)) for word, program in PROGRAMS.items() if word in words)
        except OSError:  # it ended meanwhile, or is the kernel's or a neighbour's
            continue


def memory_mib(pid: int) -> dict[str, float]:
    """Return a process's RSS, PSS and USS in MiB."""
    values: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, size = line.partition(":")
        values[name] = int(size.split()[0]) / KIB_PER_MIB
    return {"RSS": values["Rss"], "PSS": values["Pss"], "USS": values["Private_Clean"] + values["Private_Dirty"]}


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def print_host(host: Host, label: str) -> None:
    """Print one line per program of the host, and their sum without the containers' conmon."""
    total = {"RSS": 0.0, "PSS": 0.0, "USS": 0.0}
    for program, pid in sorted(processes(host)):
        if program == "conmon":
            continue
        figures = memory_mib(pid)
        total = {name: total[name] + figures[name] for name in total}
        print(f"{label:>8} {program:>12}: {format_figures(figures)}  threads {threads(pid)}")
    print(f"{label:>8} {'sum':>12}: {format_figures(total)}", flush=True)


def format_figures(figures: dict[str, float]) -> str:
    """Return the figures as columns."""
    return "  ".join(f"{name} {value:6.1f} MiB" for name, value in figures.items())


def pss_by_program(host: Host) -> dict[str, float]:
    """Return the PSS of all processes of each program on the host, in MiB."""
    sums = dict.fromkeys(PROGRAMS.values(), 0.0)
    for program, pid in processes(host):
        sums[program] += memory_mib(pid)["PSS"]
    return sums


def measure_growth(cluster: Cluster, tasks: int, settle_s: float) -> None:
    """Print what each further task costs on the worker: measured between the first task and `tasks` more."""
    worker = cluster.lab.host("n2")
    template = {
        "ContainerSpec": {"Image": cluster.image("busybox"), "Command": ["sleep", "86400"], "StopSignal": "SIGKILL"},
        "Networks": [{"Target": "app"}],
        "Placement": {"Constraints": ["node.hostname==n2"]},
    }
    readings = {}
    for name, count in (("one", 1), ("many", tasks)):
        spec = {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": count}}}
        cluster.api("/services/create", "POST", spec)
        cluster.wait_running(name, count, timeout_s=120.0)
        time.sleep(settle_s)
        readings[name] = pss_by_program(worker)
        print_host(worker, f"{name} up")
    growth = {program: (readings["many"][program] - readings["one"][program]) / tasks for program in ("pyswarmd", "pyswarm-dns")}
    print("per task: " + ", ".join(f"{program} {1024 * mib:.0f} KiB PSS" for program, mib in growth.items()))
    print(f"          conmon, one per task: {1024 * readings['many']['conmon'] / (tasks + 1):.0f} KiB PSS")
    for service in cluster.api("/services"):
        cluster.api(f"/services/{service['ID']}", "DELETE")
    wait_until("all tasks are gone", lambda: not cluster.api("/tasks"), 60.0)
    time.sleep(settle_s)
    print_host(worker, "after")


def measure_cli(cluster: Cluster, rounds: int) -> None:
    """Print the wall time of `pyswarm service ls`, run here: entering a lab host would take as long again."""
    program = Path(sys.executable).parent / "pyswarm"
    command = [program, "-H", f"unix:///proc/{cluster.manager.pid}/root/run/pyswarm/pyswarm.sock", "service", "ls"]
    times = []
    for _ in range(rounds):
        started_s = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        times.append(1000 * (time.monotonic() - started_s))
    print(f"pyswarm service ls: median {statistics.median(times):.0f} ms, best {min(times):.0f} ms", flush=True)


def main() -> None:
    """Bring up the two hosts and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--cli-rounds", type=int, default=11)
    parser.add_argument("--settle-s", type=float, default=5.0, help="how long nothing happens before a reading")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder), build_images(Path(folder)), hosts=2) as cluster:
        time.sleep(arguments.settle_s)
        print_host(cluster.manager, "manager")
        print_host(cluster.lab.host("n2"), "worker")
        measure_cli(cluster, arguments.cli_rounds)
        measure_growth(cluster, arguments.tasks, arguments.settle_s)


if __name__ == "__main__":
    main()
