"""What makes a node unsuitable for a group of tasks, how that is said, and with which figures. Pure.

The order is SwarmKit's: a node counts for the first filter that refuses it. A filter is asked for a `Check` once per group, which
is then asked about many nodes.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Protocol

from pyswarm_common.amounts import format_binary_bytes
from pyswarm_common.host_access import NO_ACCESS, HostAccess, refusals
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


def _size(size_bytes: int) -> str:
    return f"{'-' if size_bytes < 0 else ''}{format_binary_bytes(abs(size_bytes))}"


def _cpus(nano_cpus: int) -> str:
    return f"{nano_cpus / 1e9:g}"


class AmountFilter:
    """The node has so much of one resource left: CPUs, memory or processes.

    `resource` is what demand, node and description call it; `show` writes an amount, `noun` follows the one that is needed. A node
    that reports none of it has none, unless `unreported_is_unlimited`.
    """

    depends_on_load = True
    concerns_service = False
    makes_candidates = False

    def __init__(
        self,
        name: str,
        resource: str,
        unit: str,
        show: Callable[[int], str],
        *,
        what: str,
        noun: str = "",
        unreported_is_unlimited: bool = False,
    ) -> None:
        self.name = name
        self._amount: Callable[[object], int] = attrgetter(resource)
        self._unit = unit
        self._show = show
        self._what = what
        self._noun = noun and f" {noun}"
        self._unreported_is_unlimited = unreported_is_unlimited

    def applies(self, group: TaskGroup) -> bool:
        """When some of it is reserved."""
        return self._amount(group.demand) > 0

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """What the node has, without the reservations of the tasks there."""
        amount, needed = self._amount, self._amount(group.demand)
        if not self._unreported_is_unlimited:
            return lambda info: amount(info) >= needed
        return lambda info: amount(info) >= needed or not amount(info.node.description.resources)

    def explain(self, count: int) -> str:
        """Swarm only says `resources`."""
        return f"insufficient {self._what} on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """What is needed, free and there in all."""
        needed, free, total = self._amount(group.demand), self._amount(info), self._amount(info.node.description.resources)
        needs = f"needs {self._show(needed)}{self._noun}"
        if self._unreported_is_unlimited and not total:
            detail = f"{needs}, node reports no limit"
            return FilterVerdict(filter=self.name, passes=passes, detail=detail, needed=needed, unit=self._unit)
        detail = f"{needs}, free {self._show(free)} of {self._show(total)}"
        return FilterVerdict(filter=self.name, passes=passes, detail=detail, needed=needed, free=free, total=total, unit=self._unit)


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


class PermissionFilter:
    """The node's operator allows what the container wants of the machine.

    `what` names it in the plural, `part` picks it out of all that is wanted.
    """

    depends_on_load = False
    concerns_service = False
    makes_candidates = False

    def __init__(self, name: str, what: str, part: Callable[[HostAccess], HostAccess]) -> None:
        self.name = name
        self._what = what
        self._part = part

    def applies(self, group: TaskGroup) -> bool:
        """When it wants anything of that sort."""
        return self._part(group.demand.access) != NO_ACCESS

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """All of it must be allowed."""
        wanted = self._part(group.demand.access)
        return lambda info: not refusals(wanted, info.node.description.permissions)

    def explain(self, count: int) -> str:
        """Swarm has nothing like it."""
        return f"{self._what} are not allowed on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """What is not allowed, and how the operator would allow it."""
        refused = refusals(self._part(group.demand.access), info.node.description.permissions)
        detail = "; ".join(f"{each.what} not allowed (pyswarmd {each.option})" for each in refused)
        return FilterVerdict(filter=self.name, passes=passes, detail=detail or f"{self._what} are allowed")


class EncryptionFilter:
    """The node can carry encrypted overlays."""

    name = "encryption"
    depends_on_load = False
    concerns_service = False
    makes_candidates = False

    def applies(self, group: TaskGroup) -> bool:
        """When one of the networks is encrypted."""
        return group.demand.is_encrypted

    def check(self, group: TaskGroup, nodes: Nodes) -> Check:
        """By the kernel or in userspace."""
        return lambda info: bool(info.node.description.encryption)

    def explain(self, count: int) -> str:
        """Swarm has nothing like it."""
        return f"encrypted overlays are not possible on {count_of_nodes(count)}"

    def verdict(self, group: TaskGroup, info: NodeInfo, passes: bool) -> FilterVerdict:
        """By what, or why not."""
        description = info.node.description
        by = {"kernel": "by the kernel's WireGuard", "userspace": "by wireguard-go"}.get(description.encryption, "")
        problem = description.encryption_problem or "the node did not report that it can"
        return FilterVerdict(filter=self.name, passes=passes, detail=f"encrypted overlays: {by or problem}")


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
    AmountFilter("memory", "memory_bytes", "bytes", _size, what="memory"),
    AmountFilter("cpus", "nano_cpus", "nanocpus", _cpus, what="CPUs", noun="CPUs"),
    AmountFilter("pids", "pids", "processes", str, what="processes", noun="processes", unreported_is_unlimited=True),
    GenericResourceFilter(),
    ConstraintFilter(),
    PlatformFilter(),
    PermissionFilter("privileged", "privileged containers", lambda access: HostAccess(is_privileged=access.is_privileged)),
    PermissionFilter("devices", "these devices", lambda access: HostAccess(devices=access.devices)),
    PermissionFilter("CDI devices", "these CDI devices", lambda access: HostAccess(cdi_devices=access.cdi_devices)),
    EncryptionFilter(),
    HostPortFilter(),
    MaxReplicasFilter(),
)


def _constraint_detail(constraint: Constraint, node: Node) -> str:
    attribute = attribute_of(node, constraint.key)
    name = constraint.key.rpartition(".")[2] if ".labels." not in constraint.key else constraint.key.split(".labels.", 1)[1]
    return f"{constraint}: node has {'no ' + name if attribute is None else f'{name}={attribute}'}"
