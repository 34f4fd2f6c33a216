"""What the view of one network says, from the store's picture: whole, or as the change that some tasks and services make; pure.

A view holds the tasks that have a place on the network, each service's names, VIP and running backends, and what nodes must know of
each other there. On the ingress network services stand with the ports that the routing mesh publishes for them, and with nothing
else; the nodes have addresses of their own there.

A view is computed from all its tasks when it is new; from then on only what changed is looked at: a node with a hundred tasks on
thirty large networks, or a service more on an ingress network that all share, must not hold up the event loop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from pyswarm_common import wire
from pyswarm_common.mtu import overlay_mtu_bytes
from pyswarm_common.network_options import MTU, is_encrypted
from pyswarm_common.network_view import order_of_address
from pyswarm_common.objects import Network, NetworkAttachment, Node, Service, Task
from pyswarm_common.service_labels import balancing_of
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.tables import View
from pyswarm_manager.task_names import attachment_names, full_task_name


@dataclass(frozen=True)
class NodeFacts:
    """What views say of nodes, whatever their tasks. `gateways`: by network id and node id; `keys`: by data path address."""

    smallest_underlay_mtu_bytes: int = 0
    """Of all nodes that told it, also those that are down: they return, and packets must not change their size for each."""
    keys: dict[str, wire.NodeKey] = field(default_factory=dict)
    gateways: Mapping[str, dict[str, wire.Endpoint]] = field(default_factory=dict)


@dataclass
class Touched:
    """What may have changed of a network since its view was computed: tasks, with the service of each, and services."""

    tasks: dict[str, str] = field(default_factory=dict)
    services: set[str] = field(default_factory=set)

    @property
    def service_ids(self) -> list[str]:
        """All services whose backends, or what else is said of them, may have changed."""
        return list(dict.fromkeys([*self.tasks.values(), *self.services]))


def node_facts(nodes: Iterable[Node]) -> NodeFacts:
    """Return what views say of the nodes; of those that are down nothing."""
    nodes = list(nodes)
    underlays = [node.description.underlay_mtu_bytes for node in nodes if node.description.underlay_mtu_bytes]
    keys: dict[str, wire.NodeKey] = {}
    gateways: dict[str, dict[str, wire.Endpoint]] = {}
    for node in nodes:
        address, is_down = place_of(node)
        if is_down:
            continue
        if node.description.wireguard_key:
            keys[address] = wire.NodeKey(public_key=node.description.wireguard_key, port=node.description.wireguard_port)
        for attachment in node.attachments:
            endpoint = wire.Endpoint(
                address=attachment.address, data_path_address=address, name=node.description.hostname, mac=attachment.mac
            )
            gateways.setdefault(attachment.network_id, {})[node.id] = endpoint
    return NodeFacts(min(underlays, default=0), keys, gateways)


def compute_view(
    view: View,
    network: Network,
    tasks: Iterable[Task],
    version: int,
    *,
    facts: NodeFacts | None = None,
    services: Iterable[Service] | None = None,
) -> wire.NetworkView:
    """Return the network's view. `facts` as of `view`; `services`: those that may be on it (None: look at all)."""
    endpoints: dict[str, wire.Endpoint] = {}
    backends: dict[str, set[str]] = {}
    for task in sorted(tasks, key=lambda t: t.id):
        endpoint = _endpoint(view, network.id, task)
        if endpoint is not None:
            endpoints[task.id] = endpoint
            if is_backend(task):
                backends.setdefault(task.service_id, set()).add(_bare(endpoint))
    told: dict[str, wire.ServiceEndpoints] = {}
    for service in view.services if services is None else services:
        found = _service_endpoints(view, service, network, backends.get(service.id, ()))
        if found is not None:
            told[service.id] = found
    frame = _frame(view, network, node_facts(view.nodes) if facts is None else facts, version)
    return msgspec.structs.replace(frame, endpoints=endpoints, services=told)


def updated_view(
    view: View,
    network: Network,
    before: wire.NetworkView,
    tasks: Mapping[str, Task],
    touched: Touched,
    version: int,
    facts: NodeFacts,
) -> wire.NetworkView:
    """Return the view after something changed: the network itself, nodes, or what `touched` says. The same as `compute_view` gives.

    `tasks` are those on the network now.
    """
    endpoints, gone, come = dict(before.endpoints), dict[str, set[str]](), dict[str, set[str]]()
    for task_id, service_id in touched.tasks.items():
        left, task = endpoints.pop(task_id, None), tasks.get(task_id)
        endpoint = _endpoint(view, network.id, task) if task is not None else None
        if left is not None:
            gone.setdefault(service_id, set()).add(_bare(left))
        if task is not None and endpoint is not None:
            endpoints[task_id] = endpoint
            if is_backend(task):
                come.setdefault(service_id, set()).add(_bare(endpoint))
    services = dict(before.services)
    for service_id in touched.service_ids:
        service, held = view.services.get(service_id), services.pop(service_id, None)
        if service is not None:
            if held is None:
                backends = _backends(view, service_id, endpoints, tasks)
            else:
                backends = set(held.backends) - gone.get(service_id, set()) | come.get(service_id, set())
            changed = _service_endpoints(view, service, network, backends)
            if changed is not None:
                services[service_id] = changed
    return msgspec.structs.replace(_frame(view, network, facts, version), endpoints=endpoints, services=services)


