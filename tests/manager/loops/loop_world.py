"""A small language for clusters and decisions, for the text tables of the loops' tests.

    cluster history=5 pool=10.0.0.0/8
    node n1 down drain pause cpus=2 memory=1000 label.zone=a role=manager host=alpha
    network app pending driver=overlay subnet=10.0.1.0/24 vni=4096
    service web replicas=3 networks=app generation=2 condition=any delay=5 attempts=2 window=60 memory=.. constraint=..
    task a web.1 n1 running desired=shutdown generation=1 created=3 start=105 restarted=90,95 address=app:10.0.1.3

Words are bare flags or key=value. Times are seconds; it is 100 now unless `now` says otherwise. Tasks are created at 1, 2, 3 … as
listed. Decisions are printed one per line.
"""

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from pyswarm_common.objects import (
    AnyObject,
    Cluster,
    Network,
    NetworkAttachment,
    Node,
    NodeDescription,
    NodeResources,
    NodeStatus,
    Service,
    Task,
    TaskSpec,
    TaskStatus,
    VirtualIP,
)
from pyswarm_common.specs import SECOND_NS, NodeSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.store.tables import Tables


def put(tables: Tables, item: AnyObject) -> None:
    """Store an object as it is."""
    tables.table(type(item)).put(item, 1)


class TablesWriter:
    """Applies decisions to tables, as a transaction does."""

    def __init__(self, tables: Tables, now_ns: int = 0) -> None:
        self._tables = tables
        self._now_ns = now_ns

    def create(self, item: AnyObject) -> None:
        """Add."""
        assert item.id not in self._tables.table(type(item))
        put(self._tables, msgspec.structs.replace(item, created_at_ns=self._now_ns))

    def update(self, item: AnyObject) -> None:
        """Replace."""
        assert item.id in self._tables.table(type(item))
        put(self._tables, item)

    def delete(self, type_: type[AnyObject], object_id: str) -> None:
        """Remove."""
        assert self._tables.table(type_).delete(object_id) is not None


def shuffled(tables: Tables, seed: int) -> Tables:
    """The same objects, put in another order."""
    items = [item for type_ in (Cluster, Node, Network, Service, TaskSpec, Task) for item in tables.table(type_)]
    random.Random(seed).shuffle(items)
    other = Tables()
    for item in items:
        put(other, item)
    return other


def numbered(prefix: str = "new") -> Iterator[str]:
    """new1, new2, …"""
    number = 0
    while True:
        number += 1
        yield f"{prefix}{number}"


def node(
    node_id: str,
    *,
    state: str = "ready",
    availability: str = "active",
    labels: dict[str, str] | None = None,
    nano_cpus: int = 0,
    memory_bytes: int = 0,
    **more: Any,
) -> Node:
    """A node."""
    return Node(
        id=node_id,
        spec=NodeSpec(labels=labels or {}, availability=availability),
        status=NodeStatus(state=state),  # type: ignore[arg-type]
        description=NodeDescription(
            hostname=more.pop("host", node_id),
            architecture=more.pop("arch", "x86_64"),
            resources=NodeResources(nano_cpus=nano_cpus, memory_bytes=memory_bytes),
        ),
        **more,
    )


def service_with_spec(service_id: str, template: dict[str, Any], replicas: int = 1, **more: Any) -> tuple[Service, TaskSpec]:
    """A service, and the task spec of its generation."""
    generation = more.pop("spec_generation", 1)
    mode = more.pop("mode", {"Replicated": {"Replicas": replicas}})
    endpoint = {"Mode": more.pop("endpoint_mode", "vip")}
    spec = TaskSpec(id=f"{service_id}-spec{generation}", template_json=msgspec.json.encode(template))
    service = Service(
        id=service_id,
        name=service_id,
        spec_json=msgspec.json.encode({"Name": service_id, "Mode": mode, "EndpointSpec": endpoint}),
        task_spec_id=spec.id,
        spec_generation=generation,
        **more,
    )
    return service, spec


