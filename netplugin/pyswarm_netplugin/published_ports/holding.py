"""Takes host ports for sandboxes, and takes them again in the daemon's next life. Blocking."""

from collections.abc import Iterable, Sequence

import structlog

from pyswarm_common.errors import PyswarmError
from pyswarm_netplugin.published_ports.allocation import allocate, random_start
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort
from pyswarm_netplugin.published_ports.reservations import Reservations

_log = structlog.get_logger()


def reserve_free(
    reservations: Reservations, requests: Sequence[PortRequest], taken: Sequence[PublishedPort], sandbox_id: str
) -> tuple[PublishedPort, ...]:
    """Return a reserved port for each request, beside those that others have. Raises PortUnavailable, InvalidArgument."""
    reservations.keep_only(taken)  # what leaves may still hold its ports while its namespace is taken down
    try:
        return allocate(requests, taken, reservations.reserve, random_start(sandbox_id))
    except PyswarmError:
        reservations.keep_only(taken)
        raise


def reserve_again(reservations: Reservations, ports: Iterable[PublishedPort]) -> None:
    """Reserve ports that lead to sandboxes which stand; one that is not free leads there all the same."""
    for port in ports:
        try:
            reservations.reserve(port)
        except OSError as error:
            _log.warning("network.port_not_reserved", port=port.host_port, protocol=port.protocol, error=str(error))