def networks_of(view: View, service: Service, ingress_ids: Iterable[str]) -> set[str]:
    """Return the ids of the networks whose views name the service. `ingress_ids`: of the networks of the routing mesh."""
    spec = view.task_specs.get(service.task_spec_id)
    attached = {config.target for config in (spec.template.networks if spec else None) or ()}
    with_address = {virtual_ip.network_id for virtual_ip in service.virtual_ips}
    return attached | with_address | (set(ingress_ids) if mesh_ports(service) else set())


def is_backend(task: Task) -> bool:
    """Whether connections go to the task. One that runs with an error is unhealthy: its agent is about to stop it."""
    is_serving = task.status.state is TaskState.RUNNING and not task.status.error
    return is_serving and task.desired_state is TaskState.RUNNING


def place_of(node: Node) -> tuple[str, bool]:
    """Return the address that packets for the node's tasks are sent to, and whether it is down."""
    return node.description.data_path_address or node.status.address, node.status.state == "down"


def mesh_ports(service: Service) -> tuple[wire.MeshPort, ...]:
    """Return what every node publishes for the service: the ports of publish mode `ingress` that have a number."""
    return tuple(
        wire.MeshPort(protocol=port.protocol, published_port=port.published_port, target_port=port.target_port)
        for port in service.ports
        if port.publish_mode == "ingress" and port.published_port
    )


def _frame(view: View, network: Network, facts: NodeFacts, version: int) -> wire.NetworkView:
    """Return all of a view but its tasks and services."""
    spec = network.spec
    encrypted = is_encrypted(spec.options)
    return wire.NetworkView(
        network_id=network.id,
        name=network.name,
        version=version,
        vni=network.vni,
        subnet=network.subnet,
        gateway=network.gateway,
        data_path_port=view.cluster.data_path_port,
        internal=spec.internal,
        further_subnets=network.further_subnets,
        ipv6_subnet=network.ipv6_subnet,
        mtu_bytes=_mtu_bytes(spec.options or {}, facts.smallest_underlay_mtu_bytes),
        is_ingress=spec.ingress,
        is_encrypted=encrypted,
        gateways=facts.gateways.get(network.id, {}),
        node_keys=facts.keys if encrypted else {},
    )


def _mtu_bytes(options: Mapping[str, str], underlay_mtu_bytes: int) -> int:
    asked = options.get(MTU, "")
    if asked.isdigit():
        return int(asked)
    return overlay_mtu_bytes(underlay_mtu_bytes, is_encrypted=is_encrypted(options)) if underlay_mtu_bytes else 0


def _endpoint(view: View, network_id: str, task: Task) -> wire.Endpoint | None:
    """Where a task is reached; None when it is not placed, has ended, or its node is down."""
    node = view.nodes.get(task.node_id)
    if node is None or task.is_terminal or task.status.state < TaskState.ASSIGNED or node.status.state == "down":
        return None
    attachment = next(a for a in task.attachments if a.network_id == network_id)
    name, *aliases = _names(view, network_id, task)
    return _make_endpoint(attachment, place_of(node)[0], name, tuple(aliases))


def _make_endpoint(attachment: NetworkAttachment, place: str, name: str, aliases: tuple[str, ...]) -> wire.Endpoint:
    return wire.Endpoint(address=attachment.address, data_path_address=place, name=name, aliases=aliases, mac=attachment.mac)


def _names(view: View, network_id: str, task: Task) -> list[str]:
    if task.attached_container_id:
        return attachment_names(task, network_id, view)
    service = view.services.get(task.service_id)
    return [full_task_name(task, service) if service else task.id]


def _backends(view: View, service_id: str, endpoints: Mapping[str, wire.Endpoint], tasks: Mapping[str, Task]) -> set[str]:
    known = (tasks.get(task.id) for task in view.tasks.of_service(service_id) if task.id in endpoints)
    return {_bare(endpoints[task.id]) for task in known if task is not None and is_backend(task)}


def _bare(endpoint: wire.Endpoint) -> str:
    return endpoint.address.partition("/")[0]


def _service_endpoints(view: View, service: Service, network: Network, backends: Iterable[str]) -> wire.ServiceEndpoints | None:
    """Return what the view says of the service; None when it has nothing to do with the network."""
    names, virtual_ip, ports = (service.name,), "", mesh_ports(service) if network.spec.ingress else ()
    if network.spec.ingress:
        if not ports:
            return None
    else:
        spec = view.task_specs.get(service.task_spec_id)
        config = next((n for n in (spec.template.networks if spec else None) or () if n.target == network.id), None)
        virtual_ip = next((v.address for v in service.virtual_ips if v.network_id == network.id), "")
        if config is None and not virtual_ip:
            return None
        names = (service.name, *(config.aliases or () if config else ()))
    return wire.ServiceEndpoints(
        names=names,
        virtual_ip=virtual_ip.partition("/")[0],
        backends=tuple(sorted(backends, key=order_of_address)),
        balancing=balancing_of(service.spec.labels),
        ports=ports,
    )
