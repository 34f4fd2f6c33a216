"""What services hold on networks, kept beside the tables: virtual IPs, and the addresses and MAC addresses that users chose.

A derived index (`store/derived.py`): to look through all services for each task that wants an address would take too long.
"""

import contextlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.network_options import ADDRESSES, MAC_ADDRESS
from pyswarm_common.objects import AnyObject, Service, TaskSpec
from pyswarm_manager.allocator.fixed_addresses import FixedPlace, fixed_place
from pyswarm_manager.allocator.ipam import PoolError, parse_address
from pyswarm_manager.store.tables import Table, View

_MARKS = (ADDRESSES.encode(), MAC_ADDRESS.encode())
_NOTHING: Mapping[str, "ServicePlace"] = {}


@dataclass(frozen=True)
class ServicePlace:
    """What one service holds on one network: its VIP (None for none), when it was made, and what its tasks are to get."""

    created_at_ns: int
    virtual_ip: int | None = None
    fixed: FixedPlace = field(default_factory=FixedPlace)


class ServiceAddresses:
    """By network and service id what services hold."""

    def __init__(self, view: View) -> None:
        self.is_stale = False
        self._task_specs: weakref.ref[Table[TaskSpec]] = weakref.ref(view.task_specs)
        self._places: dict[str, dict[str, ServicePlace]] = {}
        self._networks: dict[str, list[str]] = {}
        for service in view.services:
            self._remember(service)
        self.is_stale = False  # of a service without a task spec nothing more is to be learned

    def on(self, network_id: str) -> Mapping[str, ServicePlace]:
        """Return by service id what services hold on this network."""
        return self._places.get(network_id, _NOTHING)

    def note(self, before: AnyObject | None, after: AnyObject | None) -> None:
        """Follow a change."""
        if isinstance(before, Service):
            self._forget(before.id)
        if isinstance(after, Service):
            self._remember(after)

    def _remember(self, service: Service) -> None:
        places = self._fixed(service)
        vips = {vip.network_id: parse_address(vip.address) for vip in service.virtual_ips}
        for network_id in places.keys() | vips.keys():
            place = ServicePlace(service.created_at_ns, vips.get(network_id), places.get(network_id, FixedPlace()))
            self._places.setdefault(network_id, {})[service.id] = place
            self._networks.setdefault(service.id, []).append(network_id)

    def _forget(self, service_id: str) -> None:
        for network_id in self._networks.pop(service_id, ()):
            places = self._places[network_id]
            del places[service_id]
            if not places:
                del self._places[network_id]

    def _fixed(self, service: Service) -> dict[str, FixedPlace]:
        specs = self._task_specs()
        spec = specs.get(service.task_spec_id) if specs is not None else None
        if spec is None:
            self.is_stale = True  # its task spec comes in the same transaction, but later
            return {}
        if not any(mark in spec.template_json for mark in _MARKS):
            return {}
        places = {}
        for config in spec.template.networks or ():
            with contextlib.suppress(PoolError, InvalidArgument):  # nobody checked what an older version stored
                fixed = fixed_place(config)
                if fixed.addresses or fixed.mac:
                    places[config.target] = fixed
        return places
