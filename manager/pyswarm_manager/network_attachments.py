"""Addresses for single containers on attachable networks: nodes ask for them and give them back. Answered by the leader.

An attachment is a task without a service, on the node that asked, which runs nothing: so it holds its address, keeps its network
from being removed, and brings the network's view to its node and its endpoint to all others as any task does. It is there from the
moment its address is given until its node frees it, or is removed from the cluster, or was down for a day (`dispatcher/orphaning`).

The node chooses the attachment's id, so that it may ask again when an answer is lost, and can tell what is left over.
"""

from collections.abc import Mapping
from functools import partial

import msgspec

from pyswarm_common.attachment_messages import AttachAnswer, AttachRequest, DetachRequest
from pyswarm_common.clock import Clock
from pyswarm_common.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unavailable
from pyswarm_common.ids import OBJECT_ID_LENGTH, new_id
from pyswarm_common.network_options import parse_mac
from pyswarm_common.objects import Network, NetworkAttachment, Task, TaskSpec, TaskStatus
from pyswarm_common.state_times import with_state_time
from pyswarm_common.task_states import TaskState
from pyswarm_common.waiting import wait_first
from pyswarm_manager.allocator.address_book import AddressBook, exhausted
from pyswarm_manager.allocator.ipam import PoolError, parse_address
from pyswarm_manager.allocator.service_addresses import ServiceAddresses
from pyswarm_manager.allocator.subnets import grown, is_growing, mac_refusal
from pyswarm_manager.store.leadership import no_leader
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import View
from pyswarm_manager.store.transaction import Transaction

ALLOCATION_LIMIT_S = 5.0
"""How long a request waits for its network, which may just have been made, to get its subnet."""
DETACHED_PER_UPDATE = 100


class NetworkAttachments:
    """Answers those requests, on the leader."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._last_given: dict[str, int] = {}
        """By network, a hint only: an address that was freed is not given again at once."""

    async def attach(self, node_id: str, request: AttachRequest) -> AttachAnswer:
        """Give a container of this node an address; asked again, the same.

        Raises NotFound, PermissionDenied (the network takes no single containers), FailedPrecondition (the address is taken, or
        none is left), InvalidArgument, Unavailable.
        """
        if not self._store.is_leader:
            raise no_leader()
        if not _is_object_id(request.attachment_id) or not request.container_id:
            raise InvalidArgument("an attachment has an id and a container")
        network = attachable_network(self._store.view, request.network)
        await wait_first(self._wait_allocated(network.id), self._clock.sleep(ALLOCATION_LIMIT_S))
        attaching = partial(attach, node_id=node_id, request=request, last_given=self._last_given)
        answer = await self._store.update(attaching)
        self._last_given[answer.network_id] = parse_address(answer.address)
        return answer

    async def detach(self, node_id: str, request: DetachRequest) -> None:
        """Free these attachments of the node. Raises Unavailable."""
        if not self._store.is_leader:
            raise no_leader()
        ids = request.attachment_ids
        for start in range(0, len(ids), DETACHED_PER_UPDATE):
            part = ids[start : start + DETACHED_PER_UPDATE]
            await self._store.update(partial(detach, node_id=node_id, attachment_ids=part))

    async def _wait_allocated(self, network_id: str) -> None:
        with self._store.watch(Network) as subscription:
            while (network := self._store.view.networks.get(network_id)) is not None and not network.vni:
                await subscription.wait()


def attach(tx: Transaction, node_id: str, request: AttachRequest, last_given: Mapping[str, int]) -> AttachAnswer:
    """Store an attachment with an address of its own, if it is not there. Raises as `NetworkAttachments.attach`."""
    network = attachable_network(tx, request.network)
    known = tx.tasks.get(request.attachment_id)
    if known is None:
        tx.nodes.must_get(node_id)
        known = tx.create(_new_task(tx, node_id, request, network, AddressBook(tx, last_given)))
    if known.node_id != node_id or known.attached_container_id != request.container_id or not known.attachments:
        raise InvalidArgument(f"{request.attachment_id} is no attachment of this container")
    held = known.attachments[0]
    if held.network_id != network.id:
        raise InvalidArgument(f"attachment {request.attachment_id} is on another network")
    return AttachAnswer(network_id=network.id, network_name=network.name, address=held.address, mac=held.mac)


def detach(tx: Transaction, node_id: str, attachment_ids: tuple[str, ...]) -> None:
    """Delete those of the attachments that are this node's."""
    for attachment_id in attachment_ids:
        task = tx.tasks.get(attachment_id)
        if task is not None and task.attached_container_id and task.node_id == node_id:
            tx.delete(Task, attachment_id)


