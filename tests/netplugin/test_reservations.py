"""Sockets that keep other programs off published ports."""

import socket

import pytest

from pyswarm_netplugin.published_ports.records import PublishedPort
from pyswarm_netplugin.published_ports.reservations import Reservations


def free_port() -> int:
    """Return a TCP port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def published(port: int) -> PublishedPort:
    """Return the TCP port of all addresses."""
    return PublishedPort(protocol="tcp", container_port=80, host_port=port)


def test_connections_of_a_former_server_that_linger_do_not_hold_the_port_up() -> None:
    number, reservations = free_port(), Reservations()
    with socket.create_server(("127.0.0.1", number)) as server, socket.create_connection(("127.0.0.1", number)) as client:
        served, _ = server.accept()
        served.close()
        client.recv(1)
    reservations.reserve(published(number))
    assert reservations.holds(published(number))
    reservations.keep_only(())


def test_others_cannot_take_a_reserved_port_and_find_nobody_there() -> None:
    number, reservations = free_port(), Reservations()
    reservations.reserve(published(number))
    again = Reservations()
    with pytest.raises(OSError, match="in use"):
        again.reserve(published(number))
    for address in ("0.0.0.0", "127.0.0.1"):
        with pytest.raises(OSError, match="in use"), socket.create_server((address, number)):
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number))
    reservations.keep_only(())
    with socket.create_server(("0.0.0.0", number)):
        pass


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_a_port_that_another_serves_or_has_bound_is_not_taken(address: str) -> None:
    reservations = Reservations()
    with socket.create_server((address, 0)) as server, pytest.raises(OSError, match="in use"):
        reservations.reserve(published(server.getsockname()[1]))
    with socket.socket() as bound:
        bound.bind((address, 0))
        with pytest.raises(OSError, match="in use"):
            reservations.reserve(published(bound.getsockname()[1]))
