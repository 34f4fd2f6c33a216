"""What networks, nodes, services and tasks get: VXLAN ids and subnets, virtual IPs, published ports, addresses. Pure.

First every network without a VXLAN id, then (when asked) the nodes their place on the ingress network, then the services asked
about (and those with new tasks) their ports and VIPs, then the new tasks their addresses, which makes them PENDING. A task waits
for its networks and for its service's VIPs and ports; what keeps it stands in its `status.error`, a network's or service's trouble
in its `allocation_error`. Nothing is remembered: whatever could not be given is tried again at each look.

A network that gets its subnets from the cluster's pool gets a further one before it is full.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from pyswarm_common.objects import Network, NetworkAttachment, Node, Service, Task, VirtualIP
from pyswarm_common.own_networks import own_network_of
from pyswarm_common.specs import SECOND_NS, NetworkAttachmentConfig, PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator import ipam, subnets
from pyswarm_manager.allocator.address_book import AddressBook, exhausted
from pyswarm_manager.allocator.mesh_ports import (
    NO_INGRESS,
    MeshPorts,
    NoPortLeft,
    PortBook,
    PortConflict,
    ingress_network,
    kept_ports,
)
from pyswarm_manager.allocator.task_addresses import Blocked, Place, attach, place_on
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft, with_status
from pyswarm_manager.store.tables import View

RETRY_NS = 5 * SECOND_NS
"""When a service that could not get its VIP or ports is looked at again, if nothing happens before."""
NEW_TASKS = ""
"""The key under which the decisions postpone tasks and networks; looking at any key looks at these too."""
NODES = "nodes"
"""The key under which all nodes are looked at."""


def decide(
    view: View,
    now_ns: int,
    limit: int | None = DEFAULT_LIMIT,
    *,
    service_ids: Iterable[str] | None = None,
    last_given: Mapping[str, int] | None = None,
) -> Decisions:
    """Return what networks, new tasks, and the services with these ids get, and the nodes if NODES is among them (None: all).

    `last_given`: the addresses given last, by network, as far as the caller remembers them.
    """
    return Allocation(view, now_ns, limit, last_given or {}).run(service_ids)


def last_addresses(decisions: Decisions) -> dict[str, int]:
    """Return, by network, the last of the addresses that these decisions give."""
    last: dict[str, int] = {}
    for item in decisions.updated:
        places = item.virtual_ips if isinstance(item, Service) else item.attachments if isinstance(item, Task | Node) else ()
        last.update({place.network_id: ipam.parse_address(place.address) for place in places})
    return last


class Allocation:
    """One look at everything that may lack something."""

    def __init__(self, view: View, now_ns: int, limit: int | None, last_given: Mapping[str, int]) -> None:
        self._view = view
        self._now_ns = now_ns
        self._draft = Draft(view, limit)
        self._book = AddressBook(view, last_given)
        self._ports = PortBook(view.derived(MeshPorts))
        self._ingress = ingress_network(view)
        self._new_networks: dict[str, Network] = {}
        self._new_services: dict[str, Service] = {}
        self._fully_grown: set[str] = set()
        """Networks for which the pool has no further subnet."""

    def run(self, service_ids: Iterable[str] | None) -> Decisions:
        """Take all steps."""
        self._allocate_networks()
        tasks = [t for t in self._view.tasks.unplaced(TaskState.NEW) if t.desired_state <= TaskState.RUNNING]
        tasks.sort(key=lambda t: (t.created_at_ns, t.service_id, t.slot, t.id))
        asked = [NODES, *sorted(s.id for s in self._view.services)] if service_ids is None else list(service_ids)
        if NODES in asked:
            self._allocate_nodes()
        for service_id in dict.fromkeys([*asked, *(t.service_id for t in tasks)]):
            service = self._view.services.get(service_id)
            if service is not None:
                self._allocate_service(service)
        for task in tasks:
            if not self._draft.has_room():
                self._draft.postpone([NEW_TASKS])
                break
            self._allocate_task(task)
        return self._draft.finish()

    def _allocate_networks(self) -> None:
        waiting = [n for n in self._view.networks if not n.vni and n.spec.driver == "overlay"]
        for network in sorted(waiting, key=lambda n: (n.created_at_ns, n.id)):
            if not self._draft.has_room():
                self._draft.postpone([NEW_TASKS])
                return
            try:
                allocated = subnets.place(self._view.cluster, network, self._others(network))
            except ipam.PoolError as error:
                allocated = msgspec.structs.replace(network, allocation_error=str(error))
            self._put_network(allocated)

    def _allocate_nodes(self) -> None:
        """Give each node its address on the ingress network, and take those on a former one back."""
        ingress = self._network(self._ingress.id) if self._ingress is not None else None
        for node in sorted(self._view.nodes, key=lambda n: (n.created_at_ns, n.id)):
            kept = tuple(a for a in node.attachments if ingress is not None and a.network_id == ingress.id)
            lacks = ingress is not None and bool(ingress.vni) and not kept
            if kept == node.attachments and not lacks:
                continue
            if lacks and ingress is not None:
                self._make_room(ingress)
                ingress = self._network(ingress.id)
            if not self._draft.has_room():
                self._draft.postpone([NODES])
                return
            address = self._book.give(ingress) if lacks and ingress is not None else None
            if address is not None and ingress is not None:
                kept = (NetworkAttachment(network_id=ingress.id, address=address),)
            elif lacks:
                self._draft.wake(NODES, self._now_ns + RETRY_NS)
            self._draft.update(msgspec.structs.replace(node, attachments=kept))

    def _allocate_service(self, service: Service) -> None:
        if service.id in self._new_services:
            return
        ports, error = self._ports_of(service)
        kept = {vip.network_id: vip for vip in service.virtual_ips}
        vips: list[VirtualIP] = []
        for network_id in self._vip_networks(service):
            vip = kept.get(network_id) or self._new_vip(network_id)
            if vip is None:
                self._draft.wake(service.id, self._now_ns + RETRY_NS)
            else:
                vips.append(vip)
        allocated = msgspec.structs.replace(service, virtual_ips=tuple(vips), ports=ports, allocation_error=error)
        if allocated != service and not self._draft.has_room():
            self._draft.postpone([service.id])
            for vip in vips:
                if vip.network_id not in kept:
                    self._book.take_back(self._network(vip.network_id), vip.address)
            return
        self._ports.note(service.id, ports)
        self._new_services[service.id] = allocated
        self._draft.update(allocated)

    def _ports_of(self, service: Service) -> tuple[tuple[PortConfig, ...], str]:
        """The ports that a service gets now, and why it does not get all."""
        if not service.ports and not kept_ports(service):
            return (), ""
        if service.spec.publishes_in_mesh and self._ingress is None:  # stored when nobody had a routing mesh
            return tuple(p for p in kept_ports(service) if p.publish_mode == "host"), NO_INGRESS
        try:
            outcome = self._ports.assign(service)
            if isinstance(outcome, PortConflict) and outcome.is_passing:
                self._allocate_service(self._view.services.must_get(outcome.service_id))
                outcome = self._ports.assign(service)
        except NoPortLeft as error:
            self._draft.wake(service.id, self._now_ns + RETRY_NS)
            return (), str(error)
        if not isinstance(outcome, PortConflict):
            return outcome, ""
        self._draft.wake(service.id, self._now_ns + RETRY_NS)
        other = self._view.services.must_get(outcome.service_id)
        return (), f"port '{outcome.port}' is already in use by service '{other.name}' ({other.id})"

    def _new_vip(self, network_id: str) -> VirtualIP | None:
        if self._view.networks.get(network_id) is None or not self._network(network_id).vni:
            return None
        self._make_room(self._network(network_id))
        address = self._book.give(self._network(network_id))
        return VirtualIP(network_id=network_id, address=address) if address else None

    def _vip_networks(self, service: Service) -> list[str]:
        spec = service.spec
        if spec.endpoint_mode != "vip":
            return []
        task_spec = self._view.task_specs.get(service.task_spec_id)
        configs = (task_spec.template.networks if task_spec else None) or spec.networks
        ingress = [self._ingress.id] if self._ingress is not None and spec.publishes_in_mesh else []
        return list(dict.fromkeys([*ingress, *self._overlays(configs)]))

    def _overlays(self, configs: Iterable[NetworkAttachmentConfig] | None) -> dict[str, NetworkAttachmentConfig]:
        """The targets that need an address from us, in their order."""
        networks = self._view.networks
        found: dict[str, NetworkAttachmentConfig] = {}
        for config in configs or ():
            network = networks.get(config.target)
            if not own_network_of(config.target) and (network is None or network.spec.driver == "overlay"):
                found.setdefault(config.target, config)
        return found

    def _allocate_task(self, task: Task) -> None:
        outcome = self._attachments(task)
        if isinstance(outcome, Blocked):
            status = msgspec.structs.replace(task.status, error=outcome.reason)
            self._draft.update(msgspec.structs.replace(task, status=status))
            return
        pending = with_status(task, TaskState.PENDING, self._now_ns, "pending task scheduling")
        self._draft.update(msgspec.structs.replace(pending, attachments=outcome))

    def _attachments(self, task: Task) -> tuple[NetworkAttachment, ...] | Blocked:
        spec = self._view.task_specs.get(task.task_spec_id)
        service = self._view.services.get(task.service_id)
        if task.service_id and service is None:
            return Blocked(task.status.error)
        configs = (spec.template.networks if spec else None) or (service.spec.networks if service else None)
        targets: dict[str, NetworkAttachmentConfig | None] = dict(self._overlays(configs))
        if service is not None and self._ingress is not None and service.spec.publishes_in_mesh:
            targets[self._ingress.id] = None
        for network_id in targets:
            reason = self._obstacle(service, network_id)
            if reason is not None:
                return Blocked(reason)
        places = list(self._places(targets))
        blocked = next((place for place in places if isinstance(place, Blocked)), None)
        if blocked is not None:
            return blocked
        if not self._draft.has_room():  # a network's growth took it
            self._draft.postpone([NEW_TASKS])
            return Blocked(task.status.error)
        return attach(self._book, [place for place in places if isinstance(place, Place)], task, service)

    def _places(self, targets: Mapping[str, NetworkAttachmentConfig | None]) -> Iterator[Place | Blocked]:
        for network_id, config in targets.items():
            self._make_room(self._network(network_id))
            yield place_on(self._network(network_id), config)

    def _obstacle(self, service: Service | None, network_id: str) -> str | None:
        """What keeps a task from this network: a text, "" for what will pass soon; None when nothing does."""
        if network_id not in self._view.networks:
            return f"network {network_id} not found"
        network = self._network(network_id)
        if not network.vni:
            return network.allocation_error and f"network {network.name}: {network.allocation_error}"
        if service is None:
            return None
        allocated = self._new_services.get(service.id, service)
        if network.spec.ingress and allocated.allocation_error:
            return allocated.allocation_error
        if network_id not in self._vip_networks(service) or any(v.network_id == network_id for v in allocated.virtual_ips):
            return None
        return exhausted(network) if self._book.is_exhausted(network) else ""

    def _make_room(self, network: Network) -> None:
        """Give a network that is nearly full a further subnet; leaves room in the draft for what wants the address."""
        if network.id in self._fully_grown or not subnets.is_growing(network) or not self._book.needs_room(network):
            return
        if not self._draft.has_room(2) and network.id not in self._new_networks:
            self._draft.postpone([NEW_TASKS])
            return
        larger = subnets.grown(self._view.cluster, network, self._others(network))
        if larger is None:
            self._fully_grown.add(network.id)
        else:
            self._put_network(larger)
            self._book.note_growth(larger)

    def _put_network(self, network: Network) -> None:
        self._new_networks[network.id] = network
        self._draft.update(network)

    def _others(self, network: Network) -> list[Network]:
        return [self._new_networks.get(n.id, n) for n in self._view.networks if n.id != network.id]

    def _network(self, network_id: str) -> Network:
        return self._new_networks.get(network_id) or self._view.networks.must_get(network_id)
