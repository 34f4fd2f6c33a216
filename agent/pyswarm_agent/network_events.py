"""Which networks a container comes to and leaves when it starts and ends, as events tell it; pure."""

from collections.abc import Iterator
from typing import NamedTuple

from pyswarm_agent.local_containers.records import Joined, LocalContainer
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.own_networks import BRIDGE, DRIVERS, HOST, NONE, id_on_node, own_network_of


class ToldNetwork(NamedTuple):
    """A network as an event names it."""

    id: str
    name: str
    driver: str


def networks_told(record: ContainerRecord, container: LocalContainer | None) -> Iterator[ToldNetwork]:
    """Yield the networks of a container: a task's, or those of a single one, of which `container` is known."""
    if container is None:
        for network in record.config.networks:
            yield ToldNetwork(network.id, network.name, DRIVERS.get(own_network_of(network.id), "overlay"))
    elif container.network_mode == HOST or (container.network_mode == NONE and container.joined is None):
        yield _own(container.network_mode)
    else:
        for join in container.joins:
            yield network_told(container, join)


def network_told(container: LocalContainer, join: Joined) -> ToldNetwork:
    """Return one network of a single container."""
    if join.network_id:
        return ToldNetwork(join.network_id, join.name, "bridge")
    if join.network == BRIDGE:
        return _own(BRIDGE)
    places = (*((container.attachment,) if container.attachment is not None else ()), *container.attachments)
    place = next((one for one in places if join.network in (one.network_id, one.network_name)), None)
    return ToldNetwork(place.network_id if place else join.network, place.network_name if place else join.name, "overlay")


def _own(name: str) -> ToldNetwork:
    return ToldNetwork(id_on_node(name), name, DRIVERS[name])
