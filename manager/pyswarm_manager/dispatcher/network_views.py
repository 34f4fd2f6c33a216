"""The current view of every overlay, kept up to date as the store changes, and each version of it encoded once.

A view's version is the store's version at which it was computed; content that stays as it was keeps its version. Each new version
is encoded once, whole (when a node needs it so) and as a delta from the version before, however many nodes get it. What a view says
is `view_content.py`'s to decide; here is only what has to be looked at again. Pure but for its own cache.
"""

from dataclasses import dataclass
from functools import cached_property

import msgspec

from pyswarm_common import wire
from pyswarm_common.objects import Network, Node, Service, Task
from pyswarm_manager.dispatcher.view_content import (
    NodeFacts,
    Touched,
    compute_view,
    networks_of,
    node_facts,
    place_of,
    updated_view,
)
from pyswarm_manager.store.tables import View

__all__ = ["NetworkViews", "PublishedView", "compute_view"]


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
        self._ingress_ids: set[str] = set()
        self._facts = NodeFacts()
        self._are_facts_stale = True
        self._touched: dict[str, Touched] = {}
        self._touched_services: set[str] = set()
        self._renamed_services: set[str] = set()
        """Those that are new or gone: their tasks are called something else now."""
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
        if before is None or after is None or _told_of_service(before) != _told_of_service(after):
            self._touched_services.update(service.id for service in (before, after) if service is not None)
        if before is None or after is None or before.name != after.name:
            self._renamed_services.update(service.id for service in (before, after) if service is not None)

    def note_network(self, before: Network | None, after: Network | None) -> None:
        """A network was created, changed or deleted."""
        network = after or before
        if network is None:
            return
        self._touched.setdefault(network.id, Touched())
        if after is not None and after.spec.ingress:
            self._ingress_ids.add(network.id)
        else:
            self._ingress_ids.discard(network.id)

    def note_node(self, before: Node | None, after: Node | None) -> None:
        """A node changed: where its tasks are reached, or whether they are; what is told of the node itself."""
        if before is None or after is None or _told_of_node(before) != _told_of_node(after):
            self._are_facts_stale = True
        if before is None or after is None or place_of(before) != place_of(after):
            node_id = (after or before).id if (after or before) else ""  # type: ignore[union-attr]
            for network_id, task_ids in self._networks_of_node.get(node_id, {}).items():
                for task_id in task_ids:
                    self._touch(self._tasks[network_id][task_id])

    def refresh(self, view: View, version: int) -> set[str]:
        """Recompute what is stale; returns the ids of the networks whose content changed or that are gone."""
        self._take_services(view)
        self._take_facts(view)
        touched, self._touched = self._touched, {}
        is_any_new = any(network_id not in self.published for network_id in touched)
        services = self._services_by_network(view) if is_any_new else {}
        changed: set[str] = set()
        for network_id in sorted(touched):
            network, published = view.networks.get(network_id), self.published.get(network_id)
            tasks = self._tasks.get(network_id, {})
            if network is None or not network.vni:
                if self.published.pop(network_id, None) is not None:
                    changed.add(network_id)
                continue
            if published is None:
                on_it = services.get(network_id, ())
                whole = compute_view(view, network, tasks.values(), version, facts=self._facts, services=on_it)
                self.published[network_id] = PublishedView(whole, -1, msgspec.Raw())
                changed.add(network_id)
                continue
            after = updated_view(view, network, published.view, tasks, touched[network_id], version, self._facts)
            following = _following(published.view, after, touched[network_id])
            if following is not None:
                self.published[network_id] = following
                changed.add(network_id)
        return changed

    def _take_services(self, view: View) -> None:
        """Touch the networks that the changed services are on now, and those whose views name them still."""
        for service_id in self._touched_services:
            service = view.services.get(service_id)
            network_ids = networks_of(view, service, self._ingress_ids) if service is not None else set()
            network_ids.update(n for n, published in self.published.items() if service_id in published.view.services)
            for network_id in network_ids:
                self._touched.setdefault(network_id, Touched()).services.add(service_id)
        for service_id in self._renamed_services:
            for task in view.tasks.of_service(service_id):
                self._touch(task)
        self._touched_services.clear()
        self._renamed_services.clear()

    def _take_facts(self, view: View) -> None:
        """Touch the networks whose views say something else now of the nodes."""
        if not self._are_facts_stale:
            return
        self._are_facts_stale = False
        before, after = self._facts, node_facts(view.nodes)
        self._facts = after
        has_other_mtu = before.smallest_underlay_mtu_bytes != after.smallest_underlay_mtu_bytes
        for network_id, published in self.published.items():
            has_other_gateways = before.gateways.get(network_id, {}) != after.gateways.get(network_id, {})
            has_other_keys = published.view.is_encrypted and before.keys != after.keys
            if has_other_mtu or has_other_gateways or has_other_keys:
                self._touched.setdefault(network_id, Touched())

    def _services_by_network(self, view: View) -> dict[str, list[Service]]:
        found: dict[str, list[Service]] = {}
        for service in view.services:
            for network_id in networks_of(view, service, self._ingress_ids):
                found.setdefault(network_id, []).append(service)
        return found

    def _touch(self, task: Task) -> None:
        for attachment in task.attachments:
            self._touched.setdefault(attachment.network_id, Touched()).tasks[task.id] = task.service_id

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


def _told_of_service(service: Service) -> tuple[object, ...]:
    return service.name, service.spec_json, service.task_spec_id, service.virtual_ips, service.ports


def _told_of_node(node: Node) -> tuple[object, ...]:
    description = node.description
    keys = (description.wireguard_key, description.wireguard_port, description.underlay_mtu_bytes, description.hostname)
    return place_of(node), node.attachments, keys


def _following(before: wire.NetworkView, after: wire.NetworkView, touched: Touched) -> PublishedView | None:
    """Return the next version; None when it says the same. Only what was touched is compared: views may be large."""
    delta = wire.view_delta(before, after, task_ids=touched.tasks, service_ids=touched.service_ids)
    nothing = wire.NetworkViewDelta(network_id=after.network_id, from_version=before.version, to_version=after.version)
    return PublishedView(after, before.version, msgspec.Raw(wire.encode(delta))) if delta != nothing else None
