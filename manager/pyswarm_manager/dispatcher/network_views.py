"""What every node must know of each overlay, computed from the store's picture.

A view holds the tasks that have a place on the network and each service's names, VIP and running backends. A view's version is
the store's version at which it was computed, so every leader numbers the same content alike. Each new version is encoded once,
whole (when a node needs it so) and as a delta from the version before, however many nodes get it. Pure but for its own cache.

A view is computed from all its tasks when its network or one of its services changed; when only tasks did, or the nodes below them,
just these are looked at: a node with a hundred tasks on thirty large networks must not hold up the event loop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import msgspec

from pyswarm_common import wire
from pyswarm_common.objects import Network, Node, Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.tables import View
from pyswarm_manager.task_names import attachment_names, full_task_name


@dataclass(frozen=True)
class PublishedView:
    """One version of a view, ready to send: `delta` leads from `delta_from` to it."""

    view: wire.NetworkView
    delta_from: int
    delta: msgspec.Raw

    @cached_property
    def whole(self) -> msgspec.Raw:
        """All of it, encoded."""
        return msgspec.Raw(wire.encode(self.view))


class NetworkViews:
    """The current view of each network; told of changes, it recomputes what they touch."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[str, Task]] = {}
        self._networks_of_node: dict[str, dict[str, set[str]]] = {}
        """By node and network the ids of the tasks there."""
        self._stale: set[str] = set()
        self._touched: dict[str, dict[str, str]] = {}
        """By network the tasks that changed, and the service of each."""
        self.published: dict[str, PublishedView] = {}

    def note_task(self, before: Task | None, after: Task | None) -> None:
        """A task was created, changed or deleted."""
        if before is not None:
            self._touch(before)
            for attachment in before.attachments:
                self._drop(before, attachment.network_id)
        if after is not None:
            self._touch(after)
            for attachment in after.attachments:
                self._keep(after, attachment.network_id)

    def note_service(self, before: Service | None, after: Service | None) -> None:
        """A service was created, changed or deleted."""
        for service in (before, after):
            self._stale.update(v.network_id for v in service.virtual_ips) if service else None

    def note_network(self, before: Network | None, after: Network | None) -> None:
        """A network was created, changed or deleted."""
        network = after or before
        if network is not None:
            self._stale.add(network.id)

    def note_node(self, before: Node | None, after: Node | None) -> None:
        """A node changed: where its tasks are reached, or whether they are."""
        if before is None or after is None or _place_of(before) != _place_of(after):
            node_id = (after or before).id if (after or before) else ""  # type: ignore[union-attr]
            for network_id, task_ids in self._networks_of_node.get(node_id, {}).items():
                for task_id in task_ids:
                    self._touch(self._tasks[network_id][task_id])

    def refresh(self, view: View, version: int) -> set[str]:
        """Recompute what is stale; returns the ids of the networks whose content changed or that are gone."""
        changed: set[str] = set()
        for network_id in sorted(self._stale | self._touched.keys()):
            network = view.networks.get(network_id)
            published = self.published.get(network_id)
            if network is None or not network.vni:
                if self.published.pop(network_id, None) is not None:
                    changed.add(network_id)
                continue
            tasks = self._tasks.get(network_id, {})
            if published is None or network_id in self._stale:
                after = compute_view(view, network, tasks.values(), version)
            else:
                after = updated_view(view, published.view, tasks, self._touched[network_id], version)
            if published is None or msgspec.structs.replace(after, version=published.view.version) != published.view:
                self.published[network_id] = _publish(published.view if published else None, after)
                changed.add(network_id)
        self._stale.clear()
        self._touched.clear()
        return changed

    def _touch(self, task: Task) -> None:
        for attachment in task.attachments:
            self._touched.setdefault(attachment.network_id, {})[task.id] = task.service_id

    def _keep(self, task: Task, network_id: str) -> None:
        self._tasks.setdefault(network_id, {})[task.id] = task
        if task.node_id:
            self._networks_of_node.setdefault(task.node_id, {}).setdefault(network_id, set()).add(task.id)

    def _drop(self, task: Task, network_id: str) -> None:
        tasks, on_node = self._tasks.get(network_id, {}), self._networks_of_node.get(task.node_id, {})
        tasks.pop(task.id, None)
        if not tasks:
            self._tasks.pop(network_id, None)
        if network_id in on_node:
            on_node[network_id].discard(task.id)
            if not on_node[network_id]:
                del on_node[network_id]
        if task.node_id and not on_node:
            self._networks_of_node.pop(task.node_id, None)


