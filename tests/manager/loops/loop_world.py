"""A small language for clusters and decisions, for the text tables of the loops' tests.

    cluster history=5 pool=10.0.0.0/8
    node n1 down drain pause since=40 created=5 cpus=2 memory=1000 label.zone=a role=manager host=alpha
    network app pending driver=overlay subnet=10.0.1.0/24 vni=4096
    service web replicas=3 networks=app generation=2 condition=any delay=5 attempts=2 window=60 memory=.. constraint=..
    service new generation=2 constraint=node.labels.zone==b oldconstraint=node.labels.zone==a
    service web label.pyswarm.depends_on=db,cache parallelism=2 update_delay=5 state=updating
    service web generation=2 oldreplicas=2 unforced order=start-first action=rollback monitor=5 ratio=0.5 rollback.parallelism=2
    service web generation=2 state=updating started=80 units=3 renewed=90 mount=volume
    task b web n1 running rejection=why   (of a global service)
    task a web.1 n1 running must_move desired=shutdown generation=1 created=3 updated=9 start=105 restarted=90,95
    task b web.1 n1 running address=app:10.0.1.3
    node n1 ip=10.1.0.2 pids=100 generic=gpu:a,gpu:b,ssd:4 engine.storage=zfs
    service web pids=5 generic=gpu:1,ssd:2 ports=80,53/udp (host mode) label.pyswarm.placement.strategy=binpack
    network app want=10.0.5.0/24,10.0.6.0/24 further=10.0.6.0/24 aux=10.0.5.9,10.0.5.10 ipv6 want6=fd00::/64 subnet6=fd00::/64
    node n1 address=ingress:10.0.0.2/24
    service web mesh=8080,0/udp (routing mesh) given=8080,30000/udp fixed=app:10.0.5.10-10.0.5.12 mac=app:02-00-00-00-00-01
    task a web.1 n1 running ports=80 generic=gpu:a failures=x:n1:90   (what it holds, what it remembers: task, node, time)
    task c web.1 n1 failed generation=2 cause=b began=90 at=95 earlier=ran   (when it began to run, and when it failed)

Words are bare flags or key=value. Times are seconds; it is 100 now unless `now` says otherwise. Tasks are created at 1, 2, 3 … as
listed. Decisions are printed one per line.
"""

import random
from collections.abc import Iterator
from typing import Any

import msgspec
from loop_rendering import render as render  # as a part of the language

from pyswarm_common.generic_resources import parse_generic_resources
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
    TaskFailure,
    TaskSpec,
    TaskStatus,
    UpdateStatus,
    VirtualIP,
)
from pyswarm_common.specs import SECOND_NS, NodeSpec, PortConfig
from pyswarm_common.state_times import packed_state_time
from pyswarm_common.task_states import TaskState
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
        put(self._tables, msgspec.structs.replace(item, updated_at_ns=self._now_ns))

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
        status=NodeStatus(state=state, since_ns=more.pop("since_ns", 0), address=more.pop("address", "")),  # type: ignore[arg-type]
        description=NodeDescription(
            hostname=more.pop("host", node_id),
            architecture=more.pop("arch", "x86_64"),
            resources=NodeResources(
                nano_cpus=nano_cpus,
                memory_bytes=memory_bytes,
                pids=more.pop("pids", 0),
                generic_resources=parse_generic_resources(more.pop("generic", ())),
            ),
            engine_labels=more.pop("engine_labels", {}),
        ),
        **more,
    )


