"""The ports that the routing mesh publishes: who has which, kept beside the tables, and which a service gets. Pure.

A published port of the mesh is unique per protocol in the whole cluster. What a service has stays as long as it is asked for:
a port asked for by number under that number, any other one under the number that it was given.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from pyswarm_common.objects import AnyObject, Network, Service
from pyswarm_common.specs import PortConfig, ServiceSpec
from pyswarm_manager.store.tables import View

FIRST_DYNAMIC_PORT = 30_000
LAST_DYNAMIC_PORT = 32_767
NO_INGRESS = "service needs ingress network, but no ingress network is present"
_PORTS = b'"Ports"'
PortKey = tuple[str, int]
"""Protocol and published port."""


def asked_ports(spec: ServiceSpec) -> list[PortConfig]:
    """Return the published ports that a service asks for."""
    return (spec.endpoint_spec.ports if spec.endpoint_spec else None) or []


def is_in_mesh(port: PortConfig) -> bool:
    """Whether every node publishes it, not only those of the tasks."""
    return port.publish_mode == "ingress"


def ingress_network(view: View) -> Network | None:
    """Return the ingress network, if there is one."""
    return next((network for network in view.networks if network.spec.ingress), None)


def kept_ports(service: Service) -> list[PortConfig]:
    """Return the ports that a service asks for, those of the mesh with the numbers asked for or given before, or 0."""
    return _with_numbers(asked_ports(service.spec) if _PORTS in service.spec_json else (), service.ports)


class MeshPorts:
    """By protocol and published port the services that have it, that ask for it, or whose tasks have it on their nodes.

    A derived index (`store/derived.py`).
    """

    def __init__(self, view: View) -> None:
        self.is_stale = False
        self._held: dict[PortKey, dict[str, None]] = {}
        """In `Service.ports`."""
        self._kept: dict[PortKey, dict[str, None]] = {}
        """What the services' specs still ask for."""
        self._on_hosts: dict[PortKey, dict[str, None]] = {}
        self._services: dict[str, tuple[set[PortKey], set[PortKey], set[PortKey]]] = {}
        for service in view.services:
            self._remember(service)

    def note(self, before: AnyObject | None, after: AnyObject | None) -> None:
        """Follow a change."""
        if isinstance(before, Service):
            self._forget(before.id)
        if isinstance(after, Service):
            self._remember(after)

    def services(self) -> list[str]:
        """Return the ids of the services that have, or ask for, ports of the mesh."""
        return sorted(service_id for service_id, (held, kept, _) in self._services.items() if held or kept)

    def holders(self, key: PortKey) -> Iterable[str]:
        """Return the ids of the services that have this port (one, unless something went wrong)."""
        return self._held.get(key, ())

    def is_asked_for(self, key: PortKey, service_id: str) -> bool:
        """Whether the service has not given up this port."""
        return service_id in self._kept.get(key, ())

    def is_known(self, key: PortKey) -> bool:
        """Whether any service has, or asks for, this port, in the mesh or on nodes."""
        return any(key in table for table in (self._held, self._kept, self._on_hosts))

    def _remember(self, service: Service) -> None:
        if not service.ports and _PORTS not in service.spec_json:
            return
        kept = kept_ports(service)
        sets = (
            {_key(port) for port in service.ports if is_in_mesh(port) and port.published_port},
            {_key(port) for port in kept if is_in_mesh(port) and port.published_port},
            {_key(port) for port in kept if not is_in_mesh(port) and port.published_port},
        )
        self._services[service.id] = sets
        for table, keys in zip((self._held, self._kept, self._on_hosts), sets, strict=True):
            for key in keys:
                table.setdefault(key, {})[service.id] = None

    def _forget(self, service_id: str) -> None:
        sets = self._services.pop(service_id, (set(), set(), set()))
        for table, keys in zip((self._held, self._kept, self._on_hosts), sets, strict=True):
            for key in keys:
                del table[key][service_id]
                if not table[key]:
                    del table[key]


@dataclass(frozen=True)
class PortConflict:
    """A published port that another service has. `is_passing`: that one asks for it no longer, and is about to let go of it."""

    port: int
    service_id: str
    is_passing: bool


class NoPortLeft(ValueError):
    """All ports that may be given without being asked for are taken."""


class PortBook:
    """Gives ports within one decide."""

    def __init__(self, index: MeshPorts) -> None:
        self._index = index
        self._given: dict[PortKey, str] = {}
        self._settled: set[str] = set()
        """Services whose ports were decided on: what they had before counts no more."""

    def assign(self, service: Service) -> tuple[PortConfig, ...] | PortConflict:
        """Return the ports that a service gets; a conflict when another one has a port that is asked for by number.

        Raises NoPortLeft.
        """
        kept = kept_ports(service)
        own = {_key(port) for port in kept if is_in_mesh(port)}
        for port in kept:
            if is_in_mesh(port) and port.published_port:
                conflict = self._conflict(_key(port), service.id)
                if conflict is not None:
                    return conflict
        given = []
        for port in kept:
            numbered = port
            if is_in_mesh(port) and not port.published_port:
                numbered = msgspec.structs.replace(port, published_port=self._free(port.protocol, own))
                own.add(_key(numbered))
            given.append(numbered)
        return tuple(given)

    def note(self, service_id: str, ports: Iterable[PortConfig]) -> None:
        """Learn that these are a service's ports now."""
        self._settled.add(service_id)
        self._given.update({_key(port): service_id for port in ports if is_in_mesh(port)})

    def _conflict(self, key: PortKey, own_id: str) -> PortConflict | None:
        holders = [one for one in self._index.holders(key) if one not in self._settled]
        for other in (*filter(None, [self._given.get(key)]), *holders):
            if other != own_id:
                is_passing = other not in self._settled and not self._index.is_asked_for(key, other)
                return PortConflict(key[1], other, is_passing)
        return None

    def _free(self, protocol: str, own: set[PortKey]) -> int:
        for number in range(FIRST_DYNAMIC_PORT, LAST_DYNAMIC_PORT + 1):
            key = (protocol, number)
            if key not in own and key not in self._given and not self._index.is_known(key):
                return number
        raise NoPortLeft(f"no published port from {FIRST_DYNAMIC_PORT} to {LAST_DYNAMIC_PORT} is left for {protocol}")


def _key(port: PortConfig) -> PortKey:
    return port.protocol, port.published_port


def _with_numbers(asked: Iterable[PortConfig], held: Iterable[PortConfig]) -> list[PortConfig]:
    asked = list(asked)
    explicit = {_key(port) for port in asked if is_in_mesh(port) and port.published_port}
    left = [port for port in held if is_in_mesh(port) and port.published_port and _key(port) not in explicit]
    return [_with_number(port, left) for port in asked]


def _with_number(port: PortConfig, left: list[PortConfig]) -> PortConfig:
    """The port with the number that the same one was given before, which is taken out of `left`."""
    if port.published_port or not is_in_mesh(port):
        return port
    for former in left:
        if (former.name, former.protocol, former.target_port) == (port.name, port.protocol, port.target_port):
            left.remove(former)
            return former
    return port
