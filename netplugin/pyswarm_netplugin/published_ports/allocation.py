"""Chooses host ports for what sandboxes ask for; pure but for the reservation that it is given."""

import errno
import ipaddress
from collections.abc import Callable, Iterable, Sequence

from pyswarm_common.errors import InvalidArgument, PyswarmError
from pyswarm_netplugin.naming import digest
from pyswarm_netplugin.published_ports.records import ANY_ADDRESS, ANY_IPV6_ADDRESS, PortRequest, PublishedPort

FIRST_RANDOM_PORT, LAST_RANDOM_PORT = 32768, 60999
PROTOCOLS = ("tcp", "udp", "sctp")

Reserve = Callable[[PublishedPort], None]
"""Takes the port for us. Raises OSError when another program has it."""


class PortUnavailable(PyswarmError):
    """A host port is taken."""


def allocate(
    requests: Sequence[PortRequest],
    taken: Iterable[PublishedPort],
    reserve: Reserve,
    start: int = FIRST_RANDOM_PORT,
    ipv6_problem: str = "this host has no IPv6",
) -> tuple[PublishedPort, ...]:
    """Return the ports of each request, reserved: one, or one of IPv4 and then one of IPv6 with the same number.

    `taken` are those of other sandboxes; random ports are looked for from `start` on; `ipv6_problem` says why nothing can be
    published on IPv6 addresses, "" when it can. Raises PortUnavailable, in Docker's words, InvalidArgument. What was reserved
    before that stays so: the caller releases it.
    """
    held = list(taken)
    chosen: list[PublishedPort] = []
    for request in requests:
        chosen += _choose(request, _addresses(request.host_address, ipv6_problem), [*held, *chosen], reserve, start)
    return tuple(chosen)


def _addresses(asked: str, ipv6_problem: str) -> tuple[str, ...]:
    if not asked:
        return (ANY_ADDRESS,) if ipv6_problem else (ANY_ADDRESS, ANY_IPV6_ADDRESS)
    if ":" not in asked:
        return (asked,)
    if ipv6_problem:
        raise InvalidArgument(f"cannot publish on {asked}: {ipv6_problem}")
    try:
        address = ipaddress.IPv6Address(asked)
    except ValueError as error:
        raise InvalidArgument(f"cannot publish on {asked}: {error}") from error
    if address.is_link_local or address.scope_id:
        raise InvalidArgument(f"cannot publish on {asked}: what comes to a link-local address must not leave its link")
    return (str(address),)


def random_start(sandbox_id: str) -> int:
    """Return where to look for a free port first: elsewhere for each sandbox, so that ports are not reused at once."""
    span = LAST_RANDOM_PORT - FIRST_RANDOM_PORT + 1
    return FIRST_RANDOM_PORT + int(digest(sandbox_id), 16) % span


def _choose(
    request: PortRequest, addresses: Sequence[str], held: list[PublishedPort], reserve: Reserve, start: int
) -> list[PublishedPort]:
    if request.protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid proto: {request.protocol}")
    complaint = ""
    for number in _candidates(request, start):
        ports = [
            PublishedPort(protocol=request.protocol, container_port=request.container_port, host_address=address, host_port=number)
            for address in addresses
        ]
        complaint = next(filter(None, (_complaint(port, held, reserve) for port in ports)), "")
        if not complaint:
            return ports
    raise PortUnavailable(complaint)


def _complaint(port: PublishedPort, held: list[PublishedPort], reserve: Reserve) -> str:
    if any(port.overlaps(other) for other in held):
        return f"Bind for {port.shown} failed: port is already allocated"
    try:
        reserve(port)
    except OSError as error:
        return _words(port, error)
    return ""


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
    return f"Error starting userland proxy: listen {port.protocol}{6 if port.is_ipv6 else 4} {port.shown}: {reason}"
