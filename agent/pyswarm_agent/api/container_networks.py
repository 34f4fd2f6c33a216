"""The networks of a container as Docker's list and inspect show them; pure. (Of tasks' containers: `task_network_rendering`.)"""

import hashlib
from typing import Any

from pyswarm_agent.api.task_network_rendering import task_networks
from pyswarm_agent.local_containers.connections import member_place
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.local_containers.joining import is_default_bridge
from pyswarm_agent.local_containers.records import HOST, NONE, Joined, NetworkPlace, OverlayAttachment, PlacedNetwork
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.own_networks import id_on_node

_SHORT_ID_LENGTH = 12


def network_names(container: ContainerRecord, held: Held | None) -> dict[str, str]:
    """Return the ids of the container's networks by name; "" for one of the cluster that it has not joined yet."""
    if held is None:
        return {network.name: network.id for network in container.config.networks}
    return {name: id_ for name, id_, _ in _joined(held)}


def networks_of(container: ContainerRecord, held: Held | None) -> dict[str, dict[str, Any]]:
    """Return them in full: addresses while the container runs."""
    if held is None:
        return task_networks(container)
    place = held.place if container.is_live else None
    return {name: _render(container, held, place, id_, join) for name, id_, join in _joined(held)}


def _joined(held: Held) -> list[tuple[str, str, Joined | None]]:
    container = held.container
    if container.network_mode == HOST or (container.network_mode == NONE and container.joined is None):
        return [(container.network_mode, id_on_node(container.network_mode), None)]
    attachment = held.place.attachment if held.place is not None else None
    found: list[tuple[str, str, Joined | None]] = []
    for join in container.joins:
        if is_default_bridge(join):
            found.append((join.network, id_on_node(join.network), join))
        elif attachment is not None and not join.network_id:
            found.append((attachment.network_name, attachment.network_id, join))
        elif (borrowed := _borrowed(held, join)) is not None:
            found.append((borrowed.network_name, borrowed.network_id, join))
        else:
            found.append((join.name, join.network_id, join))
    return found


def _borrowed(held: Held, join: Joined) -> OverlayAttachment | None:
    attachments = held.place.attachments if held.place is not None else ()
    return next((one for one in attachments if join.network in (one.network_id, one.network_name)), None)


def _render(container: ContainerRecord, held: Held, place: NetworkPlace | None, id_: str, join: Joined | None) -> dict[str, Any]:
    on_network = _place_on(place, id_, join)
    address, _, prefix = on_network.address.partition("/")
    has_names = join is not None and not is_default_bridge(join)
    return {
        "IPAMConfig": {"IPv4Address": join.address} if join is not None and join.address else None,
        "Links": None,
        "Aliases": [*join.aliases, container.config.id[:_SHORT_ID_LENGTH]] if join is not None and has_names else None,
        "NetworkID": id_,
        "EndpointID": _endpoint_id(container, id_) if place is not None else "",
        "Gateway": on_network.gateway,
        "IPAddress": address,
        "IPPrefixLen": int(prefix or 0),
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": on_network.mac or _mac_of(address),
        "DriverOpts": None,
    }


def _place_on(place: NetworkPlace | None, id_: str, join: Joined | None) -> PlacedNetwork:
    """The place on one network; that on the default bridge, or an overlay, is told by the container's address."""
    found = member_place(place, id_)
    if found is not None:
        return found
    if place is None or join is None or (join.network_id and place.attachment is None):
        return PlacedNetwork(id=id_, name="")
    return PlacedNetwork(id=id_, name="", address=place.address, gateway=place.gateway)


def _endpoint_id(container: ContainerRecord, network: str) -> str:
    return hashlib.sha256(f"endpoint {container.config.id} {network} {container.started_at_ns}".encode()).hexdigest()


def _mac_of(address: str) -> str:
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split(".")) if address else ""
