"""What the scheduler says about nodes and drafts, as the API shows it: plain values with Docker's style of names."""

import msgspec

from pyswarm_common.specs import GenericResource


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of the shapes: every member is always written."""


class FilterVerdict(Shape, frozen=True, kw_only=True):
    """One filter on one node. The numbers are None where the filter has none."""

    filter: str
    """`ready`, `cpus`, `memory`, `pids`, `generic resources`, `constraints`, `platform`, `privileged`, `devices`,
    `CDI devices`, `host ports` or `max replicas`."""
    passes: bool
    detail: str
    """Such as `needs 512 MiB, free 100 MiB of 2 GiB` or `node.labels.zone==north: node has zone=south`."""
    needed: int | None = None
    free: int | None = None
    total: int | None = None
    unit: str = ""
    """Of the three numbers: `bytes`, `nanocpus`, `processes`, `tasks`, or a generic resource's kind."""


class NodeVerdict(Shape, frozen=True, kw_only=True):
    """All filters that apply, on one node."""

    node_id: str = msgspec.field(name="NodeID")
    hostname: str
    is_suitable: bool
    refused_by: str
    """The first filter that refuses the node, for which it counts in the summary; "" when it is suitable."""
    rank: int
    """1 for the node that would be taken next; 0 when it is not suitable."""
    task_count: int
    """Tasks that run there or should."""
    service_task_count: int
    """Those of them that are the service's."""
    recent_failures: int
    """How many of the service's tasks failed there within the last five minutes; from 5 on the node ranks last."""
    filters: tuple[FilterVerdict, ...]


class Explanation(Shape, frozen=True, kw_only=True):
    """What the scheduler thinks of each node for one task."""

    task_id: str = msgspec.field(name="TaskID")
    """"" for a draft."""
    service_id: str = msgspec.field(name="ServiceID")
    node_id: str = msgspec.field(name="NodeID")
    """Where the task is; "" when it is nowhere."""
    state: str
    """The task's observed state, such as `pending`; "" for a draft."""
    summary: str
    """One line: `no suitable node (…)`, `waits for …`, `runs on alpha` or `would be placed on alpha`."""
    nodes: tuple[NodeVerdict, ...]
    """Suitable ones first, by rank; then the others by hostname."""


class NodePlacement(Shape, frozen=True, kw_only=True):
    """So many tasks on one node."""

    node_id: str = msgspec.field(name="NodeID")
    hostname: str
    tasks: int
    generic_resources: tuple[GenericResource, ...] = ()
    """What all of them together would be given."""


class DryRun(Shape, frozen=True, kw_only=True):
    """Where the tasks of a draft would land."""

    asked: int
    placed: int
    placements: tuple[NodePlacement, ...]
    """Nodes with most tasks first, then by hostname."""
    refusal: str
    """`no suitable node (…)` for the tasks that no node takes; "" when all find one."""
    nodes: tuple[NodeVerdict, ...]
    """What the scheduler thinks of each node for the next task, after these placements."""
