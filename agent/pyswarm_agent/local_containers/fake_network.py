"""A network of local containers in memory, for tests: addresses are counted, ports are taken as asked."""

import asyncio
from collections.abc import Callable, Collection, Mapping

from pyswarm_agent.local_containers.records import BRIDGE, HOST, LocalContainer, NetworkPlace
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.published_ports.allocation import allocate
from pyswarm_netplugin.published_ports.records import PublishedPort


class FakeLocalNetwork:
    """Implements `LocalNetwork`. `refuse` may raise for a container that is attached."""

    def __init__(self) -> None:
        self.places: dict[str, NetworkPlace] = {}
        self.views: dict[str, NetworkView] = {}
        self.refuse: Callable[[str], None] = lambda _: None
        self._next = 2

    async def start(self, kept: Collection[str]) -> None:
        """Keep these only."""
        self.places = {id_: place for id_, place in self.places.items() if id_ in kept}

    async def attach(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        """Give it the next address."""
        await asyncio.sleep(0)
        self.refuse(container.id)
        if container.id not in self.places:
            self.places[container.id] = self._new_place(container, config)
            self._next += 1
        return self.places[container.id]

    async def detach(self, container_id: str) -> None:
        """Forget it."""
        await asyncio.sleep(0)
        self.places.pop(container_id, None)

    def place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace | None:
        """Return what it was given."""
        return self.places.get(container.id)

    async def networks_changed(self) -> None:
        """Have nothing to make."""

    def carried(self) -> Mapping[str, NetworkView]:
        """Carry what `views` says."""
        return self.views

    def bridge_subnet(self) -> str:
        """Have chosen Docker's."""
        return "172.17.0.0/16"

    async def host_routes(self) -> tuple[str, ...]:
        """Know of one."""
        return ("172.18.0.0/16",)

    async def close(self) -> None:
        """Let go; the places stay."""

    def _new_place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        taken = [port for place in self.places.values() for port in place.ports]
        is_bridged = container.network_mode == BRIDGE
        return NetworkPlace(
            netns_path=None if container.network_mode == HOST else f"/netns/{container.id}",
            resolv_conf="",
            hosts="127.0.0.1\tlocalhost\n",
            hostname=config.hostname,
            address=f"172.17.0.{self._next}/16" if is_bridged else "",
            gateway="172.17.0.1" if is_bridged else "",
            ports=allocate(container.port_requests, taken, _free),
        )


def _free(port: PublishedPort) -> None:
    """Find every port free."""
