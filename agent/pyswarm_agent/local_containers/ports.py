"""Ports as the Engine API's bodies have them: `80/tcp` and its bindings; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyswarm_agent.local_containers.create_body import PortBinding
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.errors import InvalidArgument
from pyswarm_netplugin.published_ports.allocation import PROTOCOLS
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort

LARGEST_PORT = 65535


def port_requests(
    bindings: Mapping[str, Sequence[PortBinding] | None], exposed: Iterable[str], *, publishes_all: bool
) -> tuple[PortRequest, ...]:
    """Return the host ports that a body asks for; with `publishes_all`, every exposed one gets some. Raises InvalidArgument."""
    found = []
    for key, places in bindings.items():
        number, protocol = parse_port(key)
        for place in places or [PortBinding()]:
            first, last = _host_range(place.host_port)
            found.append(
                PortRequest(
                    protocol=protocol,
                    container_port=number,
                    host_address=place.host_ip,
                    first_host_port=first,
                    last_host_port=last,
                )
            )
    if publishes_all:
        bound = {(request.container_port, request.protocol) for request in found}
        more = [parse_port(key) for key in exposed]
        found += [PortRequest(protocol=protocol, container_port=n) for n, protocol in more if (n, protocol) not in bound]
    return tuple(found)


def parse_port(text: str) -> tuple[int, str]:
    """Return number and protocol of `80` or `80/udp`. Raises InvalidArgument."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid proto: {protocol}")
    return _number(number, text), protocol


def published_ports(container: ContainerRecord, held: Held | None) -> tuple[PublishedPort, ...]:
    """Return the ports of the host that lead to a container that runs; `held` when it is a local one, else it is a task's."""
    if held is not None:
        return held.place.ports if held.place is not None else ()
    return container.config.ports if container.is_live else ()


def rendered_ports(exposed: Iterable[str], ports: Iterable[PublishedPort]) -> dict[str, list[dict[str, str]] | None]:
    """Return `NetworkSettings.Ports`: each port with where it is published, None for nowhere."""
    shown: dict[str, list[dict[str, str]] | None] = {key if "/" in key else f"{key}/tcp": None for key in exposed}
    for port in ports:
        key = f"{port.container_port}/{port.protocol}"
        shown[key] = [*(shown.get(key) or []), {"HostIp": port.host_address, "HostPort": str(port.host_port)}]
    return shown


def listed_ports(exposed: Iterable[str], ports: Iterable[PublishedPort]) -> list[dict[str, Any]]:
    """Return the ports as the list of containers shows them."""
    published = list(ports)
    bound = {(port.container_port, port.protocol) for port in published}
    shown: list[dict[str, Any]] = [
        {"IP": port.host_address, "PrivatePort": port.container_port, "PublicPort": port.host_port, "Type": port.protocol}
        for port in published
    ]
    unbound = sorted(set(map(parse_port, exposed)) - bound)
    return shown + [{"PrivatePort": number, "Type": protocol} for number, protocol in unbound]


def _host_range(text: str) -> tuple[int, int]:
    if not text or text == "0":
        return 0, 0
    first, dash, last = text.partition("-")
    low = _number(first, text)
    high = _number(last, text) if dash else low
    if high < low:
        raise InvalidArgument(f"invalid port specification: {text!r}")
    return low, high


def _number(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= LARGEST_PORT):
        raise InvalidArgument(f"invalid port specification: {whole!r}")
    return int(text)
