"""Which names containers may ask for on a network, and the addresses behind them; pure."""

from collections.abc import Iterable

from pyswarm_common.ipv6 import ipv6_address_of
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.naming import address_of


def records_of(view: NetworkView) -> dict[str, tuple[str, ...]]:
    """Return the network's names with their addresses, IPv4 first.

    A service's names lead to its virtual IP, or to its backends when it has none (dnsrr); `tasks.NAME` always to the backends; a
    task's own name to its address, as a single container's names do. Who shares a name shares its addresses. The ingress network
    has no names: containers are on it for others to reach them.
    """
    if view.is_ingress:
        return {}
    addresses: dict[str, dict[str, None]] = {}

    def add(name: str, found: Iterable[str]) -> None:
        addresses.setdefault(name, {}).update(dict.fromkeys(map(address_of, found)))

    for endpoint in view.endpoints.values():
        for name in filter(None, (endpoint.name, *endpoint.aliases)) if endpoint.address else ():
            add(name, [endpoint.address])
    for _, service in sorted(view.services.items()):
        for name in service.names:
            add(name, [service.virtual_ip] if service.virtual_ip else service.backends)
            add(f"tasks.{name}", service.backends)
    return {name: (*found, *_ipv6_twins(view, found)) for name, found in addresses.items()}


def _ipv6_twins(view: NetworkView, addresses: Iterable[str]) -> list[str]:
    return [ipv6_address_of(view.ipv6_subnet, address) for address in addresses] if view.ipv6_subnet else []
