"""Takes host ports for sandboxes, and takes them again in the daemon's next life. Blocking."""

from collections.abc import Iterable, Sequence

import structlog

from pyswarm_common.errors import PyswarmError
from pyswarm_netplugin.published_ports.allocation import allocate, random_start
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort
from pyswarm_netplugin.published_ports.reservations import Reservations

_log = structlog.get_logger()


def reserve_free(
    reservations: Reservations,
    requests: Sequence[PortRequest],
    taken: Sequence[PublishedPort],
    sandbox_id: str,
    *,
    has_way_out: bool = True,
) -> tuple[PublishedPort, ...]:
    """Return the reserved ports of all requests, beside those that others have. Raises PortUnavailable, InvalidArgument.

    `has_way_out`: the sandbox has one of its own, which alone carries IPv6.
    """
    ipv6_problem = "" if reservations.publishes_ipv6 else "this host has no IPv6"
    ipv6_problem = ipv6_problem if has_way_out else "only what is on the default bridge has ports on IPv6 addresses"
    reservations.keep_only(taken)  # what leaves may still hold its ports while its namespace is taken down
    try:
        ports = allocate(requests, taken, reservations.reserve, random_start(sandbox_id), ipv6_problem)
    except PyswarmError:
        reservations.keep_only(taken)
        raise
    reservations.keep_only([*taken, *ports])  # of a number that is free for IPv4 alone, that is reserved
    return ports


def reserve_again(reservations: Reservations, ports: Iterable[PublishedPort]) -> None:
    """Reserve ports that lead to sandboxes which stand; one that is not free leads there all the same."""
    for port in ports:
        try:
            reservations.reserve(port)
        except OSError as error:
            _log.warning("network.port_not_reserved", port=port.host_port, protocol=port.protocol, error=str(error))
