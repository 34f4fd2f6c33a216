"""What networks, services and tasks get: VXLAN ids and subnets, virtual IPs, addresses. Pure.

First every network without a VXLAN id, then the services asked about (and those with new tasks) their VIPs, then the new
tasks their addresses, which makes them PENDING. A task waits for its networks and for its service's VIPs; what keeps it
stands in its `status.error`, a network's trouble in its `allocation_error`. Nothing is remembered: whatever could not be
given is tried again at each look.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

import msgspec

from pyswarm_common.objects import Network, NetworkAttachment, Service, Task, VirtualIP
from pyswarm_common.specs import SECOND_NS, NetworkAttachmentConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator import ipam
from pyswarm_manager.allocator.address_book import AddressBook
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft, with_status
from pyswarm_manager.store.tables import View

VNI_LIST_OPTION = "com.docker.network.driver.overlay.vxlanid_list"
LOCAL_NETWORKS = frozenset({"bridge", "host", "none"})
"""Each node has its own of these; their tasks need no address from us."""
RETRY_NS = 5 * SECOND_NS
"""When a service that could not get its VIP is looked at again, if nothing happens before."""
NEW_TASKS = ""
"""The key under which the decisions postpone tasks and networks; looking at any key looks at these too."""


def decide(
    view: View,
    now_ns: int,
    limit: int | None = DEFAULT_LIMIT,
    *,
    service_ids: Iterable[str] | None = None,
    last_given: Mapping[str, int] | None = None,
) -> Decisions:
    """Return what networks, new tasks, and the services with these ids (None: all) get.

    `last_given`: the addresses given last, by network, as far as the caller remembers them.
    """
    return Allocation(view, now_ns, limit, last_given or {}).run(service_ids)


def last_addresses(decisions: Decisions) -> dict[str, int]:
    """Return, by network, the last of the addresses that these decisions give."""
    last: dict[str, int] = {}
    for item in decisions.updated:
        places = item.virtual_ips if isinstance(item, Service) else item.attachments if isinstance(item, Task) else ()
        last.update({place.network_id: ipam.parse_address(place.address) for place in places})
    return last


@dataclass(frozen=True)
class _Blocked:
    """Why something cannot be allocated now; "" when it only has to wait."""

    reason: str


class Allocation:
    """One look at everything that may lack something."""

    def __init__(self, view: View, now_ns: int, limit: int | None, last_given: Mapping[str, int]) -> None:
        self._view = view
        self._now_ns = now_ns
        self._draft = Draft(view, limit)
        self._book = AddressBook(view, last_given)
        self._new_networks: dict[str, Network] = {}
        self._new_services: dict[str, Service] = {}

    def run(self, service_ids: Iterable[str] | None) -> Decisions:
        """Take all steps."""
        self._allocate_networks()
        tasks = [t for t in self._view.tasks.unplaced(TaskState.NEW) if t.desired_state <= TaskState.RUNNING]
        tasks.sort(key=lambda t: (t.created_at_ns, t.service_id, t.slot, t.id))
        asked = service_ids if service_ids is not None else sorted(s.id for s in self._view.services)
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
                allocated = self._place(network)
            except ipam.PoolError as error:
                allocated = msgspec.structs.replace(network, allocation_error=str(error))
            self._new_networks[network.id] = allocated
            self._draft.update(allocated)

    def _place(self, network: Network) -> Network:
        others = [self._new_networks.get(n.id, n) for n in self._view.networks if n.id != network.id]
        spec = network.spec
        vni = ipam.next_vni({n.vni for n in others if n.vni}, (spec.options or {}).get(VNI_LIST_OPTION, ""))
        pool = next(iter((spec.ipam.config if spec.ipam else None) or ()), None)
        taken = {n.name: ipam.parse_network(n.subnet) for n in others if n.subnet}
        if pool is not None and pool.subnet:
            subnet = ipam.parse_network(pool.subnet)
            for name, other in taken.items():
                if subnet.overlaps(other):
                    raise ipam.PoolError(f"subnet {subnet} overlaps with {other} of network {name}")
        else:
            subnet = self._free_subnet(taken.values(), is_ingress=spec.ingress)
        made = ipam.make_subnet(str(subnet), pool.gateway if pool else "", pool.ip_range if pool else "")
        gateway = ipam.address_text(made.gateway)
        return msgspec.structs.replace(network, vni=vni, subnet=str(subnet), gateway=gateway, allocation_error="")

    def _free_subnet(self, taken: Iterable[IPv4Network], *, is_ingress: bool) -> IPv4Network:
        cluster = self._view.cluster
        free = ipam.next_subnet(cluster.default_address_pool, cluster.subnet_prefix_length, taken, skip_first=not is_ingress)
        if free is None:
            raise ipam.PoolError(f"no subnet is left in the address pool {cluster.default_address_pool}")
        return free

    def _allocate_service(self, service: Service) -> None:
        kept = {vip.network_id: vip for vip in service.virtual_ips}
        vips: list[VirtualIP] = []
        for network_id in self._vip_networks(service):
            vip = kept.get(network_id) or self._new_vip(network_id)
            if vip is None:
                self._draft.wake(service.id, self._now_ns + RETRY_NS)
            else:
                vips.append(vip)
        allocated = msgspec.structs.replace(service, virtual_ips=tuple(vips))
        if allocated != service and not self._draft.has_room():
            self._draft.postpone([service.id])
            for vip in vips:
                if vip.network_id not in kept:
                    self._book.take_back(self._network(vip.network_id), vip.address)
            return
        self._new_services[service.id] = allocated
        self._draft.update(allocated)

    def _new_vip(self, network_id: str) -> VirtualIP | None:
        network = self._view.networks.get(network_id)
        if network is None or not self._network(network_id).vni:
            return None
        address = self._book.give(self._network(network_id))
        return VirtualIP(network_id=network_id, address=address) if address else None

    def _vip_networks(self, service: Service) -> list[str]:
        spec = service.spec
        if spec.endpoint_mode != "vip":
            return []
        task_spec = self._view.task_specs.get(service.task_spec_id)
        configs = (task_spec.template.networks if task_spec else None) or spec.networks
        return self._overlays(configs)

    def _overlays(self, configs: Iterable[NetworkAttachmentConfig] | None) -> list[str]:
        """The targets that need an address from us, in their order."""
        targets = dict.fromkeys(config.target for config in configs or () if config.target not in LOCAL_NETWORKS)
        networks = self._view.networks
        return [t for t in targets if (network := networks.get(t)) is None or network.spec.driver == "overlay"]

    def _allocate_task(self, task: Task) -> None:
        outcome = self._attachments(task)
        if isinstance(outcome, _Blocked):
            status = msgspec.structs.replace(task.status, error=outcome.reason)
            self._draft.update(msgspec.structs.replace(task, status=status))
            return
        pending = with_status(task, TaskState.PENDING, self._now_ns, "pending task scheduling")
        self._draft.update(msgspec.structs.replace(pending, attachments=outcome))

    def _attachments(self, task: Task) -> tuple[NetworkAttachment, ...] | _Blocked:
        spec = self._view.task_specs.get(task.task_spec_id)
        service = self._view.services.get(task.service_id)
        if task.service_id and service is None:
            return _Blocked(task.status.error)
        configs = (spec.template.networks if spec else None) or (service.spec.networks if service else None)
        targets = self._overlays(configs)
        for network_id in targets:
            reason = self._obstacle(service, network_id)
            if reason is not None:
                return _Blocked(reason)
        given: list[NetworkAttachment] = []
        for network_id in targets:
            address = self._book.give(self._network(network_id))
            if address is None:
                for attachment in given:
                    self._book.take_back(self._network(attachment.network_id), attachment.address)
                return _Blocked(self._exhausted(network_id))
            given.append(NetworkAttachment(network_id=network_id, address=address))
        return tuple(given)

    def _obstacle(self, service: Service | None, network_id: str) -> str | None:
        """What keeps a task from this network: a text, "" for what will pass soon; None when nothing does."""
        if network_id not in self._view.networks:
            return f"network {network_id} not found"
        network = self._network(network_id)
        if not network.vni:
            return network.allocation_error and f"network {network.name}: {network.allocation_error}"
        if service is None or network_id not in self._vip_networks(service):
            return None
        vips = self._new_services.get(service.id, service).virtual_ips
        if any(vip.network_id == network_id for vip in vips):
            return None
        return self._exhausted(network_id) if self._book.is_exhausted(network) else ""

    def _exhausted(self, network_id: str) -> str:
        network = self._network(network_id)
        return f"no address is left in network {network.name} ({network.subnet})"

    def _network(self, network_id: str) -> Network:
        return self._new_networks.get(network_id) or self._view.networks.must_get(network_id)
