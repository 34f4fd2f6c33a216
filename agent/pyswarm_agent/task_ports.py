"""Ports of this node that lead to a task (publish mode host): from what was asked for to what was given. Pure."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from pyswarm_common.specs import PortConfig
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort


class Place(Protocol):
    """A container's place on the network; `netns_path` None is the host's own network, where nothing needs to be published."""

    @property
    def netns_path(self) -> str | None:
        """Its network namespace."""
        ...

    @property
    def ports(self) -> Sequence[PublishedPort]:
        """The ports of the host that lead there."""
        ...


def port_requests(asked: Iterable[PortConfig]) -> tuple[PortRequest, ...]:
    """Return what to ask of the network, in the same order. Docker knows no range and no address here."""
    return tuple(
        PortRequest(protocol=port.protocol, container_port=port.target_port, first_host_port=port.published_port) for port in asked
    )


def given_ports(asked: Sequence[PortConfig], place: Place) -> tuple[PortConfig, ...]:
    """Return the ports as asked for, each with the number that leads to the task now.

    On the host's own network that is the task's own port, whatever number was asked for.
    """
    if not asked:
        return ()
    if place.netns_path is None:
        return tuple(msgspec.structs.replace(port, published_port=port.target_port) for port in asked)
    given = [port for port in place.ports if not port.is_ipv6]  # the same numbers are those on IPv6 addresses
    return tuple(msgspec.structs.replace(port, published_port=one.host_port) for port, one in zip(asked, given, strict=True))
