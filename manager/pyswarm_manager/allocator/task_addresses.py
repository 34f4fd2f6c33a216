"""Where a task goes: its addresses on its service's networks, or what keeps it from having them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Network, NetworkAttachment, Service, Task
from pyswarm_common.specs import NetworkAttachmentConfig
from pyswarm_manager.allocator.address_book import AddressBook, exhausted
from pyswarm_manager.allocator.fixed_addresses import FixedPlace, fixed_place
from pyswarm_manager.allocator.ipam import PoolError, address_text


@dataclass(frozen=True)
class Blocked:
    """Why something cannot be allocated now; "" when it only has to wait for the next look."""

    reason: str


@dataclass(frozen=True)
class Place:
    """A network that a task is to be on, as it is now, and what its service's user chose there."""

    network: Network
    fixed: FixedPlace


def place_on(network: Network, config: NetworkAttachmentConfig | None) -> Place | Blocked:
    """Return the place that a service's configuration asks for; `config` None: nothing but an address."""
    if config is None:
        return Place(network, FixedPlace())
    try:
        return Place(network, fixed_place(config))
    except (PoolError, InvalidArgument) as error:
        return Blocked(f"network {network.name}: {error}")


def attach(
    book: AddressBook, places: Iterable[Place], task: Task, service: Service | None
) -> tuple[NetworkAttachment, ...] | Blocked:
    """Return the task's addresses on all of these places, or the reason why it gets none at all."""
    given: list[NetworkAttachment] = []
    networks: list[Network] = []
    for place in places:
        outcome = _attach(book, place, task, service)
        if isinstance(outcome, Blocked):
            for network, attachment in zip(networks, given, strict=True):
                book.take_back(network, attachment.address, attachment.mac)
            return outcome
        networks.append(place.network)
        given.append(outcome)
    return tuple(given)


def _attach(book: AddressBook, place: Place, task: Task, service: Service | None) -> NetworkAttachment | Blocked:
    network, mac = place.network, place.fixed.mac
    if mac:
        holder = book.take_mac(network, mac, f"task {task.id}")
        if holder:
            return Blocked(f"MAC address {mac} on network {network.name} is held by {holder} until that has ended")
    outcome = _address(book, place, task, service)
    if isinstance(outcome, Blocked):
        if mac:
            book.give_mac_back(network, mac)
        return outcome
    return NetworkAttachment(network_id=network.id, address=outcome, mac=mac)


def _address(book: AddressBook, place: Place, task: Task, service: Service | None) -> str | Blocked:
    network, chosen = place.network, place.fixed.addresses
    if not chosen or service is None:
        return book.give(network) or Blocked(exhausted(network))
    wanted = place.fixed.address_of(task.slot)
    if wanted is None:
        count = f"{len(chosen)} {'address' if len(chosen) == 1 else 'addresses'}"
        return Blocked(f"service {service.name} has {count} on network {network.name}, and none for slot {task.slot}")
    text = address_text(wanted)
    try:
        address = book.take(network, text, service.id)
    except PoolError as error:
        return Blocked(f"network {network.name}: {error}")
    if address is not None:
        return address
    holder = book.holder(network, text, service.id)
    until = " until that has ended" if holder.startswith("task ") else ""
    return Blocked(f"address {text} on network {network.name} is held by {holder}{until}")
