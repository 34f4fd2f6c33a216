"""A node as the scheduler sees it: what is left of it, and what it holds. Pure.

Two rules say what a task takes from its node, once it is assigned:
  * CPUs, memory and processes that it reserves, and its place in the counts, while it runs there or should. They come free when it
    is told to stop: they are promises between services, and the successor can be placed and fetch its image meanwhile.
  * Host ports and generic resources until it has ended in truth: two tasks cannot have the same port or the same GPU, not even
    for a moment. A successor that needs them waits, without a node, until they are free.
A task that has its node from its orchestrator (global services) takes nothing before the scheduler has confirmed it.
"""

from collections.abc import Iterator, Sequence

from pyswarm_common.objects import Node
from pyswarm_common.specs import DiscreteResource, GenericResource, NamedResource, PortConfig
from pyswarm_manager.scheduler.demand import TemplateDemand

Held = dict[tuple[str, str | int], int]
"""What is held, with how often: ports as (protocol, number), named resources as (kind, name), discrete ones as (kind, "")."""


class NodeInfo:
    """A node with what is free of it; amounts may be negative when a node shrank."""

    __slots__ = ("generic", "id", "is_available", "memory_bytes", "nano_cpus", "node", "pids", "ports", "task_count")

    def __init__(self, node: Node) -> None:
        resources = node.description.resources
        self.id = node.id
        self.node = node
        self.is_available = is_available(node)
        """Whether it takes new tasks at all."""
        self.nano_cpus = resources.nano_cpus
        self.memory_bytes = resources.memory_bytes
        self.pids = resources.pids
        self.task_count = 0
        self.ports: Held = {}
        self.generic: Held = {}

    def copy(self) -> "NodeInfo":
        """Return one of its own that can be changed."""
        copy = NodeInfo.__new__(NodeInfo)
        copy.id = self.id
        copy.node = self.node
        copy.is_available = self.is_available
        copy.nano_cpus = self.nano_cpus
        copy.memory_bytes = self.memory_bytes
        copy.pids = self.pids
        copy.task_count = self.task_count
        copy.ports = self.ports.copy() if self.ports else {}
        copy.generic = self.generic.copy() if self.generic else {}
        return copy

    def replace_node(self, node: Node) -> None:
        """Take the node's new form."""
        old, new = self.node.description.resources, node.description.resources
        self.node = node
        self.is_available = is_available(node)
        self.nano_cpus += new.nano_cpus - old.nano_cpus
        self.memory_bytes += new.memory_bytes - old.memory_bytes
        self.pids += new.pids - old.pids

    def reserve(self, demand: TemplateDemand, times: int = 1) -> None:
        """Count so many more tasks with this demand (fewer, when negative), without what they hold."""
        self.task_count += times
        self.nano_cpus -= times * demand.nano_cpus
        self.memory_bytes -= times * demand.memory_bytes
        self.pids -= times * demand.pids

    def hold(self, ports: Sequence[PortConfig], generic: Sequence[GenericResource], times: int = 1) -> None:
        """Note that a task holds these ports and resources (no longer, with -1). A port that its node chooses counts for none."""
        for port in ports:
            if port.published_port:
                _count(self.ports, (port.protocol, port.published_port), times)
        for kind, name, amount in _claims(generic):
            _count(self.generic, (kind, name), times * amount)

    @property
    def fullness(self) -> float:
        """The larger of the reserved shares of CPUs and memory; what a node does not have cannot fill it."""
        resources = self.node.description.resources
        cpus = 1 - self.nano_cpus / resources.nano_cpus if resources.nano_cpus else 0.0
        memory = 1 - self.memory_bytes / resources.memory_bytes if resources.memory_bytes else 0.0
        return max(cpus, memory)

    def total_of(self, kind: str) -> int:
        """Return how many of a kind of generic resource the node has."""
        return sum(amount for own_kind, _, amount in _claims(self.node.description.resources.generic_resources) if own_kind == kind)

    def free_of(self, kind: str) -> int:
        """Return how many of a kind are free."""
        return len(self._free_names(kind)) + max(0, self._free_amount(kind))

    def choose(self, kind: str, amount: int) -> Iterator[GenericResource]:
        """Return which of a kind a task gets: named ones in the order in which the node declares them, then a number."""
        names = self._free_names(kind)[:amount]
        for name in names:
            yield GenericResource(named_resource_spec=NamedResource(kind=kind, value=name))
        if amount > len(names):
            yield GenericResource(discrete_resource_spec=DiscreteResource(kind=kind, value=amount - len(names)))

    def _free_names(self, kind: str) -> list[str]:
        declared = _claims(self.node.description.resources.generic_resources)
        return [name for own_kind, name, _ in declared if own_kind == kind and name and (kind, name) not in self.generic]

    def _free_amount(self, kind: str) -> int:
        declared = _claims(self.node.description.resources.generic_resources)
        return sum(amount for own, name, amount in declared if own == kind and not name) - self.generic.get((kind, ""), 0)


def is_available(node: Node) -> bool:
    """Whether a node takes new tasks at all: neither down nor paused nor drained."""
    return node.status.state == "ready" and node.spec.availability == "active"


def _claims(generic: Sequence[GenericResource]) -> Iterator[tuple[str, str, int]]:
    """Kind, name ("" for a number of them) and amount of each."""
    for resource in generic:
        if (named := resource.named_resource_spec) is not None:
            yield named.kind, named.value, 1
        elif (discrete := resource.discrete_resource_spec) is not None:
            yield discrete.kind, "", discrete.value


def _count(held: Held, key: tuple[str, str | int], change: int) -> None:
    count = held.get(key, 0) + change
    if count:
        held[key] = count
    else:
        held.pop(key, None)
