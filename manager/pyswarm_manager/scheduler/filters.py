"""What makes a node unsuitable for a group of tasks, how that is said, and with which figures. Pure.

The order is SwarmKit's: a node counts for the first filter that refuses it. A filter is asked for a `Check` once per group, which
is then asked about many nodes.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from pyswarm_common.amounts import format_binary_bytes
from pyswarm_common.objects import Node
from pyswarm_manager.scheduler.attributes import AttributeIndex
from pyswarm_manager.scheduler.constraints import Constraint, attribute_of, normal_architecture
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.scheduler.task_group import TaskGroup
from pyswarm_manager.scheduler.verdicts import FilterVerdict

Check = Callable[[NodeInfo], bool]
"""Whether a node is suitable as far as one filter can tell, as the node is now."""


class Nodes(Protocol):
    """What a filter may look up of the whole cluster."""

    attributes: AttributeIndex

    def all_nodes(self) -> Iterable[Node]:
        """All nodes."""
        ...


class Filter(Protocol):
    """One reason to refuse a node."""

    name: str
    """As verdicts call it."""
    depends_on_load: bool
    """Whether tasks on the node change the answer."""
    concerns_service: bool
    """Whether the answer differs between services that ask for the same."""
    makes_candidates: bool
    """Whether nodes that it refuses are not even looked at, because an index knows them (`placing.py`)."""

    def applies(self, group: TaskGroup) -> bool:
        """Whether the group asks for anything that this filter looks at."""
        ...

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """Return what tells suitable nodes from others."""
        ...

    def explain(self, count: int) -> str:
        """Say that so many nodes were refused."""
        ...

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """Say what the node has, and what is needed."""
        ...


def count_of_nodes(count: int) -> str:
    """Return `1 node`, `2 nodes`."""
    return f"{count} node" if count == 1 else f"{count} nodes"


class ReadyFilter:
    """The node is ready and takes new tasks."""

    name = "ready"
    depends_on_load = False
    concerns_service = False
    makes_candidates = True

    def applies(self, group: TaskGroup) -> bool:
        """Always."""
        return True

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """Neither down nor paused nor drained."""
        return lambda info: info.is_available

    def explain(self, count: int) -> str:
        """As Swarm says it."""
        return f"{count_of_nodes(count)} not available for new tasks"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """State and availability."""
        node = info.node
        return FilterVerdict(filter=self.name, passes=passes, detail=f"node is {node.status.state}, {node.spec.availability}")


class CPUFilter:
    """The node has the reserved CPUs left."""

    name = "cpus"
    depends_on_load = True
    concerns_service = False
    makes_candidates = False

    def applies(self, group: TaskGroup) -> bool:
        """When CPUs are reserved."""
        return group.demand.nano_cpus > 0

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """What the node has, without the reservations of the tasks there."""
        needed = group.demand.nano_cpus
        return lambda info: info.nano_cpus >= needed

    def explain(self, count: int) -> str:
        """Swarm only says `resources`."""
        return f"insufficient CPUs on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """In CPUs."""
        total = info.node.description.resources.nano_cpus
        needed, free = group.demand.nano_cpus, info.nano_cpus
        detail = f"needs {needed / 1e9:g} CPUs, free {free / 1e9:g} of {total / 1e9:g}"
        return FilterVerdict(filter=self.name, passes=passes, detail=detail, needed=needed, free=free, total=total, unit="nanocpus")


class MemoryFilter:
    """The node has the reserved memory left."""

    name = "memory"
    depends_on_load = True
    concerns_service = False
    makes_candidates = False

    def applies(self, group: TaskGroup) -> bool:
        """When memory is reserved."""
        return group.demand.memory_bytes > 0

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """What the node has, without the reservations of the tasks there."""
        needed = group.demand.memory_bytes
        return lambda info: info.memory_bytes >= needed

    def explain(self, count: int) -> str:
        """Swarm only says `resources`."""
        return f"insufficient memory on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """In binary units."""
        total = info.node.description.resources.memory_bytes
        needed, free = group.demand.memory_bytes, info.memory_bytes
        sign = "-" if free < 0 else ""
        detail = f"needs {_size(needed)}, free {sign}{_size(abs(free))} of {_size(total)}"
        return FilterVerdict(filter=self.name, passes=passes, detail=detail, needed=needed, free=free, total=total, unit="bytes")


class ProcessesFilter:
    """The node has the reserved processes left, if it says how many it has."""

    name = "pids"
    depends_on_load = True
    concerns_service = False
    makes_candidates = False

    def applies(self, group: TaskGroup) -> bool:
        """When processes are reserved."""
        return group.demand.pids > 0

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """A node that reports no limit has no limit."""
        needed = group.demand.pids
        return lambda info: info.pids >= needed or not info.node.description.resources.pids

    def explain(self, count: int) -> str:
        """In the words of the other resources."""
        return f"insufficient processes on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """In numbers."""
        total, needed = info.node.description.resources.pids, group.demand.pids
        if not total:
            detail = f"needs {needed} processes, node reports no limit"
            return FilterVerdict(filter=self.name, passes=passes, detail=detail, needed=needed, unit="processes")
        detail = f"needs {needed} processes, free {info.pids} of {total}"
        return FilterVerdict(
            filter=self.name, passes=passes, detail=detail, needed=needed, free=info.pids, total=total, unit="processes"
        )


class GenericResourceFilter:
    """The node has so many of each kind free."""

    name = "generic resources"
    depends_on_load = True
    concerns_service = False
    makes_candidates = False

    def applies(self, group: TaskGroup) -> bool:
        """When generic resources are reserved."""
        return bool(group.demand.generic)

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """What the node declares, without what tasks have that have not ended."""
        needed = group.demand.generic
        return lambda info: all(info.free_of(kind) >= amount for kind, amount in needed)

    def explain(self, count: int) -> str:
        """In the words of the other resources."""
        return f"insufficient generic resources on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """The numbers are those of the first kind that is short (or the first)."""
        amounts = [(kind, needed, info.free_of(kind), info.total_of(kind)) for kind, needed in group.demand.generic]
        detail = "; ".join(f"needs {needed} {kind}, free {free} of {total}" for kind, needed, free, total in amounts)
        kind, needed, free, total = next((a for a in amounts if a[2] < a[1]), amounts[0])
        return FilterVerdict(filter=self.name, passes=passes, detail=detail, needed=needed, free=free, total=total, unit=kind)


class ConstraintFilter:
    """The node satisfies the placement constraints."""

    name = "constraints"
    depends_on_load = False
    concerns_service = False
    makes_candidates = True

    def applies(self, group: TaskGroup) -> bool:
        """When there are any."""
        return group.demand.constraints is None or bool(group.demand.constraints)

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """All must match; constraints that cannot be understood match nothing."""
        if group.demand.constraints is None:
            return lambda info: False
        sets = [(nodes.attributes.nodes_equal_to(c, nodes.all_nodes), c.is_equal) for c in group.demand.constraints]
        if len(sets) == 1:
            ((ids, is_equal),) = sets
            return (lambda info: info.id in ids) if is_equal else (lambda info: info.id not in ids)
        return lambda info: all((info.id in ids) == is_equal for ids, is_equal in sets)

    def explain(self, count: int) -> str:
        """As Swarm says it."""
        return f"scheduling constraints not satisfied on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """The constraints that the node does not satisfy, with what it has."""
        if group.demand.constraints is None:
            return FilterVerdict(filter=self.name, passes=passes, detail="the constraints cannot be understood")
        failed = [c for c in group.demand.constraints if not c.matches(info.node)]
        detail = "; ".join(_constraint_detail(c, info.node) for c in failed or group.demand.constraints)
        return FilterVerdict(filter=self.name, passes=passes, detail=detail)


class PlatformFilter:
    """The image runs on the node's architecture and operating system."""

    name = "platform"
    depends_on_load = False
    concerns_service = False
    makes_candidates = False

    def applies(self, group: TaskGroup) -> bool:
        """When platforms are named."""
        return bool(group.demand.platforms)

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """One platform suffices; an empty part of it means any."""
        platforms = [(normal_architecture(p.architecture), p.os.lower()) for p in group.demand.platforms]

        def runs(info: NodeInfo) -> bool:
            own_architecture = normal_architecture(info.node.description.architecture)
            own_os = info.node.description.os.lower()
            return any(arch in ("", own_architecture) and os in ("", own_os) for arch, os in platforms)

        return runs

    def explain(self, count: int) -> str:
        """As Swarm says it."""
        return f"unsupported platform on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """Wanted and had."""
        wanted = ", ".join(f"{p.os or 'any'}/{p.architecture or 'any'}" for p in group.demand.platforms)
        description = info.node.description
        detail = f"needs {wanted}; node is {description.os}/{description.architecture}"
        return FilterVerdict(filter=self.name, passes=passes, detail=detail)


class HostPortFilter:
    """The ports that are published on the node itself are free there."""

    name = "host ports"
    depends_on_load = True
    concerns_service = True
    makes_candidates = False

    def applies(self, group: TaskGroup) -> bool:
        """When ports are published in host mode under a chosen number."""
        return bool(group.service.host_ports)

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """No task that has not ended holds one of them."""
        wanted = [(port.protocol, port.published_port) for port in group.service.host_ports]
        return lambda info: not info.ports or not any(port in info.ports for port in wanted)

    def explain(self, count: int) -> str:
        """As Swarm says it."""
        return f"host-mode port already in use on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """Those that are taken."""
        wanted = [(port.protocol, port.published_port) for port in group.service.host_ports]
        taken = [port for port in wanted if port in info.ports]
        names = ", ".join(f"{number}/{protocol}" for protocol, number in taken or wanted)
        return FilterVerdict(filter=self.name, passes=passes, detail=f"{names} {'in use' if taken else 'free'}")


class MaxReplicasFilter:
    """The node has fewer tasks of the service than the most it may have."""

    name = "max replicas"
    depends_on_load = True
    concerns_service = True
    makes_candidates = False

    def applies(self, group: TaskGroup) -> bool:
        """When there is such a limit."""
        return group.demand.max_replicas > 0

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """Counts tasks that run there or should."""
        most = group.demand.max_replicas
        return lambda info: group.count_on(info.id) < most

    def explain(self, count: int) -> str:
        """Like Swarm, but with the number of nodes."""
        return f"max replicas per node limit reached on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """Present and highest number."""
        present, most = group.count_on(info.id), group.demand.max_replicas
        detail = f"has {present} of at most {most} tasks of the service"
        return FilterVerdict(
            filter=self.name, passes=passes, detail=detail, needed=1, free=max(0, most - present), total=most, unit="tasks"
        )


FILTERS: tuple[Filter, ...] = (
    ReadyFilter(),
    MemoryFilter(),
    CPUFilter(),
    ProcessesFilter(),
    GenericResourceFilter(),
    ConstraintFilter(),
    PlatformFilter(),
    HostPortFilter(),
    MaxReplicasFilter(),
)


def _size(size_bytes: int) -> str:
    return format_binary_bytes(size_bytes)


def _constraint_detail(constraint: Constraint, node: Node) -> str:
    attribute = attribute_of(node, constraint.key)
    name = constraint.key.rpartition(".")[2] if ".labels." not in constraint.key else constraint.key.split(".labels.", 1)[1]
    return f"{constraint}: node has {'no ' + name if attribute is None else f'{name}={attribute}'}"
