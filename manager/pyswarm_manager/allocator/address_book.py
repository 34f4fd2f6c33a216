"""Which addresses of each network are taken, read from the view when first asked, and kept up while one decide gives more.

An address is held by a service's VIP, by a node (on the ingress network), and by a task until it has ended or its node was removed
from the cluster: a task that was told to stop still uses its address, and one on a node that is down may. An address that a user
chose for a service's tasks is given to nobody else, whether they have it or not. Pure.
"""

from collections import ChainMap
from collections.abc import Mapping

from pyswarm_common.objects import Network, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.ipam import PoolError, Subnet, address_text, next_of_subnets, parse_address
from pyswarm_manager.allocator.service_addresses import ServiceAddresses
from pyswarm_manager.allocator.subnets import needs_room, subnets_of
from pyswarm_manager.store.tables import View


class _NetworkAddresses:
    def __init__(self, view: View, network: Network, last_given: int | None) -> None:
        self.subnets: tuple[Subnet, ...] = subnets_of(network)
        self.holders: dict[int, str] = {}
        """By address a few words: whose it is."""
        self.macs: dict[str, str] = {}
        self.chosen: dict[int, str] = {}
        """By address the service whose tasks alone get it."""
        newest = (0, 0)
        for service_id, place in view.derived(ServiceAddresses).on(network.id).items():
            self.chosen.update(dict.fromkeys(place.fixed.addresses, service_id))
            if place.virtual_ip is not None:
                self.holders[place.virtual_ip] = f"service {service_id}"
                newest = max(newest, (place.created_at_ns, place.virtual_ip))
        for task in view.tasks.of_network(network.id):
            newest = max(newest, self._note_task(view, network.id, task))
        if network.spec.ingress:
            for node in view.nodes:
                addresses = [parse_address(a.address) for a in node.attachments if a.network_id == network.id]
                self.holders.update(dict.fromkeys(addresses, f"node {node.name or node.id}"))
                newest = max([newest, *((node.created_at_ns, address) for address in addresses)])
        self.cursor = newest[1] if last_given is None else last_given
        self.is_exhausted = False
        self.count()

    def count(self) -> None:
        """Count the addresses that there are and those that are free."""
        self.size = sum(s.last - s.first + 1 for s in self.subnets)
        self.free = self.size - sum(1 for address in self._unavailable() if any(s.first <= address <= s.last for s in self.subnets))

    def hold(self, address: int, holder: str) -> None:
        """Note that an address is taken now."""
        self.free -= address not in self.chosen
        self.holders[address] = holder

    def _unavailable(self) -> set[int]:
        reserved = {address for s in self.subnets for address in (s.gateway, *s.auxiliary)}
        return reserved | self.holders.keys() | self.chosen.keys()

    def _note_task(self, view: View, network_id: str, task: Task) -> tuple[int, int]:
        is_held = task.status.state <= TaskState.RUNNING and (not task.node_id or task.node_id in view.nodes)
        newest = (0, 0)
        for attachment in task.attachments:
            if attachment.network_id == network_id:
                address = parse_address(attachment.address)
                newest = max(newest, (task.created_at_ns, address))
                if is_held:
                    self.holders[address] = f"task {task.id}"
                    if attachment.mac:
                        self.macs[attachment.mac] = f"task {task.id}"
        return newest


class AddressBook:
    """Gives addresses, going round each network's subnets, so that a freed one is not given again soon.

    `last_given` are the addresses given last, by network, as far as the caller remembers; else the newest holder's address
    stands in. Networks are given as they are now, allocated.
    """

    def __init__(self, view: View, last_given: Mapping[str, int]) -> None:
        self._view = view
        self._last_given = last_given
        self._networks: dict[str, _NetworkAddresses] = {}

    def give(self, network: Network) -> str | None:
        """Return the next address of a network, with its prefix; None when none is left."""
        addresses = self._addresses(network)
        if addresses.is_exhausted:
            return None
        taken = ChainMap(addresses.holders, addresses.chosen)
        address = next_of_subnets(addresses.subnets, taken, addresses.cursor)
        if address is None:
            addresses.is_exhausted = True
            return None
        addresses.hold(address, "another one")
        addresses.cursor = address
        return _with_prefix(addresses, address)

    def take(self, network: Network, address: str, service_id: str = "") -> str | None:
        """Return this address of a network, with its prefix; None when another has it (see `holder`). Raises PoolError."""
        addresses, wanted = self._addresses(network), parse_address(address)
        if not any(wanted in subnet for subnet in addresses.subnets):
            raise PoolError(f"no configured subnet contains IP address {address}")
        if self.holder(network, address, service_id):
            return None
        addresses.hold(wanted, "another one")
        return _with_prefix(addresses, wanted)

    def holder(self, network: Network, address: str, service_id: str = "") -> str:
        """Return a few words on who has an address, or alone may have it, other than the tasks of this service; "" for nobody."""
        addresses, wanted = self._addresses(network), parse_address(address)
        for subnet in addresses.subnets:
            if wanted == subnet.gateway:
                return "the network's gateway"
            if wanted in subnet.auxiliary:
                return "an auxiliary address of the network"
        chosen_by = addresses.chosen.get(wanted, service_id)
        return addresses.holders.get(wanted, "" if chosen_by == service_id else f"service {chosen_by}")

    def take_mac(self, network: Network, mac: str, holder: str) -> str:
        """Take a MAC address; returns a few words on who has it, and "" when nobody had."""
        macs = self._addresses(network).macs
        if mac in macs:
            return macs[mac]
        macs[mac] = holder
        return ""

    def take_back(self, network: Network, address: str, mac: str = "") -> None:
        """Free an address again that was given in this decide, but not used."""
        addresses, freed = self._addresses(network), parse_address(address)
        if addresses.holders.pop(freed, None) is not None:
            addresses.free += freed not in addresses.chosen
        addresses.is_exhausted = False
        self.give_mac_back(network, mac)

    def give_mac_back(self, network: Network, mac: str) -> None:
        """Free a MAC address again that was taken in this decide, but not used."""
        self._addresses(network).macs.pop(mac, None)

    def needs_room(self, network: Network) -> bool:
        """Whether so few addresses are left that the network needs a further subnet."""
        addresses = self._addresses(network)
        return needs_room(addresses.size, addresses.free)

    def note_growth(self, network: Network) -> None:
        """Learn that a network has a further subnet now."""
        addresses = self._addresses(network)
        addresses.subnets = subnets_of(network)
        addresses.is_exhausted = False
        addresses.count()

    def is_exhausted(self, network: Network) -> bool:
        """Whether an address was asked for and none was left."""
        return self._addresses(network).is_exhausted

    def _addresses(self, network: Network) -> _NetworkAddresses:
        found = self._networks.get(network.id)
        if found is None:
            found = _NetworkAddresses(self._view, network, self._last_given.get(network.id))
            self._networks[network.id] = found
        return found


def exhausted(network: Network) -> str:
    """Return the words for a network without a free address."""
    return f"no address is left in network {network.name} ({', '.join(filter(None, (network.subnet, *network.further_subnets)))})"


def _with_prefix(addresses: _NetworkAddresses, address: int) -> str:
    for subnet in addresses.subnets:
        if address in subnet:
            return subnet.with_prefix(address)
    raise PoolError(f"no configured subnet contains IP address {address_text(address)}")
