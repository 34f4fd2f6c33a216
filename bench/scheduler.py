#!/usr/bin/env python3
"""How long the scheduler takes per placement: tasks of one service on 1,000 nodes, and on a cluster that is full of other tasks.

    bench/scheduler.py [--nodes 1000] [--tasks 1000 10000 100000] [--services 1]

Measures the pure decision, as the leader takes it: without limit (the algorithm itself), and in transactions of 80 placements, each
applied before the next (what a cluster sees, without etcd's time). SwarmKit: 150 µs per task at 1,000 nodes.
"""

import argparse
import time

import msgspec

from pyswarm_common.objects import Node, NodeDescription, NodeResources, NodeStatus, Task, TaskSpec, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.scheduler.decide import decide
from pyswarm_manager.store.tables import Tables

TEMPLATE = {
    "Resources": {"Reservations": {"MemoryBytes": 1 << 20, "NanoCPUs": 1_000_000}},
    "Placement": {"Constraints": ["node.labels.zone!=nowhere"]},
}


def cluster(nodes: int, tasks: int, services: int) -> Tables:
    """Tables with ready nodes and pending tasks, spread over so many services."""
    tables = Tables()
    resources = NodeResources(nano_cpus=1 << 50, memory_bytes=1 << 50)
    for number in range(nodes):
        description = NodeDescription(hostname=f"host{number}", architecture="x86_64", resources=resources)
        tables.nodes.put(Node(id=f"n{number:06}", description=description, status=NodeStatus(state="ready")), 1)
    for number in range(services):
        tables.task_specs.put(TaskSpec(id=f"spec{number}", template_json=msgspec.json.encode(TEMPLATE)), 1)
    status = TaskStatus(state=TaskState.PENDING)
    for number in range(tasks):
        owner = number % services
        task = Task(id=f"t{number:07}", service_id=f"s{owner}", task_spec_id=f"spec{owner}", slot=number, status=status)
        tables.tasks.put(task, 1)
    return tables


def measure(tables: Tables, limit: int | None) -> tuple[float, float]:
    """Place everything; returns the seconds spent deciding, and the longest decision."""
    total = longest = 0.0
    while True:
        start = time.perf_counter()
        decisions = decide(tables, 1, limit)
        spent = time.perf_counter() - start
        total, longest = total + spent, max(longest, spent)
        for item in decisions.updated:
            assert isinstance(item, Task)
            tables.tasks.put(item, 1)
        if not decisions.unfinished:
            assert not tables.tasks.unplaced(TaskState.PENDING)
            return total, longest


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--services", type=int, default=1)
    args = parser.parse_args()
    print(f"{args.nodes} nodes, {args.services} service(s)")
    for tasks in args.tasks:
        for limit in (None, 80):
            if limit and tasks > 10_000:
                continue
            total, longest = measure(cluster(args.nodes, tasks, args.services), limit)
            print(
                f"{tasks:7} tasks, limit {limit or 'none':>4}: {total * 1000:8.1f} ms, "
                f"{total / tasks * 1e6:6.2f} µs per placement, longest step {longest * 1000:6.1f} ms"
            )
    full = cluster(args.nodes, 100_000, args.services)
    measure(full, None)
    spec = next(iter(full.task_specs)).id
    full.tasks.put(Task(id="one", service_id="s0", task_spec_id=spec, status=TaskStatus(state=TaskState.PENDING)), 1)
    total, _ = measure(full, 80)
    print(f"      1 task beside 100,000 others: {total * 1000:.1f} ms")


if __name__ == "__main__":
    main()
