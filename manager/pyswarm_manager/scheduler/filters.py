"""What makes a node unsuitable for a group of tasks, and how that is said. Pure.

The order is SwarmKit's: a node counts for the first filter that refuses it. `depends_on_load`: the answer may change with
each task that is put on the node, so it is asked again.
"""

from typing import Protocol

from pyswarm_manager.scheduler.constraints import normal_architecture
from pyswarm_manager.scheduler.placement import NodeInfo, TaskGroup


class Filter(Protocol):
    """One reason to refuse a node."""

    @property
    def depends_on_load(self) -> bool:
        """Whether tasks on the node change the answer."""
        ...

    def applies(self, group: TaskGroup) -> bool:
        """Whether the group asks for anything that this filter looks at."""
        ...

    def check(self, group: TaskGroup, info: NodeInfo) -> bool:
        """Whether the node is suitable as far as this filter can tell."""
        ...

    def explain(self, count: int) -> str:
        """Say that so many nodes were refused."""
        ...


def count_of_nodes(count: int) -> str:
    """Return `1 node`, `2 nodes`."""
    return f"{count} node" if count == 1 else f"{count} nodes"


class ReadyFilter:
    """The node is ready and takes new tasks."""

    depends_on_load = False

    def applies(self, group: TaskGroup) -> bool:
        """Always."""
        return True

    def check(self, group: TaskGroup, info: NodeInfo) -> bool:
        """Neither down nor paused nor drained."""
        return info.node.status.state == "ready" and info.node.spec.availability == "active"

    def explain(self, count: int) -> str:
        """As Swarm says it."""
        return f"{count_of_nodes(count)} not available for new tasks"


class MemoryFilter:
    """The node has the reserved memory left."""

    depends_on_load = True

    def applies(self, group: TaskGroup) -> bool:
        """When memory is reserved."""
        return group.reservation.memory_bytes > 0

    def check(self, group: TaskGroup, info: NodeInfo) -> bool:
        """What the node has, without the reservations of the tasks there."""
        return info.free_memory_bytes >= group.reservation.memory_bytes

    def explain(self, count: int) -> str:
        """Swarm only says `resources`."""
        return f"insufficient memory on {count_of_nodes(count)}"


class CPUFilter:
    """The node has the reserved CPUs left."""

    depends_on_load = True

    def applies(self, group: TaskGroup) -> bool:
        """When CPUs are reserved."""
        return group.reservation.nano_cpus > 0

    def check(self, group: TaskGroup, info: NodeInfo) -> bool:
        """What the node has, without the reservations of the tasks there."""
        return info.free_nano_cpus >= group.reservation.nano_cpus

    def explain(self, count: int) -> str:
        """Swarm only says `resources`."""
        return f"insufficient CPUs on {count_of_nodes(count)}"


class ConstraintFilter:
    """The node satisfies the placement constraints."""

    depends_on_load = False

    def applies(self, group: TaskGroup) -> bool:
        """When there are any."""
        return group.constraints is None or bool(group.constraints)

    def check(self, group: TaskGroup, info: NodeInfo) -> bool:
        """All must match; constraints that cannot be understood match nothing."""
        return group.constraints is not None and all(c.matches(info.node) for c in group.constraints)

    def explain(self, count: int) -> str:
        """As Swarm says it."""
        return f"scheduling constraints not satisfied on {count_of_nodes(count)}"


class PlatformFilter:
    """The image runs on the node's architecture and operating system."""

    depends_on_load = False

    def applies(self, group: TaskGroup) -> bool:
        """When platforms are named."""
        return bool(group.placement.platforms)

    def check(self, group: TaskGroup, info: NodeInfo) -> bool:
        """One platform suffices; an empty part of it means any."""
        architecture = normal_architecture(info.node.description.architecture)
        system = info.node.description.os.lower()
        return any(
            (not p.architecture or normal_architecture(p.architecture) == architecture) and (not p.os or p.os.lower() == system)
            for p in group.placement.platforms or ()
        )

    def explain(self, count: int) -> str:
        """As Swarm says it."""
        return f"unsupported platform on {count_of_nodes(count)}"


class MaxReplicasFilter:
    """The node has fewer tasks of the service than the most it may have."""

    depends_on_load = True

    def applies(self, group: TaskGroup) -> bool:
        """When there is such a limit."""
        return group.placement.max_replicas > 0

    def check(self, group: TaskGroup, info: NodeInfo) -> bool:
        """Counts tasks that run there or should."""
        return info.service_counts.get(group.service_id, 0) < group.placement.max_replicas

    def explain(self, count: int) -> str:
        """Like Swarm, but with the number of nodes."""
        return f"max replicas per node limit reached on {count_of_nodes(count)}"


FILTERS: tuple[Filter, ...] = (
    ReadyFilter(),
    MemoryFilter(),
    CPUFilter(),
    ConstraintFilter(),
    PlatformFilter(),
    MaxReplicasFilter(),
)
