"""What every node must know of each overlay, computed from the store's picture.

A view holds the tasks that have a place on the network and each service's names, VIP and running backends. A view's version is
the store's version at which it was computed, so every leader numbers the same content alike. Each new version is encoded once,
whole and as a delta from the version before, however many nodes get it. Pure but for its own cache.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from pyswarm_common import wire
from pyswarm_common.objects import Network, Node, Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.tables import View


@dataclass(frozen=True)
class PublishedView:
    """One version of a view, ready to send: `delta` leads from `delta_from` to it."""

    view: wire.NetworkView
    whole: msgspec.Raw
    delta_from: int
    delta: msgspec.Raw


class NetworkViews:
    """The current view of each network; told of changes, it recomputes the networks that they touch."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[str, Task]] = {}
        self._stale: set[str] = set()
        self.published: dict[str, PublishedView] = {}

    def note_task(self, before: Task | None, after: Task | None) -> None:
        """A task was created, changed or deleted."""
        for attachment in before.attachments if before else ():
            self._tasks.get(attachment.network_id, {}).pop(before.id if before else "", None)
            self._stale.add(attachment.network_id)
        for attachment in after.attachments if after else ():
            if after is not None:
                self._tasks.setdefault(attachment.network_id, {})[after.id] = after
            self._stale.add(attachment.network_id)

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
            self._stale.update(n for n, tasks in self._tasks.items() if any(t.node_id == node_id for t in tasks.values()))

    def refresh(self, view: View, version: int) -> set[str]:
        """Recompute the stale networks; returns the ids of those whose content changed or that are gone."""
        changed: set[str] = set()
        for network_id in self._stale:
            network = view.networks.get(network_id)
            before = self.published.get(network_id)
            if network is None or not network.vni:
                if self.published.pop(network_id, None) is not None:
                    changed.add(network_id)
                if network is None:
                    self._tasks.pop(network_id, None)
                continue
            after = compute_view(view, network, self._tasks.get(network_id, {}).values(), version)
            if before is None or msgspec.structs.replace(after, version=before.view.version) != before.view:
                self.published[network_id] = _publish(before.view if before else None, after)
                changed.add(network_id)
        self._stale.clear()
        return changed


def compute_view(view: View, network: Network, tasks: Iterable[Task], version: int) -> wire.NetworkView:
    """Return the network's view: endpoints of placed, living tasks; services with their VIP and running backends."""
    endpoints: dict[str, wire.Endpoint] = {}
    backends: dict[str, list[str]] = {}
    for task in sorted(tasks, key=lambda t: t.id):
        node = view.nodes.get(task.node_id)
        if node is None or task.is_terminal or task.status.state < TaskState.ASSIGNED or node.status.state == "down":
            continue
        service = view.services.get(task.service_id)
        address = next(a.address for a in task.attachments if a.network_id == network.id)
        name = f"{service.name}.{task.slot}.{task.id}" if service else task.id
        endpoints[task.id] = wire.Endpoint(address=address, data_path_address=_place_of(node)[0], name=name)
        if task.status.state is TaskState.RUNNING and task.desired_state is TaskState.RUNNING and service is not None:
            backends.setdefault(service.id, []).append(address.partition("/")[0])
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
        services={s.id: e for s in view.services if (e := _service_endpoints(view, s, network.id, backends)) is not None},
    )


def _service_endpoints(
    view: View, service: Service, network_id: str, backends: dict[str, list[str]]
) -> wire.ServiceEndpoints | None:
    spec = view.task_specs.get(service.task_spec_id)
    config = next((n for n in (spec.template.networks if spec else None) or () if n.target == network_id), None)
    virtual_ip = next((v.address for v in service.virtual_ips if v.network_id == network_id), "")
    if config is None and not virtual_ip:
        return None
    return wire.ServiceEndpoints(
        names=(service.name, *(config.aliases or () if config else ())),
        virtual_ip=virtual_ip.partition("/")[0],
        backends=tuple(sorted(backends.get(service.id, ()), key=_numeric)),
    )


def _numeric(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in address.split("."))


def _place_of(node: Node) -> tuple[str, bool]:
    return node.description.data_path_address or node.status.address, node.status.state == "down"


def _publish(before: wire.NetworkView | None, after: wire.NetworkView) -> PublishedView:
    delta = wire.view_delta(before, after) if before is not None and _same_frame(before, after) else None
    return PublishedView(
        view=after,
        whole=msgspec.Raw(wire.encode(after)),
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
