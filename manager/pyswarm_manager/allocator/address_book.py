"""Which addresses of each network are taken, read from the view when first asked, and kept up while one decide gives more.

An address is held by a service's VIP, and by a task until it has ended or its node was removed from the cluster: a task that
was told to stop still uses its address, and one on a node that is down may. Pure.
"""

from collections.abc import Mapping

from pyswarm_common.objects import Network
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.ipam import PoolError, Subnet, make_subnet, next_address, parse_address
from pyswarm_manager.store.tables import View


class _NetworkAddresses:
    def __init__(self, view: View, network: Network, vips: list[tuple[int, int]], last_given: int | None) -> None:
        pools = (network.spec.ipam.config or ()) if network.spec.ipam else ()
        self.subnet: Subnet = make_subnet(network.subnet, network.gateway, pools[0].ip_range if pools else "")
        self.taken = {address for _, address in vips}
        newest = max(vips, default=(0, 0))
        for task in view.tasks.of_network(network.id):
            is_held = task.status.state <= TaskState.RUNNING and (not task.node_id or task.node_id in view.nodes)
            for attachment in task.attachments:
                if attachment.network_id == network.id:
                    address = parse_address(attachment.address)
                    newest = max(newest, (task.created_at_ns, address))
                    if is_held:
                        self.taken.add(address)
        self.cursor = newest[1] if last_given is None else last_given
        self.is_exhausted = False


class AddressBook:
    """Gives addresses, going round each subnet, so that a freed one is not given again soon.

    `last_given` are the addresses given last, by network, as far as the caller remembers; else the newest holder's address
    stands in.
    """

    def __init__(self, view: View, last_given: Mapping[str, int]) -> None:
        self._view = view
        self._last_given = last_given
        self._networks: dict[str, _NetworkAddresses] = {}
        self._vips: dict[str, list[tuple[int, int]]] | None = None

    def give(self, network: Network) -> str | None:
        """Return the next address of an allocated network, with its prefix; None when none is left."""
        addresses = self._addresses(network)
        if addresses.is_exhausted:
            return None
        address = next_address(addresses.subnet, addresses.taken, addresses.cursor)
        if address is None:
            addresses.is_exhausted = True
            return None
        addresses.taken.add(address)
        addresses.cursor = address
        return addresses.subnet.with_prefix(address)

    def take(self, network: Network, address: str) -> str | None:
        """Return this address of an allocated network, with its prefix; None when another has it. Raises PoolError."""
        addresses, wanted = self._addresses(network), parse_address(address)
        subnet = addresses.subnet
        if not int(subnet.network.network_address) < wanted < int(subnet.network.broadcast_address):
            raise PoolError(f"no configured subnet contains IP address {address}")
        if wanted in addresses.taken or wanted == subnet.gateway:
            return None
        addresses.taken.add(wanted)
        return subnet.with_prefix(wanted)

    def take_back(self, network: Network, address: str) -> None:
        """Free an address again that was given in this decide, but not used."""
        addresses = self._addresses(network)
        addresses.taken.discard(parse_address(address))
        addresses.is_exhausted = False

    def is_exhausted(self, network: Network) -> bool:
        """Whether an address was asked for and none was left."""
        return self._addresses(network).is_exhausted

    def _addresses(self, network: Network) -> _NetworkAddresses:
        found = self._networks.get(network.id)
        if found is None:
            vips = self._service_addresses().get(network.id, [])
            found = _NetworkAddresses(self._view, network, vips, self._last_given.get(network.id))
            self._networks[network.id] = found
        return found

    def _service_addresses(self) -> dict[str, list[tuple[int, int]]]:
        if self._vips is None:
            self._vips = {}
            for service in self._view.services:
                for vip in service.virtual_ips:
                    entry = (service.created_at_ns, parse_address(vip.address))
                    self._vips.setdefault(vip.network_id, []).append(entry)
        return self._vips
