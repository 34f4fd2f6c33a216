#!/usr/bin/env python3
"""How long a cluster of three managers and two workers is without what died, on netns hosts. Median and maximum of `--rounds` each.

leader killed     SIGKILL of the leader's pyswarmd and etcd → the first `POST /services/create` that a surviving manager accepts;
                  the client asks again every 50 ms. Docker Swarm 20.10 on a comparable two-core machine: 12.7 s
leader stopped    the same for SIGTERM
worker cut        power cut of a worker → all tasks of a service RUNNING on other hosts (restart delay 0). Docker Swarm: 11–15 s
leader cut        the same for the leader's host
noticed           power cut of a worker → `node ls` shows it down
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("tests/cluster", "scripts")]

from faults.convergence import wanted_tasks
from faults.engine_client import EngineClient
from faults.nemesis import etcd_pid, send
from lab_cluster import Cluster, build_images, running_cluster, wait_until

MANAGERS = ("n1", "n2", "n3")
HOSTS = (*MANAGERS, "n4", "n5")
SERVICE, REPLICAS = "web", 10
RETRY_S = 0.05
POLL_S = 0.02
PATIENCE_S = 60.0
SETTLE_S = 3.0
"""Between two rounds, so that no round begins in the shadow of the last."""


class Bench:
    """The cluster, and clients of its managers."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clients = {name: EngineClient.of_host(cluster.lab, name) for name in MANAGERS}
        self._count = 0

    def leader(self) -> str:
        """Return the leader's host."""
        return wait_until(
            "there is a leader", lambda: next(filter(None, (c.leader() for c in self.clients.values())), None), PATIENCE_S
        )

    def survivor(self, gone: str) -> EngineClient:
        """Return a client of another manager."""
        return next(client for name, client in self.clients.items() if name != gone)

    def wait_whole(self) -> None:
        """Wait until every node is ready, every manager reachable, and the service at its replicas; then let things settle."""
        wait_until("the cluster is whole", self._is_whole, PATIENCE_S)
        time.sleep(SETTLE_S)

    def seconds_to_create(self, gone: str) -> float:
        """Return how long it takes until a surviving manager accepts a service."""
        began_s = time.monotonic()
        client = self.survivor(gone)
        self._count += 1
        name = f"probe-{self._count}"
        template = {"ContainerSpec": {"Image": "none"}}
        spec = {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 0}}}
        for answer in _repeatedly(lambda: client.ask("POST", "/services/create", spec, timeout_s=PATIENCE_S), RETRY_S):
            if answer.is_ok or answer.status == 409:  # 409: an attempt whose answer was lost had worked
                break
        taken_s = time.monotonic() - began_s
        self._remove(client, name)
        return taken_s

    def _remove(self, client: EngineClient, name: str) -> None:
        """Remove a probe."""
        wait_until(f"{name} is removed", lambda: client.ask("DELETE", f"/services/{name}").status in (200, 404), PATIENCE_S)

    def seconds_to_move(self, gone: str) -> tuple[float, float]:
        """Return how long it takes until the node shows as down, and until all tasks run on other nodes."""
        began_s = time.monotonic()
        client, noticed_s = self.survivor(gone), 0.0
        for _ in _repeatedly(lambda: None, POLL_S):
            nodes = client.ask("GET", "/nodes").content
            ids = {n["ID"]: n for n in nodes} if isinstance(nodes, list) else {}
            down = {i for i, n in ids.items() if n["Description"]["Hostname"] == gone and n["Status"]["State"] == "down"}
            if down and not noticed_s:
                noticed_s = time.monotonic() - began_s
            tasks = wanted_tasks(client, SERVICE) if down else []
            running = [t for t in tasks if t["Status"]["State"] == "running" and t["NodeID"] not in down]
            if len(running) == REPLICAS:
                return noticed_s, time.monotonic() - began_s
        raise AssertionError("unreachable")

    def _is_whole(self) -> bool:
        for client in self.clients.values():
            nodes = client.ask("GET", "/nodes").content
            if not isinstance(nodes, list) or {n["Status"]["State"] for n in nodes} != {"ready"}:
                return False
            managers = [n["ManagerStatus"] for n in nodes if n.get("ManagerStatus")]
            if len(managers) != len(MANAGERS) or {m["Reachability"] for m in managers} != {"reachable"}:
                return False
        return [t["Status"]["State"] for t in wanted_tasks(self.survivor(""), SERVICE)] == ["running"] * REPLICAS