def service_with_spec(service_id: str, template: dict[str, Any], replicas: int = 1, **more: Any) -> tuple[Service, TaskSpec]:
    """A service, and the task spec of its generation."""
    generation = more.pop("spec_generation", 1)
    mode = more.pop("mode", {"Replicated": {"Replicas": replicas}})
    endpoint = {"Mode": more.pop("endpoint_mode", "vip"), **more.pop("endpoint", {})}
    extra = more.pop("extra", {})
    spec = TaskSpec(id=f"{service_id}-spec{generation}", template_json=msgspec.json.encode(template))
    service = Service(
        id=service_id,
        name=service_id,
        spec_json=msgspec.json.encode({"Name": service_id, "Mode": mode, "EndpointSpec": endpoint, **extra}),
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
            since_ns=_ns(values.get("since", 0)),
            address=values.get("ip", ""),
            pids=int(values.get("pids", 0)),
            generic=values["generic"].replace(":", "=").split(",") if "generic" in values else (),
            engine_labels={k.removeprefix("engine."): v for k, v in values.items() if k.startswith("engine.")},
        )
        attachments = tuple(NetworkAttachment(network_id=n, address=a) for n, a in _pairs(values.get("address")))
        made = msgspec.structs.replace(made, created_at_ns=_ns(values.get("created", 0)), attachments=attachments)
        put(self.tables, made)

    def _network(self, flags: list[str], values: dict[str, str]) -> None:
        spec: dict[str, Any] = {"Name": flags[0], "Driver": values.get("driver", "overlay"), "Ingress": "ingress" in flags}
        first, *others = [*values.get("want", "").split(","), *filter(None, values.get("want6", "").split(","))]
        pool = {"Subnet": first, "Gateway": values.get("gateway", ""), "IPRange": values.get("range", "")}
        if any(pool.values()):
            aux = {f"a{n}": address for n, address in enumerate(values.get("aux", "").split(",")) if address}
            spec["IPAM"] = {"Config": [{**pool, "AuxiliaryAddresses": aux}, *({"Subnet": other} for other in others)]}
        spec["EnableIPv6"] = "ipv6" in flags
        if "vnis" in values:
            spec["Options"] = {"com.docker.network.driver.overlay.vxlanid_list": values["vnis"]}
        self._count += 1
        made = Network(
            id=flags[0],
            name=flags[0],
            spec_json=msgspec.json.encode(spec),
            vni=int(values.get("vni", 0)),
            subnet=values.get("subnet", ""),
            further_subnets=tuple(filter(None, values.get("further", "").split(","))),
            ipv6_subnet=values.get("subnet6", ""),
            gateway=values.get("gateway", values["subnet"].replace(".0/", ".1/").split("/")[0] if "subnet" in values else ""),
            created_at_ns=_ns(self._count),
        )
        put(self.tables, made)

    def _service(self, flags: list[str], values: dict[str, str]) -> None:
        generation = int(values.get("generation", 1))
        template = _template(values)
        former = _template({**values, "constraint": values["oldconstraint"]}) if "oldconstraint" in values else template
        labels = {k.removeprefix("label."): v for k, v in values.items() if k.startswith("label.")}
        previous_json, previous_id = b"{}" if "updated" in flags else None, ""
        rollback = {k.removeprefix("rollback."): v for k, v in values.items() if k.startswith("rollback.")}
        for number in range(1, generation + 1):
            replicas = int(values.get("replicas" if number == generation else "oldreplicas", values.get("replicas", 1)))
            service, spec = service_with_spec(
                flags[0],
                {**(template if number == generation else former), "ForceUpdate": 0 if "unforced" in flags else number},
                spec_generation=number,
                mode={"Global": {}} if "global" in flags else {"Replicated": {"Replicas": replicas}},
                endpoint_mode=values.get("endpoint", "vip"),
                endpoint=_endpoint(values),
                ports=msgspec.convert(_ports(values["given"], "ingress"), tuple[PortConfig, ...]) if "given" in values else (),
                previous_spec_json=previous_json,
                previous_task_spec_id=previous_id,
                virtual_ips=tuple(VirtualIP(network_id=n, address=a) for n, a in _pairs(values.get("vip"))),
                extra={
                    "UpdateConfig": _update_config(values),
                    **({"RollbackConfig": _update_config(rollback)} if rollback else {}),
                    **({"Labels": labels} if labels else {}),
                },
                update_status=_update_status(values),
            )
            previous_json, previous_id = service.spec_json, spec.id
            put(self.tables, spec)
        put(self.tables, service)

    def _task(self, flags: list[str], values: dict[str, str]) -> None:
        task_id, place, *rest = (flag for flag in flags if flag != "must_move")
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
            status=TaskStatus(
                state=state,
                at_ns=_ns(values.get("at", 0)),
                message=values.get("message", "").replace("_", " "),
                error=values.get("error", "").replace("_", " "),
            ),
            state_times=packed_state_time(TaskState.RUNNING, _ns(values["began"])) if "began" in values else b"",
            cause=values.get("cause", ""),
            host_ports=msgspec.convert(_ports(values["ports"]), tuple[PortConfig, ...]) if "ports" in values else (),
            generic_resources=parse_generic_resources(
                values["generic"].replace(":", "=").split(",") if "generic" in values else ()
            ),
            recent_failures=tuple(
                TaskFailure(task_id=f, node_id=n, at_ns=_ns(at)) for f, n, at in _triples(values.get("failures", ""))
            ),
            earlier_outcome=values.get("earlier", ""),  # type: ignore[arg-type]
            attachments=tuple(NetworkAttachment(network_id=n, address=a) for n, a in _pairs(values.get("address"))),
            created_at_ns=_ns(values.get("created", self._count)),
            rejection=values.get("rejection", ""),
            must_move="must_move" in flags,
            updated_at_ns=_ns(values.get("updated", 0)),
            start_at_ns=_ns(values.get("start", 0)),
            restarted_at_ns=tuple(_ns(s) for s in values["restarted"].split(",")) if "restarted" in values else (),
        )
        put(self.tables, made)


