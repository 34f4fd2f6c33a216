#!/usr/bin/env python3
"""Seconds from `POST /services/create` to all tasks RUNNING, on three netns hosts, with an overlay network and without.

The image is on every host before the first measurement. Each figure is the median of `--rounds` runs. Docker Swarm 20.10 on a
comparable two-core machine: 0.77 / 2.2 / 8.1 s for 1 / 10 / 30 tasks with an overlay, 2.0 s for 30 on the host network.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("tests/cluster", "scripts")]

from lab_cluster import Cluster, build_images, running_cluster, wait_until


def measure(cluster: Cluster, name: str, replicas: int, networks: list[str]) -> float:
    """Create a service, wait until all its tasks run, remove it; returns the seconds from request to last RUNNING."""
    template = {
        "ContainerSpec": {"Image": cluster.image("nginx"), "StopSignal": "SIGKILL"},
        "Networks": [{"Target": n} for n in networks],
    }
    spec = {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": replicas}}}
    started_s = time.monotonic()
    service_id = cluster.api("/services/create", "POST", spec)["ID"]
    cluster.wait_running(name, replicas, timeout_s=120.0)
    taken_s = time.monotonic() - started_s
    cluster.api(f"/services/{service_id}", "DELETE")
    wait_until("all tasks are gone", lambda: not cluster.api("/tasks"), 60.0)
    return taken_s


def main() -> None:
    """Bring up the cluster and print one line per count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 10, 30])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder), build_images(Path(folder))) as cluster:
        measure(cluster, "warm-up", 6, ["app"])
        for label, networks in (("overlay", ["app"]), ("no overlay", [])):
            for count in arguments.counts:
                times = [measure(cluster, f"b{count}-{r}", count, networks) for r in range(arguments.rounds)]
                spread = " ".join(f"{t:.2f}" for t in times)
                print(f"{label:>10}  N = {count:>3}: {statistics.median(times):6.2f} s   ({spread})", flush=True)


if __name__ == "__main__":
    main()
