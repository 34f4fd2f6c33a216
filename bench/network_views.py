#!/usr/bin/env python3
"""What telling nodes of networks costs a leader: computing views, encoding them, and looking at what to send to each node.

No sockets and no store: the dispatcher's pure parts on tables in memory, as one change of a network means them. Printed in ms:

whole       all views computed from nothing and encoded, as a new leader does
join        a node joins that has an address on the ingress network and a key: views recomputed and encoded
task        one task of a network begins to serve: the same
flush       what to send to each node that holds this network, after that
follow      what a node does with the change
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pyswarm_common import wire
from pyswarm_common.objects import (
    Cluster,
    Network,
    NetworkAttachment,
    Node,
    NodeDescription,
    NodeStatus,
    Service,
    Task,
    TaskSpec,
    TaskStatus,
    VirtualIP,
)
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.assignments import Sent, next_assignments
from pyswarm_manager.dispatcher.network_views import NetworkViews
from pyswarm_manager.store.tables import Tables

SCENES = {
    "300 tasks on one network, 10 nodes": (10, 1, 300),
    "50 networks of 20 tasks, 10 nodes": (10, 50, 20),
    "200 nodes, 50 networks of 40 tasks": (200, 50, 40),
    "1,000 nodes, 30 networks of 1,000 tasks": (1000, 30, 1000),
}
"""Nodes, networks, tasks of each; all tasks of a network belong to one service with a port of the routing mesh."""
ROUNDS = 5


class Scene:
    """Tables and the views that follow them; each node has sessions as after a complete set."""

    def __init__(self, nodes: int, networks: int, tasks: int) -> None:
        self.tables, self.views, self.version = Tables(), NetworkViews(), 1
        self.tables.table(Cluster).put(Cluster(id="c"), 1)
        self.put(Network(id="ingress", name="ingress", spec_json=b'{"Ingress":true}', vni=4096, subnet="10.255.0.0/16"))
        for number in range(nodes):
            self.put(node(number))
        for number in range(networks):
            self._add_network(number, nodes, tasks)
        self.sent: dict[str, Sent] = {}

    def _add_network(self, number: int, nodes: int, tasks: int) -> None:
        network_id, spec = f"net{number}", b'{"Networks":[{"Target":"net%d"}]}' % number
        self.put(Network(id=network_id, name=network_id, vni=5000 + number, subnet=f"10.{number}.0.0/16"))
        self.put(TaskSpec(id=f"spec{number}", template_json=spec))
        vip = VirtualIP(network_id=network_id, address=f"10.{number}.0.2/16")
        port = PortConfig(target_port=80, published_port=30_000 + number)
        self.put(Service(id=f"svc{number}", name=f"web{number}", task_spec_id=f"spec{number}", virtual_ips=(vip,), ports=(port,)))
        for slot in range(tasks):
            self.put(task(number, slot, (number + slot) % nodes, TaskState.RUNNING))

    def put(self, item: Any) -> None:
        """Store an object and note it."""
        before = self.tables.table(type(item)).put(item, 1)
        notes: dict[type, Callable[[Any, Any], None]] = {
            Node: self.views.note_node,
            Network: self.views.note_network,
            Service: self.views.note_service,
            Task: self.views.note_task,
        }
        if type(item) in notes:
            notes[type(item)](before, item)

    def refresh(self) -> set[str]:
        """Compute and encode what nodes are sent; returns the networks that changed."""
        self.version += 1
        changed = self.views.refresh(self.tables, self.version)
        for network_id in changed:
            published = self.views.published[network_id]
            if published.delta_from < 0:
                published.whole  # noqa: B018  encodes it
        return changed

    def bring_up_to_date(self, node_id: str, *, touched: list[str] | None) -> wire.Assignments | None:
        """Return what the node is sent."""
        message, self.sent[node_id] = next_assignments(
            self.tables, node_id, self.sent.get(node_id, Sent()), self.views.published, is_complete=False, touched=touched
        )
        return message


def node(number: int) -> Node:
    description = NodeDescription(
        hostname=f"h{number}", data_path_address=f"192.0.{number // 250}.{number % 250}", underlay_mtu_bytes=1500
    )
    place = NetworkAttachment(network_id="ingress", address=f"10.255.{250 + number // 250}.{number % 250}/16")
    return Node(id=f"n{number}", description=description, status=NodeStatus(state="ready"), attachments=(place,))


def task(network: int, slot: int, node_number: int, state: TaskState) -> Task:
    place = f"{slot // 250}.{slot % 250 + 3}/16"
    return Task(
        id=f"t{network}-{slot}",
        task_spec_id=f"spec{network}",
        service_id=f"svc{network}",
        slot=slot + 1,
        node_id=f"n{node_number}",
        status=TaskStatus(state=state),
        attachments=(
            NetworkAttachment(network_id=f"net{network}", address=f"10.{network}.{place}"),
            NetworkAttachment(network_id="ingress", address=f"10.255.{network * 4 + slot // 250}.{slot % 250}/16"),
        ),
    )


def timed(step: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many ms a step took, and what it returned."""
    began_s = time.perf_counter()
    result = step()
    return (time.perf_counter() - began_s) * 1000, result


def measure(nodes: int, networks: int, tasks: int) -> dict[str, float]:
    """Return the figures of one scene."""
    scene = Scene(nodes, networks, tasks)
    whole_ms, _ = timed(scene.refresh)
    whole_bytes = sum(memoryview(p.whole).nbytes for p in scene.views.published.values())
    node_ids = [item.id for item in scene.tables.nodes]
    for node_id in node_ids:
        scene.bring_up_to_date(node_id, touched=None)
    joins, starts, flushes, follows, delta_bytes = [], [], [], [], 0
    for number in range(ROUNDS):
        scene.put(node(nodes + number))
        joins.append(timed(scene.refresh)[0])
        for node_id in node_ids:
            scene.bring_up_to_date(node_id, touched=[])
        held = scene.views.published["net0"].view
        scene.put(task(0, tasks + number, number % nodes, TaskState.RUNNING))
        starts.append(timed(scene.refresh)[0])
        messages_ms, _ = timed(lambda: [scene.bring_up_to_date(node_id, touched=[]) for node_id in node_ids])
        flushes.append(messages_ms)
        raw = scene.views.published["net0"].delta
        delta_bytes = memoryview(raw).nbytes
        follows.append(
            timed(lambda r=raw, h=held: wire.apply_view_delta(h, msgspec.msgpack.decode(r, type=wire.NetworkViewDelta)))[0]
        )
    return {
        "whole_ms": whole_ms,
        "whole_kib": whole_bytes / 1024,
        "join_ms": statistics.median(joins),
        "task_ms": statistics.median(starts),
        "flush_ms": statistics.median(flushes),
        "follow_ms": statistics.median(follows),
        "delta_bytes": float(delta_bytes),
    }


def main() -> None:
    """Measure all scenes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    figures = {name: measure(*scene) for name, scene in SCENES.items()}
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
        return
    for name, found in figures.items():
        print(name)
        print("    " + "  ".join(f"{key} {value:.1f}" for key, value in found.items()))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