def attachable_network(view: View, reference: str) -> Network:
    """Return the network with this name or id. Raises NotFound, Conflict, PermissionDenied: it takes no single containers."""
    named = view.networks.named(reference)
    network = named[0] if named else view.networks.resolve(reference)
    if not network.spec.attachable or network.spec.ingress or network.spec.driver != "overlay":
        raise PermissionDenied(f"network {reference} not manually attachable", grpc_code="PermissionDenied")
    return network


def _new_task(tx: Transaction, node_id: str, request: AttachRequest, network: Network, book: AddressBook) -> Task:
    if not network.vni:
        reason = network.allocation_error or "the managers have not given it a subnet yet"
        raise Unavailable(f"network {network.name} cannot be used: {reason}")
    spec = tx.create(TaskSpec(id=new_id(), template_json=_template(request, network)))
    status = TaskStatus(state=TaskState.RUNNING, at_ns=tx.now_ns, message="started", container_id=request.container_id)
    return Task(
        id=request.attachment_id,
        task_spec_id=spec.id,
        node_id=node_id,
        attached_container_id=request.container_id,
        attachments=(_attachment(tx, book, request, network),),
        status=status,
        state_times=with_state_time(b"", status.state, status.at_ns),
    )


def _attachment(tx: Transaction, book: AddressBook, request: AttachRequest, network: Network) -> NetworkAttachment:
    mac = parse_mac(request.mac) if request.mac else ""
    if mac:
        _check_mac(tx, book, network, mac)
    return NetworkAttachment(network_id=network.id, address=_address(book, request, _with_room(tx, book, network)), mac=mac)


def _check_mac(tx: Transaction, book: AddressBook, network: Network, mac: str) -> None:
    refusal = mac_refusal(network, mac)
    if refusal:
        raise InvalidArgument(refusal)
    holder = book.take_mac(network, mac, "another container")
    for service_id, place in tx.derived(ServiceAddresses).on(network.id).items():
        holder = holder or (f"service {service_id}" if place.fixed.mac == mac else "")
    if holder:
        raise FailedPrecondition(f"MAC address {mac} is already in use on network {network.name}, by {holder}")


def _with_room(tx: Transaction, book: AddressBook, network: Network) -> Network:
    """The network, with a further subnet when it is nearly full: the allocator does the same for tasks of services."""
    if not (is_growing(network) and book.needs_room(network)):
        return network
    larger = grown(tx.cluster, network, [other for other in tx.networks if other.id != network.id])
    if larger is None:
        return network
    book.note_growth(larger)
    return tx.update(larger)


def _address(book: AddressBook, request: AttachRequest, network: Network) -> str:
    if not request.address:
        address = book.give(network)
        if address is None:
            raise FailedPrecondition(exhausted(network))
        return address
    try:
        address = book.take(network, request.address)
    except PoolError as error:
        raise InvalidArgument(str(error)) from error
    if address is None:
        raise FailedPrecondition(f"Address already in use: {request.address} on network {network.name}")
    return address


def _template(request: AttachRequest, network: Network) -> bytes:
    template = {
        "Runtime": "attachment",
        "NetworkAttachmentSpec": {"ContainerID": request.container_id},
        "Networks": [{"Target": network.id, "Aliases": list(dict.fromkeys(filter(None, request.names)))}],
    }
    return msgspec.json.encode(template)


def _is_object_id(text: str) -> bool:
    return len(text) == OBJECT_ID_LENGTH and text.isascii() and text.isalnum() and text == text.lower()