def _repeatedly(attempt: Callable[[], Any], pause_s: float) -> Iterator[Any]:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        yield attempt()
        time.sleep(pause_s)
    raise TimeoutError(f"not within {PATIENCE_S:g} s")


def kill_leader(bench: Bench) -> dict[str, float]:
    """SIGKILL the leader's daemon and etcd."""
    name = bench.leader()
    host = bench.cluster.lab.host(name)
    etcd, daemon = etcd_pid(host), host.daemon_pid
    send(etcd, signal.SIGKILL)
    send(daemon, signal.SIGKILL)
    taken_s = bench.seconds_to_create(name)
    wait_until("pyswarmd is dead", lambda: host.daemon_pid is None)
    host.start_daemon()
    return {"leader killed → create accepted": taken_s}


def stop_leader(bench: Bench) -> dict[str, float]:
    """SIGTERM the leader's daemon."""
    name = bench.leader()
    host = bench.cluster.lab.host(name)
    send(host.daemon_pid, signal.SIGTERM)
    taken_s = bench.seconds_to_create(name)
    wait_until("pyswarmd has stopped", lambda: host.daemon_pid is None)
    host.start_daemon()
    return {"leader stopped → create accepted": taken_s}


def cut_worker(bench: Bench) -> dict[str, float]:
    """Cut the power of the worker that has most tasks: those of the last victim are elsewhere now."""
    nodes = {n["ID"]: n["Description"]["Hostname"] for n in bench.survivor("").ask("GET", "/nodes").content}
    hosts = [nodes[t["NodeID"]] for t in wanted_tasks(bench.survivor(""), SERVICE)]
    name = max(("n4", "n5"), key=hosts.count)
    bench.cluster.lab.host(name).power_cut()
    noticed_s, moved_s = bench.seconds_to_move(name)
    bench.cluster.lab.host(name).power_on()
    return {"worker cut → noticed": noticed_s, "worker cut → tasks elsewhere": moved_s}


def cut_leader(bench: Bench) -> dict[str, float]:
    """Cut the power of the leader's host."""
    name = bench.leader()
    bench.cluster.lab.host(name).power_cut()
    noticed_s, moved_s = bench.seconds_to_move(name)
    bench.cluster.lab.host(name).power_on()
    return {"leader cut → noticed": noticed_s, "leader cut → tasks elsewhere": moved_s}


CASES: dict[str, Callable[[Bench], dict[str, float]]] = {
    "kill-leader": kill_leader,
    "stop-leader": stop_leader,
    "cut-worker": cut_worker,
    "cut-leader": cut_leader,
}


def measure(bench: Bench, case: Callable[[Bench], dict[str, float]], rounds: int) -> None:
    """Run a case and print a line for each figure of it."""
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        bench.wait_whole()
        for label, seconds in case(bench).items():
            figures.setdefault(label, []).append(seconds)
    for label, values in figures.items():
        spread = " ".join(f"{value:.2f}" for value in values)
        numbers = f"n = {len(values)}, median {statistics.median(values):5.2f} s, max {max(values):5.2f} s"
        print(f"{label:>34}: {numbers}   ({spread})", flush=True)


def main() -> None:
    """Bring up the cluster and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_cluster(folder, build_images(folder), hosts=len(HOSTS), managers=len(MANAGERS)) as cluster:
            create = ["service", "create", "--name", SERVICE, "--replicas", str(REPLICAS), "--restart-delay", "0s"]
            cluster.pyswarm(*create, cluster.image("busybox"), "sleep", "1000000")
            bench = Bench(cluster)
            for case in arguments.cases:
                measure(bench, CASES[case], arguments.rounds)


if __name__ == "__main__":
    main()
