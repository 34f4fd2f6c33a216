#!/usr/bin/env python3
"""How long the scheduler takes per placement, and how much memory it keeps per task, beside SwarmKit's own benchmark.

    bench/scheduler.py [--nodes 1000] [--tasks 1000 10000 100000] [--runs 3]

Grouped: all tasks are one service's. Ungrouped: every task is a service of its own with its own template and a reservation. Both
without and with a constraint that a third of the nodes satisfy. Measured as the leader works: keys from the agenda, decisions of as
many placements as a transaction takes, each applied to the tables (which keep the scheduler's index up) before the next one; in CPU
time, without etcd's. Of several runs the median counts. `decided at once` is the same without the limit, and without applying.
"""

import argparse
import gc
import statistics
import time
import tracemalloc
from typing import cast

import msgspec

from pyswarm_common.objects import Node, NodeDescription, NodeResources, NodeStatus, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.specs import NodeSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.agenda import Agenda
from pyswarm_manager.decisions import DEFAULT_LIMIT
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.decide import PENDING_TASKS, decide
from pyswarm_manager.scheduler.loop import SERVICES_PER_LOOK
from pyswarm_manager.store.tables import Tables

SWARMKIT_S = {
    (1_000, False): 0.19,
    (10_000, False): 1.50,
    (100_000, False): 14.9,
    (1_000, True): 0.107,
    (10_000, True): 1.24,
    (100_000, True): 19.4,
}
"""Seconds of SwarmKit's benchmark (1,000 nodes) by tasks and whether there is a constraint, on a machine of this kind."""
SWARMKIT_PER_TASK_S = 150e-6


def cluster(nodes: int, tasks: int, *, is_grouped: bool, has_constraint: bool, state: TaskState = TaskState.PENDING) -> Tables:
    """Tables with ready nodes, and tasks in this state (placed in turn, when it is a later one than PENDING)."""
    tables = Tables()
    resources = NodeResources(nano_cpus=1 << 50, memory_bytes=1 << 50)
    for number in range(nodes):
        description = NodeDescription(hostname=f"host{number}", architecture="x86_64", resources=resources)
        labels = {"zone": "abc"[number % 3]}
        node = Node(id=f"node{number:021}", spec=NodeSpec(labels=labels), description=description, status=NodeStatus(state="ready"))
        tables.nodes.put(node, 1)
    services = 1 if is_grouped else tasks
    for number in range(services):
        template = {
            "ContainerSpec": {"Image": f"registry/image{number}:1", "Env": [f"NUMBER={number}"]},
            "Resources": {"Reservations": {"MemoryBytes": 1 << 20, "NanoCPUs": 1_000_000}},
            "Placement": {"Constraints": ["node.labels.zone==a"] if has_constraint else []},
        }
        spec = TaskSpec(id=f"spec{number:021}", template_json=msgspec.json.encode(template))
        service_json = msgspec.json.encode({"Name": f"service{number}", "Mode": {"Replicated": {"Replicas": tasks // services}}})
        tables.task_specs.put(spec, 1)
        tables.services.put(
            Service(id=f"service{number:018}", name=f"service{number}", spec_json=service_json, task_spec_id=spec.id), 1
        )
    for number in range(tasks):
        owner = number % services
        task = Task(
            id=f"task{number:021}",
            service_id=f"service{owner:018}",
            task_spec_id=f"spec{owner:021}",
            slot=number // services + 1,
            created_at_ns=number + 1,
            node_id=f"node{number % nodes:021}" if state > TaskState.PENDING else "",
            status=TaskStatus(state=state),
        )
        tables.tasks.put(task, 1)
    return tables


def place_all(tables: Tables) -> tuple[float, float]:
    """Place everything as the leader does; returns the seconds that it took, and those of the longest decision."""
    agenda = Agenda()
    agenda.add([PENDING_TASKS])
    decide(tables, 1, 0)  # builds the index, which a leader does once
    began_s = time.process_time()
    longest_s = 0.0
    while keys := agenda.take(0, lambda _: 1, SERVICES_PER_LOOK):
        started_s = time.process_time()
        decisions = decide(tables, 1, DEFAULT_LIMIT, keys)
        longest_s = max(longest_s, time.process_time() - started_s)
        for item in decisions.updated:
            tables.tasks.put(cast(Task, item), 1)
        agenda.note(decisions, 0, 0)
    spent_s = time.process_time() - began_s
    assert not tables.tasks.unplaced(TaskState.PENDING)
    return spent_s, longest_s


def decide_at_once(tables: Tables) -> float:
    """Decide about everything in one go, index included; returns the seconds."""
    began_s = time.process_time()
    decisions = decide(tables, 1, None)
    spent_s = time.process_time() - began_s
    assert len(decisions.updated) == len(tables.tasks)
    return spent_s


def index_bytes_per_task(nodes: int, tasks: int, state: TaskState, *, is_grouped: bool) -> float:
    """Return what the scheduler's index takes, by task."""
    tables = cluster(nodes, tasks, is_grouped=is_grouped, has_constraint=True, state=state)
    decide(tables, 1, 0)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    load = ClusterLoad(tables)
    for service in tables.services:
        load.counts_of(tables, service.id)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / tasks


def measure(nodes: int, tasks: int, runs: int, *, is_grouped: bool, has_constraint: bool) -> None:
    """Print one case."""
    results = []
    for _ in range(runs):
        tables = cluster(nodes, tasks, is_grouped=is_grouped, has_constraint=has_constraint)
        gc.collect()
        gc.freeze()  # as a manager does with what it has loaded
        results.append(place_all(tables))
        gc.unfreeze()
    spent_s = statistics.median(spent for spent, _ in results)
    longest_s = statistics.median(longest for _, longest in results)
    at_once_s = decide_at_once(cluster(nodes, tasks, is_grouped=is_grouped, has_constraint=has_constraint))
    swarmkit_s = tasks * SWARMKIT_PER_TASK_S if is_grouped else SWARMKIT_S.get((tasks, has_constraint), tasks * SWARMKIT_PER_TASK_S)
    print(
        f"{'grouped' if is_grouped else 'ungrouped':9} {'constraint' if has_constraint else 'none':10} {tasks:7} "
        f"{spent_s:8.3f} s {spent_s / tasks * 1e6:8.1f} µs {longest_s * 1e3:8.1f} ms {at_once_s / tasks * 1e6:8.1f} µs "
        f"{swarmkit_s / spent_s:7.1f}x",
        flush=True,
    )


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print(f"{args.nodes} nodes")
    print("tasks     constraint   count    total   per task  longest decision  decided at once  SwarmKit / ours")
    for is_grouped in (True, False):
        for has_constraint in (False, True):
            for tasks in args.tasks:
                measure(args.nodes, tasks, args.runs, is_grouped=is_grouped, has_constraint=has_constraint)
    print("\nmemory of the scheduler's index per task")
    for is_grouped in (True, False):
        for state in (TaskState.PENDING, TaskState.RUNNING):
            size = index_bytes_per_task(args.nodes, max(args.tasks), state, is_grouped=is_grouped)
            print(f"{'grouped' if is_grouped else 'ungrouped':9} {state.api_name:8} {size:7.0f} bytes")


if __name__ == "__main__":
    main()
