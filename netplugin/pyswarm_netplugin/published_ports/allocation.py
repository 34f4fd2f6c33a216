"""Chooses host ports for what sandboxes ask for; pure but for the reservation that it is given."""

import errno
from collections.abc import Callable, Iterable, Sequence

from pyswarm_common.errors import InvalidArgument, PyswarmError
from pyswarm_netplugin.naming import digest
from pyswarm_netplugin.published_ports.records import ANY_ADDRESS, PortRequest, PublishedPort

FIRST_RANDOM_PORT, LAST_RANDOM_PORT = 32768, 60999
PROTOCOLS = ("tcp", "udp", "sctp")

Reserve = Callable[[PublishedPort], None]
"""Takes the port for us. Raises OSError when another program has it."""


class PortUnavailable(PyswarmError):
    """A host port is taken."""


def allocate(
    requests: Sequence[PortRequest], taken: Iterable[PublishedPort], reserve: Reserve, start: int = FIRST_RANDOM_PORT
) -> tuple[PublishedPort, ...]:
    """Return a port for each request, reserved. `taken` are those of other sandboxes; random ports are looked for from `start` on.

    Raises PortUnavailable, in Docker's words, InvalidArgument. What was reserved before that stays so: the caller releases it.
    """
    held = list(taken)
    chosen: list[PublishedPort] = []
    for request in requests:
        port = _choose(request, [*held, *chosen], reserve, start)
        chosen.append(port)
    return tuple(chosen)


def random_start(sandbox_id: str) -> int:
    """Return where to look for a free port first: elsewhere for each sandbox, so that ports are not reused at once."""
    span = LAST_RANDOM_PORT - FIRST_RANDOM_PORT + 1
    return FIRST_RANDOM_PORT + int(digest(sandbox_id), 16) % span


def _choose(request: PortRequest, held: list[PublishedPort], reserve: Reserve, start: int) -> PublishedPort:
    if ":" in request.host_address:
        raise InvalidArgument(f"cannot publish on {request.host_address}: ports are published on IPv4 addresses only")
    if request.protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid proto: {request.protocol}")
    complaint = ""
    for number in _candidates(request, start):
        port = PublishedPort(
            protocol=request.protocol,
            container_port=request.container_port,
            host_address=request.host_address or ANY_ADDRESS,
            host_port=number,
        )
        if any(port.overlaps(other) for other in held):
            complaint = f"Bind for {port.host_address}:{number} failed: port is already allocated"
            continue
        try:
            reserve(port)
        except OSError as error:
            complaint = _words(port, error)
            continue
        return port
    raise PortUnavailable(complaint)


def _candidates(request: PortRequest, start: int) -> Iterable[int]:
    if request.first_host_port:
        return range(request.first_host_port, max(request.first_host_port, request.last_host_port) + 1)
    start = start if FIRST_RANDOM_PORT <= start <= LAST_RANDOM_PORT else FIRST_RANDOM_PORT
    return (*range(start, LAST_RANDOM_PORT + 1), *range(FIRST_RANDOM_PORT, start))


def _words(port: PublishedPort, error: OSError) -> str:
    reason = {
        errno.EADDRINUSE: "bind: address already in use",
        errno.EADDRNOTAVAIL: "bind: cannot assign requested address",
        errno.EACCES: "bind: permission denied",
    }.get(error.errno or 0, str(error))
    return f"Error starting userland proxy: listen {port.protocol}4 {port.host_address}:{port.host_port}: {reason}"
