"""The scheduler's rules once more, as plainly as they can be said: every task looks at every node, nothing is remembered.

It shares only the meaning of one constraint on one node with the real one. `place` returns what becomes of each pending task.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec

from pyswarm_common.objects import Node, Service, Task
from pyswarm_common.specs import DiscreteResource, GenericResource, NamedResource, PortConfig, TaskTemplate
from pyswarm_common.task_states import TaskState
from pyswarm_manager.scheduler.constraints import label_of, normal_architecture, parse_constraints
from pyswarm_manager.store.tables import Tables

FIVE_MINUTES_NS = 300 * 10**9


class Reference:
    """One decision, task by task, on a copy of all tasks."""

    def __init__(self, tables: Tables, now_ns: int) -> None:
        self.tables = tables
        self.now_ns = now_ns
        self.tasks = {task.id: task for task in tables.tasks}

    def place(self) -> dict[str, Task]:
        """Return the tasks that get a node."""
        placed: dict[str, Task] = {}
        for group in self._groups():
            for task in group:
                if task.node_id:
                    found = self.tables.nodes.get(task.node_id)
                    node = found if found is not None and self.suits(task, found) else None
                else:
                    suitable = [node for node in self.tables.nodes if self.suits(task, node)]
                    node = min(suitable, key=lambda node, task=task: self.rank(task, node), default=None)  # type: ignore[misc]
                if node is not None:
                    assigned = self._assigned(task, node)
                    placed[task.id] = self.tasks[task.id] = assigned
        return placed

    def suits(self, task: Task, node: Node) -> bool:
        """Whether a node can take a task."""
        return not list(self.objections(task, node))

    def objections(self, task: Task, node: Node) -> Iterator[str]:
        """Yield what speaks against a node, in the order in which it counts."""
        template, resources = self.template(task), node.description.resources
        reserved = self.reservation(template)
        others = [self.reservation(self.template(t)) for t in self.running_on(node)]
        if node.status.state != "ready" or node.spec.availability != "active":
            yield "not available"
        if 0 < reserved.memory_bytes > resources.memory_bytes - sum(r.memory_bytes for r in others):
            yield "memory"
        if 0 < reserved.nano_cpus > resources.nano_cpus - sum(r.nano_cpus for r in others):
            yield "CPUs"
        if resources.pids and 0 < reserved.pids > resources.pids - sum(r.pids for r in others):
            yield "processes"
        for kind, amount in self.generic_amounts(template).items():
            if amount > len(self.free_names(node, kind)) + self.free_number(node, kind):
                yield "generic resources"
        placement = template.placement
        if placement is not None:
            if not all(c.matches(node) for c in parse_constraints(placement.constraints or ())):
                yield "constraints"
            if placement.platforms and not any(
                p.architecture in ("", normal_architecture(node.description.architecture)) for p in placement.platforms
            ):
                yield "platform"
        held = {(p.protocol, p.published_port) for t in self.holding_on(node) for p in t.host_ports}
        if any((p.protocol, p.published_port) in held for p in self.ports(task)):
            yield "ports"
        own = sum(t.service_id == task.service_id for t in self.running_on(node))
        if placement is not None and 0 < placement.max_replicas <= own:
            yield "max replicas"

    def rank(self, task: Task, node: Node) -> tuple[object, ...]:
        """The place of a node for a task: the least is taken."""
        template, service = self.template(task), self.tables.services.get(task.service_id)
        preferences = (template.placement.preferences if template.placement else None) or []
        labels = [p.spread.spread_descriptor for p in preferences if p.spread is not None]
        levels: list[object] = []
        branch = list(self.tables.nodes)
        for label in labels:
            value = label_of(node, label) or ""
            branch = [other for other in branch if (label_of(other, label) or "") == value]
            own = [t for other in branch for t in self.running_on(other) if t.service_id == task.service_id]
            levels += [sum(not t.must_move for t in own), -sum(t.must_move for t in own), value]
        is_faulty = self.failures(task)[node.id] >= 5
        running = self.running_on(node)
        if service is not None and (service.spec.labels or {}).get("pyswarm.placement.strategy") == "binpack":
            return *levels, is_faulty, -self.fullness(node), -len(running), node.id
        own_count = sum(t.service_id == task.service_id and not t.must_move for t in running)
        return *levels, is_faulty, own_count, len(running), node.id

    def fullness(self, node: Node) -> float:
        """The larger share that is reserved."""
        resources = node.description.resources
        reserved = [self.reservation(self.template(t)) for t in self.running_on(node)]
        cpus, memory = sum(r.nano_cpus for r in reserved), sum(r.memory_bytes for r in reserved)
        return max(
            1 - (resources.nano_cpus - cpus) / resources.nano_cpus if resources.nano_cpus else 0.0,
            1 - (resources.memory_bytes - memory) / resources.memory_bytes if resources.memory_bytes else 0.0,
        )

    def failures(self, task: Task) -> Counter[str]:
        """How often the task's service failed lately, under its task spec, by node."""
        own = [t for t in self.tasks.values() if (t.service_id, t.task_spec_id) == (task.service_id, task.task_spec_id)]
        failed = (TaskState.FAILED, TaskState.REJECTED)
        records = [(f.task_id, f.at_ns, f.node_id) for t in own for f in t.recent_failures]
        records += [(t.id, t.status.at_ns, t.node_id) for t in own if t.status.state in failed and t.node_id and not t.rejection]
        found = {task_id: (at_ns, node_id) for task_id, at_ns, node_id in sorted(records)}
        return Counter(node_id for at_ns, node_id in found.values() if abs(self.now_ns - at_ns) < FIVE_MINUTES_NS)

    def running_on(self, node: Node) -> list[Task]:
        """Tasks that run there or should."""
        return [t for t in self.holding_on(node) if t.desired_state <= TaskState.RUNNING]

    def holding_on(self, node: Node) -> list[Task]:
        """Tasks there that have not ended."""
        live = (t for t in self.tasks.values() if TaskState.ASSIGNED <= t.status.state <= TaskState.RUNNING)
        return [t for t in live if t.node_id == node.id]

    def template(self, task: Task) -> TaskTemplate:
        """What the task is made from; nothing when that is gone."""
        spec = self.tables.task_specs.get(task.task_spec_id)
        return spec.template if spec is not None else TaskTemplate()

    def reservation(self, template: TaskTemplate) -> "Amounts":
        """What it reserves."""
        reserved = template.resources.reservations if template.resources else None
        return Amounts() if reserved is None else Amounts(reserved.nano_cpus, reserved.memory_bytes, reserved.pids)

    def generic_amounts(self, template: TaskTemplate) -> Counter[str]:
        """Of which kind how many it reserves."""
        reserved = template.resources.reservations if template.resources else None
        found: Counter[str] = Counter()
        for one in (reserved.generic_resources if reserved else None) or ():
            if one.discrete_resource_spec is not None:
                found[one.discrete_resource_spec.kind] += one.discrete_resource_spec.value
        return found

    def free_names(self, node: Node, kind: str) -> list[str]:
        """The named resources of a kind that nobody holds."""
        held = [g.named_resource_spec for t in self.holding_on(node) for g in t.generic_resources]
        declared = [g.named_resource_spec for g in node.description.resources.generic_resources]
        return [n.value for n in declared if n is not None and n.kind == kind and n not in held]

    def free_number(self, node: Node, kind: str) -> int:
        """How many of a kind that has no names are free."""
        declared = [g.discrete_resource_spec for g in node.description.resources.generic_resources]
        held = [g.discrete_resource_spec for t in self.holding_on(node) for g in t.generic_resources]
        return max(0, sum(d.value for d in declared if d and d.kind == kind) - sum(h.value for h in held if h and h.kind == kind))

    def ports(self, task: Task) -> tuple[PortConfig, ...]:
        """The host ports of the task's service."""
        service: Service | None = self.tables.services.get(task.service_id)
        endpoint = service.spec.endpoint_spec if service is not None else None
        return tuple(p for p in (endpoint.ports if endpoint else None) or () if p.publish_mode == "host" and p.published_port)

    def _assigned(self, task: Task, node: Node) -> Task:
        generic: list[GenericResource] = []
        for kind, amount in self.generic_amounts(self.template(task)).items():
            names = self.free_names(node, kind)[:amount]
            generic += [GenericResource(named_resource_spec=NamedResource(kind=kind, value=name)) for name in names]
            if amount > len(names):
                generic.append(GenericResource(discrete_resource_spec=DiscreteResource(kind=kind, value=amount - len(names))))
        status = msgspec.structs.replace(task.status, state=TaskState.ASSIGNED)
        return msgspec.structs.replace(
            task, node_id=node.id, status=status, generic_resources=tuple(generic), host_ports=self.ports(task)
        )

    def _groups(self) -> list[list[Task]]:
        groups: dict[tuple[str, str, bool], list[Task]] = {}
        pending = [t for t in self.tasks.values() if t.status.state is TaskState.PENDING and t.desired_state <= TaskState.RUNNING]
        for task in sorted(pending, key=lambda t: (t.created_at_ns, t.slot, t.id)):
            if task.task_spec_id in self.tables.task_specs:
                groups.setdefault((task.service_id, task.task_spec_id, bool(task.node_id)), []).append(task)
        return sorted(groups.values(), key=lambda group: not group[0].node_id)


class Amounts(msgspec.Struct):
    """What a task reserves."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0