def _template(values: dict[str, str]) -> dict[str, Any]:
    template: dict[str, Any] = {"ContainerSpec": {"Image": "image"}}
    if "grace" in values:
        template["ContainerSpec"]["StopGracePeriod"] = _ns(values["grace"])
    if "mount" in values:
        template["ContainerSpec"]["Mounts"] = [{"Type": values["mount"], "Source": "data", "Target": "/data"}]
    if "networks" in values:
        options = [
            ("pyswarm.addresses", _pairs(values.get("fixed"))),
            ("com.docker.network.endpoint.macaddress", _pairs(values.get("mac"))),
        ]
        template["Networks"] = [
            {"Target": n, "DriverOpts": {key: value for key, pairs in options for name, value in pairs if name == n}}
            for n in values["networks"].split(",")
        ]
    policy = {"Condition": values.get("condition", "any")}
    if "delay" in values:
        policy["Delay"] = _ns(values["delay"])
    if "attempts" in values:
        policy["MaxAttempts"] = int(values["attempts"])
    if "window" in values:
        policy["Window"] = _ns(values["window"])
    template["RestartPolicy"] = policy
    reserved: dict[str, Any] = {
        "MemoryBytes": int(values.get("memory", 0)),
        "NanoCPUs": int(float(values.get("cpus", 0)) * 1e9),
        "Pids": int(values.get("pids", 0)),
    }
    if "generic" in values:
        amounts = ({"Kind": kind, "Value": int(value)} for kind, value in _pairs(values["generic"]))
        reserved["GenericResources"] = [{"DiscreteResourceSpec": amount} for amount in amounts]
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


def _update_config(values: dict[str, str]) -> dict[str, Any] | None:
    if not {"parallelism", "update_delay", "order", "action", "monitor", "ratio"} & set(values):
        return None
    config = {"Parallelism": int(values.get("parallelism", 1)), "Delay": _ns(values.get("update_delay", 0))}
    return {
        **config,
        "Order": values.get("order", ""),
        "FailureAction": values.get("action", ""),
        "Monitor": _ns(values.get("monitor", 5)),
        "MaxFailureRatio": float(values.get("ratio", 0)),
    }


def _update_status(values: dict[str, str]) -> UpdateStatus | None:
    if "state" not in values:
        return None
    return UpdateStatus(
        state=values["state"],
        started_at_ns=_ns(values.get("started", 0)),
        unit_count=int(values.get("units", 0)),
        renewed_at_ns=_ns(values.get("renewed", 0)),
    )


def _triples(text: str) -> list[tuple[str, str, str]]:
    return [tuple(part.split(":")) for part in text.split(",")] if text else []  # type: ignore[misc]


def _endpoint(values: dict[str, str]) -> dict[str, Any]:
    ports = [port for key, mode in (("mesh", "ingress"), ("ports", "host")) if key in values for port in _ports(values[key], mode)]
    return {"Ports": ports} if ports else {}


def _ports(text: str, mode: str = "") -> list[dict[str, Any]]:
    """Ports such as `80,53/udp`, with equal target ports; 0 and the dynamic ones lead to port 80."""
    ports = (port.partition("/") for port in text.split(","))
    return [
        {
            "Protocol": protocol or "tcp",
            "PublishedPort": int(number),
            "TargetPort": int(number) if 0 < int(number) < 30000 else 80,
            **({"PublishMode": mode} if mode else {}),
        }
        for number, _, protocol in ports
    ]


def _pairs(text: str | None) -> list[tuple[str, str]]:
    return [tuple(part.split(":", 1)) for part in text.split(",")] if text else []  # type: ignore[misc]


def _ns(seconds: str | int | float) -> int:
    return int(float(seconds) * SECOND_NS)