class World:
    """Tables made from the language's lines."""

    def __init__(self, text: str) -> None:
        self.tables = Tables()
        self.now_ns = 100 * SECOND_NS
        self.limit: int | None = 80
        self._count = 0
        put(self.tables, Cluster(id="cluster"))
        for line in text.strip().splitlines():
            kind, *words = line.split()
            flags = [w for w in words if "=" not in w]
            values = dict(w.split("=", 1) for w in words if "=" in w)
            getattr(self, f"_{kind}")(flags, values)

    def _now(self, flags: list[str], values: dict[str, str]) -> None:
        self.now_ns = _ns(flags[0])

    def _limit(self, flags: list[str], values: dict[str, str]) -> None:
        self.limit = int(flags[0])

    def _cluster(self, flags: list[str], values: dict[str, str]) -> None:
        cluster = Cluster(
            id="cluster",
            task_history_limit=int(values.get("history", 5)),
            default_address_pool=values.get("pool", "10.0.0.0/8"),
            subnet_prefix_length=int(values.get("prefix", 24)),
        )
        put(self.tables, cluster)

    def _node(self, flags: list[str], values: dict[str, str]) -> None:
        labels = {k.removeprefix("label."): v for k, v in values.items() if k.startswith("label.")}
        made = node(
            flags[0],
            state="down" if "down" in flags else "unknown" if "unknown" in flags else "ready",
            availability="drain" if "drain" in flags else "pause" if "pause" in flags else "active",
            labels=labels,
            nano_cpus=int(float(values.get("cpus", 0)) * 1e9),
            memory_bytes=int(values.get("memory", 0)),
            role=values.get("role", "worker"),
            host=values.get("host", flags[0]),
            arch=values.get("arch", "x86_64"),
        )
        put(self.tables, made)

    def _network(self, flags: list[str], values: dict[str, str]) -> None:
        spec: dict[str, Any] = {"Name": flags[0], "Driver": values.get("driver", "overlay"), "Ingress": "ingress" in flags}
        pool = {"Subnet": values.get("want", ""), "Gateway": values.get("gateway", ""), "IPRange": values.get("range", "")}
        if any(pool.values()):
            spec["IPAM"] = {"Config": [pool]}
        if "vnis" in values:
            spec["Options"] = {"com.docker.network.driver.overlay.vxlanid_list": values["vnis"]}
        self._count += 1
        made = Network(
            id=flags[0],
            name=flags[0],
            spec_json=msgspec.json.encode(spec),
            vni=int(values.get("vni", 0)),
            subnet=values.get("subnet", ""),
            gateway=values.get("gateway", values["subnet"].replace(".0/", ".1/").split("/")[0] if "subnet" in values else ""),
            created_at_ns=_ns(self._count),
        )
        put(self.tables, made)

    def _service(self, flags: list[str], values: dict[str, str]) -> None:
        generation = int(values.get("generation", 1))
        template = _template(values)
        for number in range(1, generation + 1):
            service, spec = service_with_spec(
                flags[0],
                {**template, "ForceUpdate": number},
                int(values.get("replicas", 1)),
                spec_generation=number,
                mode={"Global": {}} if "global" in flags else {"Replicated": {"Replicas": int(values.get("replicas", 1))}},
                endpoint_mode=values.get("endpoint", "vip"),
                previous_spec_json=b"{}" if "updated" in flags or generation > 1 else None,
                virtual_ips=tuple(VirtualIP(network_id=n, address=a) for n, a in _pairs(values.get("vip"))),
            )
            put(self.tables, spec)
        put(self.tables, service)

    def _task(self, flags: list[str], values: dict[str, str]) -> None:
        task_id, place, *rest = flags
        service_id, _, slot = place.partition(".")
        state = TaskState[rest[-1].upper()]
        generation = int(values.get("generation", 1))
        self._count += 1
        made = Task(
            id=task_id,
            service_id=service_id,
            slot=int(slot or 0),
            task_spec_id=f"{service_id}-spec{generation}",
            spec_generation=generation,
            node_id=rest[0] if len(rest) > 1 else "",
            desired_state=TaskState[values.get("desired", "running").upper()],
            status=TaskStatus(state=state, message=values.get("message", ""), error=values.get("error", "")),
            attachments=tuple(NetworkAttachment(network_id=n, address=a) for n, a in _pairs(values.get("address"))),
            created_at_ns=_ns(values.get("created", self._count)),
            start_at_ns=_ns(values.get("start", 0)),
            restarted_at_ns=tuple(_ns(s) for s in values["restarted"].split(",")) if "restarted" in values else (),
        )
        put(self.tables, made)