def compute_view(view: View, network: Network, tasks: Iterable[Task], version: int) -> wire.NetworkView:
    """Return the network's view: endpoints of placed, living tasks; services with their VIP and running backends."""
    endpoints: dict[str, wire.Endpoint] = {}
    backends: dict[str, set[str]] = {}
    for task in sorted(tasks, key=lambda t: t.id):
        endpoint = _endpoint(view, network.id, task)
        if endpoint is not None:
            endpoints[task.id] = endpoint
            if _is_backend(task):
                backends.setdefault(task.service_id, set()).add(_bare(endpoint))
    return wire.NetworkView(
        network_id=network.id,
        name=network.name,
        version=version,
        vni=network.vni,
        subnet=network.subnet,
        gateway=network.gateway,
        data_path_port=view.cluster.data_path_port,
        internal=network.spec.internal,
        endpoints=endpoints,
        services={
            s.id: e for s in view.services if (e := _service_endpoints(view, s, network.id, backends.get(s.id, ()))) is not None
        },
    )


def updated_view(
    view: View, before: wire.NetworkView, tasks: Mapping[str, Task], touched: Mapping[str, str], version: int
) -> wire.NetworkView:
    """Return the view after some tasks, or the nodes below them, changed: `touched` are their ids, and the service of each.

    `tasks` are those on the network now. The same as `compute_view` gives as long as network and services stayed as they were.
    """
    endpoints, gone, come = dict(before.endpoints), dict[str, set[str]](), dict[str, set[str]]()
    for task_id, service_id in touched.items():
        left, task = endpoints.pop(task_id, None), tasks.get(task_id)
        endpoint = _endpoint(view, before.network_id, task) if task is not None else None
        if left is not None:
            gone.setdefault(service_id, set()).add(_bare(left))
        if task is not None and endpoint is not None:
            endpoints[task_id] = endpoint
            if _is_backend(task):
                come.setdefault(service_id, set()).add(_bare(endpoint))
    services = dict(before.services)
    for service_id in dict.fromkeys(touched.values()):
        service, held = view.services.get(service_id), services.pop(service_id, None)
        if service is not None:
            backends = set(held.backends if held else ()) - gone.get(service_id, set()) | come.get(service_id, set())
            changed = _service_endpoints(view, service, before.network_id, backends)
            if changed is not None:
                services[service_id] = changed
    return msgspec.structs.replace(before, version=version, endpoints=endpoints, services=services)


def _endpoint(view: View, network_id: str, task: Task) -> wire.Endpoint | None:
    """Where a task is reached; None when it is not placed, has ended, or its node is down."""
    node = view.nodes.get(task.node_id)
    if node is None or task.is_terminal or task.status.state < TaskState.ASSIGNED or node.status.state == "down":
        return None
    service = view.services.get(task.service_id)
    address = next(a.address for a in task.attachments if a.network_id == network_id)
    if task.attached_container_id:
        name, *aliases = attachment_names(task, network_id, view)
        return wire.Endpoint(address=address, data_path_address=_place_of(node)[0], name=name, aliases=tuple(aliases))
    name = full_task_name(task, service) if service else task.id
    return wire.Endpoint(address=address, data_path_address=_place_of(node)[0], name=name)


def _is_backend(task: Task) -> bool:
    """One that runs with an error is unhealthy: its agent is about to stop it."""
    is_serving = task.status.state is TaskState.RUNNING and not task.status.error
    return is_serving and task.desired_state is TaskState.RUNNING


def _bare(endpoint: wire.Endpoint) -> str:
    return endpoint.address.partition("/")[0]


def _service_endpoints(view: View, service: Service, network_id: str, backends: Iterable[str]) -> wire.ServiceEndpoints | None:
    spec = view.task_specs.get(service.task_spec_id)
    config = next((n for n in (spec.template.networks if spec else None) or () if n.target == network_id), None)
    virtual_ip = next((v.address for v in service.virtual_ips if v.network_id == network_id), "")
    if config is None and not virtual_ip:
        return None
    return wire.ServiceEndpoints(
        names=(service.name, *(config.aliases or () if config else ())),
        virtual_ip=virtual_ip.partition("/")[0],
        backends=tuple(sorted(backends, key=_numeric)),
    )


@lru_cache(maxsize=65_536)
def _numeric(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in address.split("."))


def _place_of(node: Node) -> tuple[str, bool]:
    return node.description.data_path_address or node.status.address, node.status.state == "down"


def _publish(before: wire.NetworkView | None, after: wire.NetworkView) -> PublishedView:
    delta = wire.view_delta(before, after) if before is not None and _same_frame(before, after) else None
    return PublishedView(
        view=after,
        delta_from=before.version if before is not None and delta is not None else -1,
        delta=msgspec.Raw(wire.encode(delta)) if delta is not None else msgspec.Raw(),
    )


def _same_frame(before: wire.NetworkView, after: wire.NetworkView) -> bool:
    return (before.vni, before.subnet, before.gateway, before.name, before.data_path_port, before.internal) == (
        after.vni,
        after.subnet,
        after.gateway,
        after.name,
        after.data_path_port,
        after.internal,
    )
