#!/usr/bin/env python3
"""Seconds that removing, updating and draining take, on three netns hosts with real containers on an overlay network.

* remove: from the request to remove a service of 50 tasks until no task and no container of it is left;
* update: 10 tasks, two at a time, from the request until all 10 new ones run, and until the update is `completed`; stop-first and
  start-first, without monitoring and with the usual 5 s;
* drain: of a node with 10 tasks, from the request until they run elsewhere, and the fewest that ran meanwhile.

The image is on every host before. A line shows the median, the maximum and each of `--rounds` runs. Docker Swarm 20.10 on a
comparable two-core machine: remove 6.7 s, update 17.4 s until the new tasks run.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("tests/cluster", "scripts")]

from lab_cluster import Cluster, build_images, running_cluster

TIMEOUT_S = 120.0
POLL_S = 0.02
REMOVED_TASKS = 50
UPDATED_TASKS = 10
PARALLELISM = 2
DRAINED_TASKS = 10


def service_spec(cluster: Cluster, name: str, replicas: int, **fields: Any) -> dict[str, Any]:
    """Return the spec of a service of nginx on the overlay; the image's own stop signal ends it."""
    template = {"ContainerSpec": {"Image": cluster.image("nginx")}, "Networks": [{"Target": "app"}]}
    return {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": replicas}}, **fields}


def create(cluster: Cluster, spec: dict[str, Any]) -> str:
    """Create the service; returns its id once all its tasks run."""
    service_id: str = cluster.api("/services/create", "POST", spec)["ID"]
    cluster.wait_running(spec["Name"], spec["Mode"]["Replicated"]["Replicas"], timeout_s=TIMEOUT_S)
    return service_id


def containers(cluster: Cluster, service: str) -> list[str]:
    """Return the ids of the service's containers on all hosts, also of those that ended."""
    filters = quote(json.dumps({"label": [f"com.docker.swarm.service.name={service}"]}))
    found = (cluster.api(f"/containers/json?all=1&filters={filters}", host=host.name) for host in cluster.lab.hosts)
    return [container["Id"] for on_host in found for container in on_host]


def seconds_until(what: str, started_s: float, probe: Callable[[], bool]) -> float:
    """Return the seconds since `started_s` when `probe` is first true. Raises TimeoutError."""
    while not probe():
        if time.monotonic() - started_s > TIMEOUT_S:
            raise TimeoutError(f"not within {TIMEOUT_S} s: {what}")
        time.sleep(POLL_S)
    return time.monotonic() - started_s


def remove(cluster: Cluster, service_id: str, name: str) -> dict[str, float]:
    """Remove a service; returns the seconds until no task, and until no container is left."""
    started_s = time.monotonic()
    cluster.api(f"/services/{service_id}", "DELETE")
    tasks_s = seconds_until("no task is left", started_s, lambda: not cluster.api("/tasks"))
    all_s = seconds_until("no container is left", started_s, lambda: not containers(cluster, name))
    return {"no task left": tasks_s, "no container left": all_s}


def measure_remove(cluster: Cluster, name: str) -> dict[str, float]:
    """Measure the removal of a service."""
    service_id = create(cluster, service_spec(cluster, name, REMOVED_TASKS))
    if len(containers(cluster, name)) != REMOVED_TASKS:
        raise RuntimeError("the service's containers are not found: their absence would show nothing")
    return remove(cluster, service_id, name)


def measure_update(cluster: Cluster, name: str, order: str, monitor_s: float) -> dict[str, float]:
    """Measure a rolling update to a changed environment; also the fewest tasks that ran at once meanwhile."""
    config = {"Parallelism": PARALLELISM, "Monitor": int(monitor_s * 1e9), "Order": order, "FailureAction": "pause"}
    spec = service_spec(cluster, name, UPDATED_TASKS, UpdateConfig=config)
    service_id = create(cluster, spec)
    version = cluster.api(f"/services/{service_id}")["Version"]["Index"]
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["RELEASE=2"]
    fewest = UPDATED_TASKS

    def is_renewed() -> bool:
        nonlocal fewest
        running = [task["Spec"]["ContainerSpec"] for task in cluster.tasks(name) if task["Status"]["State"] == "running"]
        fewest = min(fewest, len(running))
        return sum("Env" in container for container in running) == UPDATED_TASKS

    def is_completed() -> bool:
        state = cluster.api(f"/services/{service_id}").get("UpdateStatus", {}).get("State")
        if state not in (None, "updating", "completed"):
            raise RuntimeError(f"the update is {state}")
        return bool(state == "completed")

    started_s = time.monotonic()
    cluster.api(f"/services/{service_id}/update?version={version}", "POST", spec)
    running_s = seconds_until("the new tasks run", started_s, is_renewed)
    completed_s = seconds_until("the update is completed", started_s, is_completed)
    remove(cluster, service_id, name)
    return {"new tasks run": running_s, "completed": completed_s, "fewest running": fewest}


def measure_drain(cluster: Cluster, name: str) -> dict[str, float]:
    """Measure how the tasks of a drained node move to the others."""
    hosts = len(cluster.lab.hosts)
    service_id = create(cluster, service_spec(cluster, name, DRAINED_TASKS * hosts))
    node_id = cluster.nodes()["n2"]["ID"]
    leaving = [task for task in cluster.tasks(name, running=True) if task["NodeID"] == node_id]
    if len(leaving) != DRAINED_TASKS:
        raise RuntimeError(f"{len(leaving)} tasks on the node instead of {DRAINED_TASKS}")
    fewest = DRAINED_TASKS * hosts

    def is_left() -> bool:
        nonlocal fewest
        running = [task for task in cluster.tasks(name) if task["Status"]["State"] == "running"]
        fewest = min(fewest, len(running))
        return sum(task["NodeID"] != node_id for task in running) == DRAINED_TASKS * hosts

    started_s = time.monotonic()
    set_availability(cluster, "drain")
    moved_s = seconds_until("all run elsewhere", started_s, is_left)
    ended_s = seconds_until("the node is empty", started_s, lambda: not running_on(cluster, name, node_id))
    set_availability(cluster, "active")
    remove(cluster, service_id, name)
    return {"all run elsewhere": moved_s, "node is empty": ended_s, "fewest running": fewest}


def running_on(cluster: Cluster, service: str, node_id: str) -> list[dict[str, Any]]:
    """Return the service's tasks that still run on a node."""
    return [task for task in cluster.tasks(service) if task["NodeID"] == node_id and task["Status"]["State"] == "running"]


def set_availability(cluster: Cluster, availability: str) -> None:
    """Set the availability of the second host's node."""
    node = cluster.nodes()["n2"]
    spec = {**node["Spec"], "Availability": availability}
    cluster.api(f"/nodes/{node['ID']}/update?version={node['Version']['Index']}", "POST", spec)


def print_rounds(label: str, rounds: int, measure: Callable[[str], dict[str, float]]) -> None:
    """Run a measurement so many times; prints one line per figure."""
    readings = [measure(f"{label.replace(' ', '-').replace(',', '')}-{number}") for number in range(rounds)]
    for figure in readings[0]:
        values = [reading[figure] for reading in readings]
        if figure == "fewest running":
            result = f"{min(values):.0f}"
        else:
            spread = " ".join(f"{value:.2f}" for value in values)
            result = f"median {statistics.median(values):5.2f} s, max {max(values):5.2f} s   ({spread})"
        print(f"{label:>30}  {figure:>18}: {result}", flush=True)


def main() -> None:
    """Bring up the cluster and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["remove", "update", "drain"], default=["remove", "update", "drain"])
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder), build_images(Path(folder))) as cluster:
        remove(cluster, create(cluster, service_spec(cluster, "warm-up", 6)), "warm-up")
        if "remove" in arguments.only:
            print_rounds(f"remove {REMOVED_TASKS}", rounds, functools.partial(measure_remove, cluster))
        if "update" in arguments.only:
            for order in ("stop-first", "start-first"):
                for monitor_s in (0.0, 5.0):
                    measure = functools.partial(measure_update, cluster, order=order, monitor_s=monitor_s)
                    print_rounds(f"update {order}, monitor {monitor_s:.0f} s", rounds, measure)
        if "drain" in arguments.only:
            print_rounds("drain", rounds, functools.partial(measure_drain, cluster))
    print(f"load average at the end: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main()