def render(before: Tables, decisions: Decisions) -> str:
    """Print decisions, one per line."""
    lines = [f"create {_task_line(t)}" for t in decisions.created if isinstance(t, Task)]
    for item in decisions.updated:
        old = before.table(type(item)).must_get(item.id)
        lines.append(f"update {type(item).__name__.lower()} {item.id}: {', '.join(_differences(old, item))}")
    lines += [f"delete {type(item).__name__.lower()} {item.id}" for item in decisions.deleted]
    lines += [f"wake {key or 'all'} at {_seconds(at)}" for key, at in sorted(decisions.wake_at_ns.items())]
    lines += [f"unfinished {key or 'all'}" for key in decisions.unfinished]
    return "\n".join(lines) or "nothing"


def _task_line(task: Task) -> str:
    parts = [f"task {task.id} {task.service_id}.{task.slot} desired={task.desired_state.name} cause={task.cause}"]
    if task.spec_generation != 1:
        parts.append(f"generation={task.spec_generation}")
    if task.start_at_ns:
        parts.append(f"start={_seconds(task.start_at_ns)}")
    if task.restarted_at_ns:
        parts.append(f"restarted={','.join(map(_seconds, task.restarted_at_ns))}")
    return " ".join(parts)


def _differences(old: Any, new: Any) -> Iterator[str]:
    for field in old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if before == after:
            continue
        if isinstance(after, TaskStatus):
            yield from (d for d in _differences(before, after) if not d.startswith("at_ns"))
        elif isinstance(after, tuple):
            yield f"{field}={' '.join(f'{a.network_id}:{a.address}' for a in after) or 'none'}"
        else:
            yield f"{field}={after.name if isinstance(after, TaskState) else repr(after) if ' ' in str(after) else after}"


def _template(values: dict[str, str]) -> dict[str, Any]:
    template: dict[str, Any] = {"ContainerSpec": {"Image": "image"}}
    if "networks" in values:
        template["Networks"] = [{"Target": n} for n in values["networks"].split(",")]
    policy = {"Condition": values.get("condition", "any")}
    if "delay" in values:
        policy["Delay"] = _ns(values["delay"])
    if "attempts" in values:
        policy["MaxAttempts"] = int(values["attempts"])
    if "window" in values:
        policy["Window"] = _ns(values["window"])
    template["RestartPolicy"] = policy
    reserved = {"MemoryBytes": int(values.get("memory", 0)), "NanoCPUs": int(float(values.get("cpus", 0)) * 1e9)}
    template["Resources"] = {"Reservations": reserved}
    placement: dict[str, Any] = {"MaxReplicas": int(values.get("max", 0))}
    if "constraint" in values:
        placement["Constraints"] = values["constraint"].split(",")
    if "spread" in values:
        placement["Preferences"] = [{"Spread": {"SpreadDescriptor": s}} for s in values["spread"].split(",")]
    if "platform" in values:
        placement["Platforms"] = [{"OS": p.split("/")[0], "Architecture": p.split("/")[1]} for p in values["platform"].split(",")]
    template["Placement"] = placement
    return template


def _pairs(text: str | None) -> list[tuple[str, str]]:
    return [tuple(part.split(":", 1)) for part in text.split(",")] if text else []  # type: ignore[misc]


def _ns(seconds: str | int | float) -> int:
    return int(float(seconds) * SECOND_NS)


def _seconds(ns: int) -> str:
    return f"{ns / SECOND_NS:g}"
