"""What a simulation found, as plain values: what `--format json` prints, and what the table shows a part of.

Times are virtual seconds since the start. A service's tasks run when their machines really work, noticed or not.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from pyswarm_common.objects import Node, Service
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.constraints import label_of
from pyswarm_manager.simulator.simulation import Outcome, Simulation
from pyswarm_manager.simulator.tally import ServiceTally
from pyswarm_manager.simulator.timeline import pending_reasons
from pyswarm_manager.store.tables import Tables


class Range(msgspec.Struct, frozen=True):
    """The least, the middle and the greatest of some numbers."""

    minimum: float
    median: float
    maximum: float


class PendingReason(msgspec.Struct, frozen=True):
    """Why so many tasks have no node."""

    reason: str
    tasks: int


class ServiceReport(msgspec.Struct, frozen=True, kw_only=True):
    """A service at the end, and what it went through."""

    name: str
    mode: str
    asked: int
    running: int
    pending: int
    pending_reasons: list[PendingReason]
    states: dict[str, int]
    """All its tasks, the history too, by observed state."""
    complete_after_s: float | None
    fewest_running: int | None
    """Since it was complete for the first time."""
    fewest_at_s: float | None
    most_running: int
    short_s: float
    """How long, since it was complete for the first time, fewer tasks ran than it asked for."""
    tasks_created: int
    tasks_failed: int
    update_state: str
    nodes_used: int
    tasks_per_used_node: Range | None
    spread: dict[str, dict[str, int]]
    """Its running tasks by the values of the labels that its preferences name."""


class GroupReport(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of a group, and how full they are. Resources are fractions of what a node has; None where nobody has any."""

    name: str
    nodes: int
    states: dict[str, int]
    tasks: Range | None
    cpus: Range | None
    memory: Range | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    seed: int
    virtual_time_s: float
    settled: bool
    settled_at_s: float | None
    """When the last change was made, if nothing is under way any more."""
    tasks_running: int
    tasks_pending: int
    commits: int
    services: list[ServiceReport]
    nodes: list[GroupReport]
    timeline: list[tuple[float, str]]
    timeline_left_out: int


def make_report(simulation: Simulation, outcome: Outcome) -> Report:
    """Return the report of a simulation that has run."""
    view = simulation.head.view
    reasons: dict[str, list[PendingReason]] = defaultdict(list)
    for (service_id, reason), count in sorted(pending_reasons(view).items(), key=lambda item: (-item[1], item[0])):
        reasons[service_id].append(PendingReason(reason or "not looked at yet", count))
    services = [_service(view, i, tally, reasons[i]) for i, tally in simulation.tally.services.items()]
    return Report(
        seed=simulation.seed,
        virtual_time_s=_seconds(outcome.end_ns),
        settled=outcome.settled_ns is not None,
        settled_at_s=None if outcome.settled_ns is None else _seconds(outcome.settled_ns),
        tasks_running=sum(service.running for service in services),
        tasks_pending=sum(service.pending for service in services),
        commits=simulation.head.commit_count,
        services=services,
        nodes=_groups(simulation, view),
        timeline=[(_seconds(entry.at_ns), entry.text) for entry in simulation.timeline.entries],
        timeline_left_out=simulation.timeline.left_out,
    )


def _service(view: Tables, service_id: str, tally: ServiceTally, reasons: list[PendingReason]) -> ServiceReport:
    states: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for task in view.tasks.of_service(service_id):
        states[task.status.state.api_name] += 1
        if task.desired_state <= TaskState.RUNNING and task.node_id and not task.is_terminal:
            places[task.node_id] += 1
    service = view.services.get(service_id)
    status = service.update_status if service is not None else None
    fewest = tally.fewest_running is not None
    return ServiceReport(
        name=tally.name,
        mode=tally.mode,
        asked=tally.target,
        running=tally.running,
        pending=sum(reason.tasks for reason in reasons),
        pending_reasons=reasons,
        states=dict(sorted(states.items())),
        complete_after_s=None if tally.complete_at_ns is None else _seconds(tally.complete_at_ns),
        fewest_running=tally.fewest_running,
        fewest_at_s=_seconds(tally.fewest_at_ns) if fewest else None,
        most_running=tally.most_running,
        short_s=_seconds(tally.short_ns),
        tasks_created=tally.created,
        tasks_failed=tally.failed,
        update_state=status.state if status is not None else "",
        nodes_used=len(places),
        tasks_per_used_node=_range(places.values()),
        spread=_spread(view, service, places) if service is not None else {},
    )


def _spread(view: Tables, service: Service, places: Counter[str]) -> dict[str, dict[str, int]]:
    spec = view.task_specs.get(service.task_spec_id)
    placement = spec.template.placement if spec is not None else None
    labels = [p.spread.spread_descriptor for p in (placement.preferences if placement else None) or () if p.spread is not None]
    found: dict[str, dict[str, int]] = {}
    for label in labels:
        counts: Counter[str] = Counter()
        for node_id, count in places.items():
            node = view.nodes.get(node_id)
            if node is not None:
                counts[label_of(node, label) or ""] += count
        found[label] = dict(sorted(counts.items()))
    return found


def _groups(simulation: Simulation, view: Tables) -> list[GroupReport]:
    members: dict[str, list[Node]] = {group.name: [] for group in simulation.scenario.nodes}
    for node in view.nodes:
        group = simulation.operator.group_of(node.id)
        members[group.name if group is not None else ""].append(node)
    return [_group(view, name, nodes) for name, nodes in members.items()]


def _group(view: Tables, name: str, nodes: Sequence[Node]) -> GroupReport:
    counts: list[int] = []
    cpus: list[float] = []
    memory: list[float] = []
    load = view.derived(ClusterLoad)
    for node in nodes:
        info, resources = load.nodes[node.id], node.description.resources
        counts.append(info.task_count)
        if resources.nano_cpus:
            cpus.append(1 - info.nano_cpus / resources.nano_cpus)
        if resources.memory_bytes:
            memory.append(1 - info.memory_bytes / resources.memory_bytes)
    states = Counter(n.status.state if n.spec.availability == "active" else n.spec.availability for n in nodes)
    return GroupReport(
        name=name,
        nodes=len(nodes),
        states=dict(sorted(states.items())),
        tasks=_range(counts),
        cpus=_range(cpus),
        memory=_range(memory),
    )


def _range(numbers: Iterable[float]) -> Range | None:
    found = list(numbers)
    return Range(min(found), statistics.median(found), max(found)) if found else None


def _seconds(ns: int) -> float:
    return round(ns / SECOND_NS, 3)
